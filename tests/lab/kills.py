"""Kill a process of petal-node at a random moment, run it again, and verify that no user notices.

One round: OnNodeUpdated's hook or a command requests a new release; at a moment drawn from the seed a process
(the hook, the worker, one of Spack's processes) or the whole head node gets SIGKILL; then the request is repeated.
During the round a user on a compute node loads the modules of the current release and runs their programs, which
must all print the same number.
"""

from __future__ import annotations

import json
import random
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Callable

from tests.lab import release_stack
from tests.lab.cluster import PHASES, Lab, Result
from tests.lab.demo import publish
from tests.lab.engine import LabError, until
from tests.lab.stack import Bucket

TARGETS = ("hook", "worker", "spack", "container")
STARTS = ("hook", "bootstrap")
ATTEMPTS = 3
CONVERGED_SECONDS = 180.0
QUIET_SECONDS = 60.0
LOAD = f"module load hello {' '.join(release_stack.NAMES)}"
SAY = " && ".join(["hello", *release_stack.NAMES])
# Runs as a user on a compute node until the file is removed; each look is a new login shell. Without the pause the
# looks alone keep a core busy.
ANSWERS = len(release_stack.NAMES) + 1  # one line per program
WATCH = f"""
rm -f /tmp/watch.*; : >/tmp/watch.failed; : >/tmp/watch.looks; : >/tmp/watch
while [ -e /tmp/watch ]; do
    said=$(bash -lc '{LOAD} && {SAY}' 2>&1)
    if [ "$(echo "$said" | sort -u | wc -l)" = 1 ] && [ "$(echo "$said" | wc -l)" = {ANSWERS} ]; then
        echo "$said" | head -n 1 >>/tmp/watch.looks
    else
        echo "$said" >>/tmp/watch.failed
    fi
    sleep 0.2
done
"""
# $1 = kind of process; prints the pid of the killed process, or nothing if no such process runs at this moment.
KILL = r"""
import os, random, signal, sys
what, seed = sys.argv[1], int(sys.argv[2])
marks = {"hook": ("hook updated", "on_node_updated"), "worker": ("worker --event", "petal-node bootstrap"),
         "spack": ("bin/spack",)}[what]
def read(pid, name):
    try:
        return open(f"/proc/{pid}/{name}", "rb").read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        return ""
found = []
for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
    if pid != os.getpid() and any(mark in read(pid, "cmdline") for mark in marks):
        if not any(shell in read(pid, "cmdline") for shell in ("phase.py", "timeout -k")):
            found.append(pid)
if found:
    pid = random.Random(seed).choice(found)
    os.kill(pid, signal.SIGKILL)
    print(pid, f"{found.index(pid) + 1} of {len(found)}")
"""
# Prints leftovers: processes with a run's mark, held locks, incomplete prefixes.
LEFT = r"""
import fcntl, glob, os, sys
for pid in (name for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid())):
    try:
        environment = open(f"/proc/{pid}/environ", "rb").read()
        command = open(f"/proc/{pid}/cmdline", "rb").read().replace(b"\0", b" ").decode("utf-8", "replace")
    except OSError:
        continue
    if b"PETAL_RUN_ID=" in environment or "petal-node" in command:
        print("process", pid, command[:150])
for path in ("/shared/petal/lock/stack.lock", "/var/lib/petal-node/node.lock"):
    if os.path.exists(path):
        with open(path, "r+") as stream:
            try:
                fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print("lock", path)
for path in glob.glob("/opt/petal/store/**/.*.part", recursive=True):
    print("part", path)
"""


@dataclass(frozen=True)
class Round:
    """The decisions of one seed and the result of its round."""

    seed: int
    number: int
    start: str
    target: str
    moment: float
    killed: str
    step: str
    recovered: float
    looks: int
    troubles: tuple[str, ...]


