"""The machine and its nodes for the tests: ``machine.head.run(...)``, ``machine.client(1).run(...)``."""

from __future__ import annotations

import itertools
import json
import shutil
import socket
import subprocess
import tempfile
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.lab.engine import LabError, until

from . import image, kernel

if TYPE_CHECKING:
    from typing_extensions import Self

BOOT_SECONDS = 240.0
ANSWER_SECONDS = 30.0
LEASE = 10.0
POLL_SECONDS = 0.2
MOUNT = ("mount", "-t", "nfs4", "-o", "vers=4.2,hard,noatime,_netdev", "head:/srv/shared", "/shared")


@dataclass(frozen=True)
class Done:
    """A command that has ended, or was killed at its deadline (``code`` is None). Seconds are those of the machine."""

    what: str
    code: int | None
    output: str
    seconds: float

    def ok(self) -> Done:
        """Return itself; fail if the exit code is not 0."""
        if self.code != 0:
            raise LabError(f"{self.what}: exit {self.code} after {self.seconds:.1f} s\n{self.output[-4000:]}")
        return self

    def json(self) -> Any:
        """The output as JSON; petal-node's --json prints one line."""
        try:
            return json.loads(self.output[self.output.index("{") :])
        except ValueError as error:
            raise LabError(f"{self.what}: exit {self.code}, no JSON\n{self.output[-4000:]}") from error


class Running:
    """A command that runs in the background of the test."""

    def __init__(self, what: str, seconds: float, answer: Future[dict[str, Any]]) -> None:
        self.what = what
        self._seconds = seconds
        self._answer = answer

    @property
    def ended(self) -> bool:
        return self._answer.done()

    def result(self) -> Done:
        """Wait for its end, until shortly after its deadline."""
        try:
            raw = self._answer.result(self._seconds + ANSWER_SECONDS)
        except NoAnswer as error:
            raise LabError(f"{self.what}: the machine did not answer") from error
        return Done(self.what, raw["code"], raw["output"], raw["seconds"])


class Node:
    """One node of the cluster in the machine (``name`` None: the machine itself)."""

    def __init__(self, machine: Machine, name: str | None) -> None:
        self._machine = machine
        self.name = name

    def begin(self, *argv: str, seconds: float = 60) -> Running:
        """Start a command; it is killed after ``seconds``."""
        return self._machine.ask(self.name, argv, seconds)

    def run(self, *argv: str, seconds: float = 60) -> Done:
        return self.begin(*argv, seconds=seconds).result()

    def sh(self, script: str, *argv: str, seconds: float = 60) -> Done:
        """Run a shell script with arguments."""
        return self.run("sh", "-c", script, "sh", *argv, seconds=seconds)

    def read(self, path: str) -> str:
        return self.run("cat", path).ok().output

    def write(self, path: str, text: str) -> None:
        self.sh('mkdir -p "$(dirname "$1")"; printf %s "$2" >"$1.part"; mv "$1.part" "$1"', path, text).ok()

    def petal(self, *argv: str, seconds: float = 120) -> Done:
        """Run the built petal-node."""
        return self.run("/lab/petal-node", *argv, seconds=seconds)

    def until(self, what: str, script: str, seconds: float = 60) -> None:
        """Wait for a shell condition. The node polls itself, because each command from here starts a process."""
        done = self.sh(f"until {{ {script}; }} >/dev/null 2>&1; do sleep {POLL_SECONDS}; done", seconds=seconds)
        if done.code != 0:
            raise LabError(f"{self.name}: not within {seconds:.0f} s: {what}")

    def unplug(self) -> None:
        """Set the node's link down: all packets are lost without an error."""
        assert self.name is not None
        self._machine.host.run("ip", "link", "set", self.name, "down").ok()

    def plug(self) -> None:
        assert self.name is not None
        self._machine.host.run("ip", "link", "set", self.name, "up").ok()


class Machine:
    """One kernel: booted on enter, killed with all its processes on exit."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._ids = itertools.count(1)
        self._waiting: dict[int, Future[dict[str, Any]]] = {}
        self._sending = threading.Lock()
        self._booted = threading.Event()
        self.host = Node(self, None)
        self.head = Node(self, "head")

    def client(self, number: int) -> Node:
        """Clients 1 and 2 have mounted the head node's storage like ParallelCluster; client 3 has no mount."""
        return Node(self, f"client{number}")

    @property
    def nodes(self) -> list[Node]:
        return [self.head, *(self.client(number) for number in (1, 2, 3))]

    def __enter__(self) -> Self:
        self._scratch = Path(tempfile.mkdtemp(prefix="petal-nfs-"))
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = getattr(self, "_process", None)
        if process is not None:
            process.kill()
            process.wait()
        if hasattr(self, "_listener"):
            self._listener.join()  # the process ends after the channel is closed
            self._socket.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _start(self) -> None:
        initrd = image.write_initrd(self._archive, self._scratch)
        self._socket, port = socket.socketpair()
        argv = [
            # Deadlines in the machine are those of real nodes: other processes here must not slow it down.
            *("nice", "-n", "-10", "setpriv", "--pdeathsig", "KILL"),
            *kernel.chosen().argv(image.place() / "kernel", initrd, port.fileno()),
        ]
        with port, (self._scratch / "console").open("wb") as console:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, pass_fds=[port.fileno()]
            )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        until("the machine has booted", lambda: self._alive() and self._booted.is_set(), BOOT_SECONDS)
        for node in self.nodes:
            self._wait_for_systemd(node)
        for number in (1, 2):
            self.client(number).run(*MOUNT).ok()

    @staticmethod
    def _wait_for_systemd(node: Node) -> None:
        """Start a new command for each poll: an older one is outside of the node's new root."""
        running = "systemctl is-system-running | grep -qx running"
        until(f"systemd on {node.name}", lambda: node.sh(running).code == 0, BOOT_SECONDS)

    def _alive(self) -> bool:
        if self._process.poll() is None:
            return True
        text = (self._scratch / "console").read_text(errors="replace")
        raise LabError(f"the machine went down:\n{text[-4000:]}")

    def ask(self, node: str | None, argv: tuple[str, ...], seconds: float) -> Running:
        number = next(self._ids)
        answer: Future[dict[str, Any]] = Future()
        self._waiting[number] = answer
        request = {"id": number, "node": node, "argv": list(argv), "seconds": seconds}
        with self._sending:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        return Running(f"{node or 'machine'}: {' '.join(argv)}", seconds, answer)

    def _listen(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                raw = json.loads(line)
                if raw:
                    self._waiting.pop(raw["id"]).set_result(raw)
                else:
                    self._booted.set()
        for answer in self._waiting.values():
            answer.set_exception(LabError("the machine went down"))
