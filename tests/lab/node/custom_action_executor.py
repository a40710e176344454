#!/usr/bin/env python3
"""Fetch and run a cluster's custom actions on this node.

Our implementation of the contract of ParallelCluster 3.16's custom_action_executor.py (cookbook, environment part):
which script, how it is fetched, its name, its environment, its streams, and the results of a failure.
Left out: the 5 s that it waits for the CloudWatch agent after a failure, and the shutdown of the node.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import importlib
import json
import logging
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlparse

EVENTS = {"preinstall": "OnNodeStart", "postinstall": "OnNodeConfigured", "postupdate": "OnNodeUpdated"}
TEMPORARY = "/opt/parallelcluster/tmp"
ERROR_FILE = Path("/var/log/parallelcluster/bootstrap_error_msg")
log = logging.getLogger("custom_action_executor")


class Script(NamedTuple):
    """One step of an event."""

    url: str
    args: list[str]


class StepFailure(Exception):
    """A step could not be fetched or failed."""

    def __init__(self, stage: str, step: int, why: str, detail: dict[str, object]) -> None:
        """Keep what the event file needs."""
        super().__init__(why)
        self.stage, self.step, self.detail = stage, step, detail

    def message(self, event: str) -> str:
        """Return the fixed text for users."""
        verb = {"downloading": "download", "executing": "execute"}[self.stage]
        return f"Failed to {verb} {event} script {self.step}{self}"


def section(config: Any, cluster: dict[str, Any]) -> Any:
    """Return this node's section of the cluster configuration; KeyError if it is missing."""
    kind = cluster["node_type"]
    if kind == "HeadNode":
        return config["HeadNode"]
    if kind == "ComputeFleet":
        items, name = config["Scheduling"]["SlurmQueues"], cluster["scheduler_queue_name"]
    else:
        items, name = config["LoginNodes"]["Pools"], cluster["pool_name"]
    return next(item for item in items if item["Name"] == name)


def scripts(config: Any, cluster: dict[str, Any], event: str) -> list[Script]:
    """Return the steps of an event. A missing or different event silently gives no steps, as in ParallelCluster."""
    try:
        action = section(config, cluster)["CustomActions"][EVENTS[event]]
        steps = action.get("Sequence") or [action]
        return [Script(step["Script"], list(step.get("Args") or [])) for step in steps]
    except (KeyError, TypeError, AttributeError, StopIteration):
        return []


def environment(config: Any, cluster: dict[str, Any]) -> dict[str, str]:
    """Return the caller's environment and the cfn_* values: text that bash could read."""
    found = dict(os.environ)
    for event in EVENTS:
        steps = scripts(config, cluster, event)
        found["cfn_" + event] = shlex.quote(steps[0].url) if steps else ""
        found[f"cfn_{event}_args"] = "(" + " ".join(map(shlex.quote, steps[0].args if steps else [])) + ")"
    return found


def download(url: str, region: str, target: str) -> None:
    """Fetch one script: S3 with the cookbook's own boto3, https with requests, nothing else."""
    parts = urlparse(url)
    if parts.scheme == "s3":
        exceptions = importlib.import_module("botocore.exceptions")
        resource = importlib.import_module("boto3").resource("s3", region_name=region)
        try:
            resource.Bucket(parts.netloc).download_file(parts.path.lstrip("/"), target)
        except (exceptions.NoCredentialsError, exceptions.ClientError) as error:
            raise OSError(str(error)) from error
    elif parts.scheme == "https":
        answer = importlib.import_module("requests").get(url, timeout=60)
        if answer.status_code != 200:
            raise OSError(f"HTTP {answer.status_code}")
        Path(target).write_bytes(answer.content)
    else:
        raise OSError(f"scheme not supported: {parts.scheme}")


def fetch(step: int, script: Script, region: str) -> str:
    """Return the path of a fetched script: a random name without an extension, executable, Unix line ends."""
    handle, path = tempfile.mkstemp(dir=TEMPORARY)
    os.close(handle)
    try:
        download(script.url, region, path)
    except OSError as error:
        raise StepFailure("downloading", step, f" {script.url}, {error}", {"error": str(error)}) from error
    log.info("%s has SHA-256 %s", script.url, hashlib.sha256(Path(path).read_bytes()).hexdigest())
    Path(path).chmod(0o755)
    subprocess.run(["dos2unix", path], check=True, stderr=subprocess.PIPE)
    return path


def execute(step: int, script: Script, path: str, env: dict[str, str]) -> None:
    """Run one script: no shell, stderr to a pipe and decoded, stdout inherited; unlink on success."""
    started = time.monotonic()
    try:
        subprocess.run([path, *script.args], check=True, stderr=subprocess.PIPE, text=True, env=env)
    except subprocess.CalledProcessError as error:
        detail = {"exit_code": error.returncode, "stderr": error.stderr}
        raise StepFailure("executing", step, f", return code: {error.returncode}.", detail) from error
    log.info("Script %d took %.3f s", step, time.monotonic() - started)
    Path(path).unlink()


def report(failure: StepFailure, event: str, cluster: dict[str, Any]) -> NoReturn:
    """Write the line for CloudFormation (head node) or the event for CloudWatch (other nodes), and exit 1."""
    message = failure.message(EVENTS[event])
    log.error("%s", message)
    if cluster["node_type"] == "HeadNode":
        text = message + " Please check the head node's logs: /var/log/cfn-init.log.\n"
    else:
        text = (
            json.dumps(
                {
                    "datetime": dt.datetime.now(dt.timezone.utc).isoformat(timespec="milliseconds"),
                    "version": 0,
                    "scheduler": "slurm",
                    "cluster-name": cluster["cluster_name"],
                    "node-role": cluster["node_type"],
                    "component": "custom-action",
                    "level": "ERROR",
                    "instance-id": "",
                    "compute": {"name": socket.gethostname()},
                    "event-type": "custom-action-error",
                    "message": message,
                    "detail": {
                        "action": EVENTS[event],
                        "step": failure.step,
                        "stage": failure.stage,
                        "error": failure.detail,
                    },
                }
            )
            + "\n"
        )
    ERROR_FILE.parent.mkdir(parents=True, exist_ok=True)
    ERROR_FILE.write_text(text, encoding="utf-8")
    sys.exit(1)


def main() -> int:
    """Fetch all scripts of the event, then run them in order."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", "--cluster-configuration", required=True)
    events = parser.add_mutually_exclusive_group(required=True)
    for name in EVENTS:
        events.add_argument("-" + name, dest="event", action="store_const", const=name)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    cluster = json.loads(Path("/etc/chef/dna.json").read_text(encoding="utf-8"))["cluster"]
    text = Path(options.cluster_configuration).read_text(encoding="utf-8")
    config = importlib.import_module("yaml").safe_load(text)
    steps = scripts(config, cluster, options.event)
    log.info("%s: %s", EVENTS[options.event], steps or "no script")
    try:
        paths = [fetch(number, script, cluster["region"]) for number, script in enumerate(steps, 1)]
        for number, (script, path) in enumerate(zip(steps, paths), 1):
            execute(number, script, path, environment(config, cluster))
    except StepFailure as failure:
        report(failure, options.event, cluster)
    return 0


if __name__ == "__main__":
    sys.exit(main())