class KilledInstalls:
    """A lab with a head node that installs and a compute node with a user."""

    def __init__(self, lab: Lab) -> None:
        """Start a new lab and install two releases without a kill; moments are drawn from the time of the second."""
        self.lab = lab
        lab.fresh()
        bucket = Bucket(lab)
        self._section = release_stack.spack_section(lab, bucket)
        bucket.send()
        self.number = 1
        self._publish()
        for result in lab.boot("head", PHASES[:4]):
            result.check()
        self._wait_converged()
        for result in lab.boot("compute-1", PHASES[:4]):
            result.check()
        self.number += 1
        self._publish()
        started = time.monotonic()
        self._request_release("hook").check()
        self._wait_converged()
        self.seconds = time.monotonic() - started

    def _publish(self) -> None:
        bucket = Bucket(self.lab)
        config = release_stack.config(bucket, self._section, self.number)
        bucket.send()
        publish(self.lab, config)

    @contextmanager
    def watched(self) -> Iterator[Callable[[], tuple[int, str]]]:
        """Run the user's loop; yield a function that returns the number of looks and the failures."""
        with ThreadPoolExecutor() as pool:
            watch = pool.submit(self.lab.exec, "compute-1", ("sh", "-c", WATCH), user="ec2-user", timeout=86400)
            until("the user looks", lambda: self._looks()[0] > 0, 30)
            try:
                yield self._looks
            finally:
                self.lab.exec("compute-1", ("rm", "-f", "/tmp/watch"))
                watch.result()

    def _looks(self) -> tuple[int, str]:
        count = self.lab.exec("compute-1", ("sh", "-c", "wc -l </tmp/watch.looks")).stdout.strip()
        return int(count or 0), self.lab.exec("compute-1", ("cat", "/tmp/watch.failed")).stdout

    def kill(self, seed: int, looks: Callable[[], tuple[int, str]]) -> Round:
        """Run one round; repeat it at an earlier moment if the install had ended before the kill."""
        for attempt in range(ATTEMPTS):
            result = self.round(seed, looks, 0.5**attempt)
            if result.killed or result.troubles:
                break
        return result

    def round(self, seed: int, looks: Callable[[], tuple[int, str]], part: float = 1.0) -> Round:
        """Request the next release, kill, repeat the request, and verify the result.

        Args:
            part: fraction of the install time from which the moment is drawn.
        """
        chance = random.Random(seed)
        target = chance.choice(TARGETS)
        start = "hook" if target == "hook" else chance.choice(STARTS)
        moment = chance.uniform(0, self.seconds * part)
        before, _ = looks()
        self.number += 1
        self._publish()
        with ThreadPoolExecutor() as pool:
            running = pool.submit(self._request_release, start)
            killed = self._kill(target, seed, moment, running)
            step = self._step()
            begun = time.monotonic()
            if target == "container":
                self._power_on()
            running.result()
        troubles = self._go_on(start, target)
        recovered = time.monotonic() - begun
        troubles += self._leftovers()
        after, failed = looks()
        if failed:
            troubles.append(f"a user saw: {failed[:300]}")
        return Round(
            seed, self.number, start, target, moment, killed, step, recovered, after - before, tuple(troubles)
        )  # fmt: skip

    def _request_release(self, start: str) -> Result:
        """Request the release by the hook, as an update of the cluster does, or by a command."""
        if start == "hook":
            return self.lab.phase("head", "updated")
        argv = ("petal-node", "bootstrap", "--config", "s3://petal/petal-node/petal.yaml")
        return self.lab.exec("head", argv, env={"AWS_ENDPOINT_URL": "http://s3:5000"})

    def _kill(self, target: str, seed: int, moment: float, running: Future[Result]) -> str:
        """Kill at the moment, or later as soon as such a process runs; return an empty string if it was too late."""
        deadline = time.monotonic() + moment
        until("the moment", lambda: time.monotonic() >= deadline, moment + 1)
        if target == "container":
            subprocess.run(
                ["docker", "kill", "-s", "KILL", self.lab.container("head")], check=True, capture_output=True
            )
            return "the head node"
        while True:
            found = self.lab.exec("head", ("python3", "-", target, str(seed)), stdin=KILL.encode()).check().stdout
            if found or (running.done() and (target == "hook" or not self._busy())):
                return found.strip()

    def _busy(self) -> bool:
        return "worker" in self.lab.exec("head", ("ps", "ax", "-o", "args")).stdout

    def _step(self) -> str:
        """The last step of the record on shared storage, read on compute-1 because the head node may be dead."""
        record = json.loads(self.lab.exec("compute-1", ("cat", "/shared/petal/state/stack.json")).check().stdout)
        return str(record["steps"][-1]["name"]) if record["finished"] is None else "before the lock"

    def _power_on(self) -> None:
        subprocess.run(["docker", "start", self.lab.container("head")], check=True, capture_output=True)
        self.lab.wait_systemd("head")

    def _go_on(self, start: str, target: str) -> list[str]:
        """Repeat the request; a hook's request on a node that died goes on automatically."""
        troubles = []
        if not (target == "container" and start == "hook" and self._is_known()):
            troubles += _trouble(self._request_release(start))
        try:
            self._wait_converged()
        except LabError as error:
            troubles.append(str(error))
        return troubles

    def _is_known(self) -> bool:
        """Return whether the hook had already recorded its request on the node."""
        kept = json.loads(self.lab.read("head", "/var/lib/petal-node/request.json"))
        return bool(kept["config"]["packages"][0]["version"] == str(self.number))

    def _wait_converged(self) -> None:
        until(f"release {self.number} is there", self._converged, CONVERGED_SECONDS)

    def _converged(self) -> bool:
        status = self._status()
        desired = status.get("desired")
        if not desired or status["current"] != desired["release"]:
            return False
        shell = self.lab.exec("head", ("bash", "-lc", f"{LOAD} && {SAY}"), user="ec2-user")
        return shell.stdout.split() == [str(self.number)] * ANSWERS

    def _status(self) -> dict[str, Any]:
        answer = self.lab.exec("head", ("petal-node", "status", "--json"))
        data: dict[str, Any] | None = json.loads(answer.stdout)["data"] if answer.stdout else None
        return data or {}

    def _leftovers(self) -> list[str]:
        """Return leftovers after everything has ended."""
        left: list[str] = []

        def nothing() -> bool:
            left[:] = self.lab.exec("head", ("python3", "-"), stdin=LEFT.encode()).check().stdout.splitlines()
            return not left

        try:
            until("nothing is left", nothing, QUIET_SECONDS)
        except LabError:
            return [f"left: {line}" for line in left]
        return []


def _trouble(result: Result) -> list[str]:
    return (
        [] if result.ok else [f"{result.what}: exit {result.returncode}: {result.stdout[-500:]}{result.stderr[-500:]}"]
    )
