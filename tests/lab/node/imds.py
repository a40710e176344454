#!/usr/bin/env python3
"""A lab node's instance metadata service: 169.254.169.254:80, IMDSv2 only.

ParallelCluster requires IMDSv2 since 3.7 (config default ``ImdsSupport: v2.0``). Instance tags are in the
metadata only if a launch template allows it, which ParallelCluster's do not; the lab serves them so that
the fallback can be tested, and omits them if /etc/lab/imds-no-tags exists.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
import socketserver
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

ADDRESS = ("169.254.169.254", 80)
REGION = "us-east-1"
ROLE = "petal-lab-node"
# The values of the EC2 tag differ from dna.json (pcluster templates: get_default_instance_tags).
TAGS = {"HeadNode": "HeadNode", "LoginNode": "LoginNode", "ComputeFleet": "Compute"}
TYPES = {"HeadNode": "c6a.large", "LoginNode": "c6a.large", "ComputeFleet": "c6a.xlarge"}


def node() -> dict[str, str]:
    """Return the lab and role of this node (written by PID 1)."""
    with Path("/etc/lab/node.json").open(encoding="utf-8") as handle:
        known: dict[str, str] = json.load(handle)
    return known


def metadata() -> dict[str, str]:
    """Return path below /latest/ -> body."""
    me, host = node(), socket.gethostname()
    instance = "i-" + hashlib.sha256(host.encode()).hexdigest()[:17]
    kind = TYPES.get(me["role"], "c6a.large")
    address = socket.gethostbyname(host)
    keys = {
        "Code": "Success",
        "Type": "AWS-HMAC",
        "LastUpdated": "2026-01-01T00:00:00Z",
        "AccessKeyId": "testing",
        "SecretAccessKey": "testing",
        "Token": "testing",
        "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600)),
    }
    document = {
        "accountId": "123456789012",
        "architecture": os.uname().machine.replace("aarch64", "arm64"),
        "availabilityZone": REGION + "a",
        "imageId": "ami-0123456789abcdef0",
        "instanceId": instance,
        "instanceType": kind,
        "privateIp": address,
        "region": REGION,
        "version": "2017-09-30",
    }
    found = {
        "meta-data/instance-id": instance,
        "meta-data/instance-type": kind,
        "meta-data/ami-id": "ami-0123456789abcdef0",
        "meta-data/local-hostname": host,
        "meta-data/hostname": host,
        "meta-data/local-ipv4": address,
        "meta-data/placement/region": REGION,
        "meta-data/placement/availability-zone": REGION + "a",
        "meta-data/iam/security-credentials/": ROLE,
        "meta-data/iam/security-credentials/" + ROLE: json.dumps(keys),
        "dynamic/instance-identity/document": json.dumps(document),
    }
    if not Path("/etc/lab/imds-no-tags").exists():
        tags = {"parallelcluster:node-type": TAGS.get(me["role"], "")}
        tags["parallelcluster:cluster-name"] = me["lab"]
        found.update({"meta-data/tags/instance/" + key: value for key, value in tags.items()})
        found["meta-data/tags/instance/"] = "\n".join(tags)
    return found


class Handler(BaseHTTPRequestHandler):
    """PUT /latest/api/token, then GET with that token; without a token 401, like IMDSv2."""

    tokens: ClassVar[dict[str, float]] = {}

    def answer(self, code: int, body: str = "") -> None:
        """Send one plain-text answer."""
        data = body.encode()
        self.send_response(code)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        """Return a session token."""
        seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not seconds.isdigit() or not 1 <= int(seconds) <= 21600:
            self.answer(400)
            return
        token = secrets.token_urlsafe(32)
        self.tokens[token] = time.monotonic() + int(seconds)
        self.answer(200, token)

    def do_GET(self) -> None:
        """Answer one metadata path."""
        if self.tokens.get(self.headers.get("X-aws-ec2-metadata-token", ""), 0.0) < time.monotonic():
            self.answer(401)
            return
        path = self.path.removeprefix("/latest/")
        known = metadata()
        body = known.get(path, known.get(path + "/"))
        if body is None:
            self.answer(404)
        else:
            self.answer(200, body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class has that name)
        """Keep the journal quiet."""


class Server(ThreadingHTTPServer):
    """The server, without HTTPServer's reverse lookup of its address, which takes 5 s if no resolver answers."""

    def server_bind(self) -> None:
        """Bind, and set the server's name without a lookup."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS


def ready() -> None:
    """Notify systemd (Type=notify) that the server is ready."""
    if "NOTIFY_SOCKET" in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])


if __name__ == "__main__":
    server = Server(ADDRESS, Handler)
    ready()
    server.serve_forever()
