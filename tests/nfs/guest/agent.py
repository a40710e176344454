"""Runs the tests' commands in the namespaces of a node, and answers: one JSON object per line, in any order.

A request has an ``id``, the ``node`` (null: the machine itself), ``argv`` and a timeout in seconds. The
answer has the exit code (null: killed at its deadline) and the output. Output goes through files, so that an
orphaned process does not delay the answer.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
import tty
from pathlib import Path
from typing import Any

NODES = {
    "head": ("10.9.0.1", "head"),
    "client1": ("10.9.0.2", "client"),
    "client2": ("10.9.0.3", "client"),
    "client3": ("10.9.0.4", "client"),
}
NAMESPACES = ["--net", "--uts", "--mount", "--pid", "--ipc", "--cgroup"]
LIMIT = 200_000


def start_node(name: str) -> int:
    """Start a node; return the pid of its first process in the machine."""
    address, role = NODES[name]
    cgroup = Path("/sys/fs/cgroup") / name
    cgroup.mkdir()
    inner = f"read _; exec sh /lab/node.sh {name} {address} {role}"
    script = f"echo $$ >{cgroup}/cgroup.procs; exec unshare {' '.join(NAMESPACES)} --fork sh -c '{inner}'"
    with Path(f"/run/{name}.log").open("wb") as log:
        holder = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=log, stderr=log)
    first = _only_child(holder.pid)
    for argv in (
        ["ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", str(first)],
        ["ip", "link", "set", name, "master", "br0", "up"],
    ):
        subprocess.run(argv, check=True)
    assert holder.stdin is not None
    holder.stdin.write(b"go\n")
    holder.stdin.close()
    return first


def _only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        found = children.read_text().split()
        if found:
            return int(found[0])
        time.sleep(0.02)
    raise RuntimeError(f"process {pid} has no child")


def run(argv: list[str], seconds: float) -> tuple[int | None, str]:
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True, cwd="/"
        )
        code: int | None
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
            os.killpg(process.pid, signal.SIGKILL)
        output.seek(0)
        return code, output.read(LIMIT).decode(errors="replace")


class Agent:
    """The machine's end of the channel."""

    def __init__(self, port: int, nodes: dict[str, int]) -> None:
        self._port = port
        self._nodes = nodes
        self._writing = threading.Lock()

    def serve(self) -> None:
        """Serve until the machine is ended from outside. The first line tells the tests that the agent is ready."""
        self._send(b"{}\n")
        rest = b""
        while True:
            block = os.read(self._port, 65536)
            if not block:
                return
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                threading.Thread(target=self._answer, args=(json.loads(line),), daemon=True).start()

    def _answer(self, request: dict[str, Any]) -> None:
        argv = list(request["argv"])
        if request["node"] is not None:
            first = str(self._nodes[request["node"]])
            argv = ["nsenter", "--target", first, "--all", "--root", "--", *argv]
        started = time.monotonic()
        try:
            code, output = run(argv, request["seconds"])
        except OSError as error:
            code, output = 127, str(error)
        answer = {"id": request["id"], "code": code, "output": output, "seconds": time.monotonic() - started}
        self._send(json.dumps(answer).encode() + b"\n")

    def _send(self, data: bytes) -> None:
        with self._writing:
            while data:
                data = data[os.write(self._port, data) :]


def main() -> None:
    port = os.open("/dev/ttyS0", os.O_RDWR | os.O_NOCTTY)
    tty.setraw(port)
    Agent(port, {name: start_node(name) for name in NODES}).serve()


main()
