"""The lab's connections to its nodes: one agent process per concurrent command, reused for later commands."""

from __future__ import annotations

import base64
import json
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.lab.engine import LabError

CODE = (Path(__file__).parent / "node" / "agent.py").read_text(encoding="utf-8")
GONE = 137  # exit code of ``docker exec`` for a command whose container stopped


class Agent:
    """One agent process in one node."""

    def __init__(self, container: str) -> None:
        """Start the process; it ends when it is closed or when the node stops."""
        argv = ["docker", "exec", "-i", container, "python3", "-u", "-c", CODE]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self._left = b""

    @property
    def alive(self) -> bool:
        """False after the node has stopped."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], timeout: float) -> dict[str, Any] | None:
        """Return the answer, or None if the node stopped. Raise ``TimeoutError`` if no answer comes in time."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._line(timeout)
        except BrokenPipeError:
            line = b""
        try:
            answer: dict[str, Any] | None = json.loads(line) if line else None
        except ValueError as error:
            raise LabError(f"invalid answer of an agent: {line.decode(errors='replace')}") from error
        return answer

    def _line(self, timeout: float) -> bytes:
        stream = self._process.stdout
        assert stream is not None
        deadline = time.monotonic() + timeout
        with selectors.DefaultSelector() as selector:
            selector.register(stream, selectors.EVENT_READ)
            while b"\n" not in self._left:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimeoutError
                data = os.read(stream.fileno(), 1 << 20)
                if not data:
                    return b""
                self._left += data
        line, _, self._left = self._left.partition(b"\n")
        return line

    def close(self) -> None:
        """End the agent; a command that it runs goes on in the node."""
        self._process.kill()
        self._process.communicate()


class Agents:
    """The agents of a lab. A command takes a free one, or starts a new one if all are busy."""

    def __init__(self) -> None:
        """Start without any agent."""
        self._free: dict[str, list[Agent]] = {}

    def run(
        self,
        container: str,
        argv: Sequence[str],
        *,
        user: str,
        env: Mapping[str, str],
        cwd: str | None,
        stdin: bytes,
        timeout: float,
    ) -> tuple[int, bytes, bytes]:
        """Exit code, stdout and stderr of a command."""
        agent = self._take(container)
        request = {
            "argv": list(argv), "user": user, "env": dict(env), "cwd": cwd, "stdin": base64.b64encode(stdin).decode()
        }  # fmt: skip
        try:
            answer = agent.ask(request, timeout)
        except BaseException:
            agent.close()
            raise
        if answer is None:
            agent.close()
            return GONE, b"", b"the node stopped"
        self._free.setdefault(container, []).append(agent)
        return answer["returncode"], base64.b64decode(answer["stdout"]), base64.b64decode(answer["stderr"])

    def _take(self, container: str) -> Agent:
        free = self._free.get(container, [])
        while free:
            agent = free.pop()
            if agent.alive:
                return agent
            agent.close()
        return Agent(container)

    def close(self, container: str | None = None) -> None:
        """End the agents of one node or of all nodes, before the node stops."""
        for name in [container] if container else list(self._free):
            for agent in self._free.pop(name, []):
                agent.close()
