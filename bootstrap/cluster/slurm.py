"""The one place that calls Slurm: nodes, queues and jobs as its commands report them, and the jobs that are submitted.

Only this module builds command lines of sinfo, squeue, scontrol, srun, sbatch and scancel. Every function that runs one
raises ProcessFailed or ProcessTimeout if slurmctld does not answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..core.deadlines import COMMAND, POLL
from ..core.errors import AllocationRefused, JobError, PetalError, ProcessFailed
from ..host.log import LOG
from ..host.system import Completed, System, base_env
from .hostlist import folded

# sinfo(1), NODE STATE CODES: a suffix says more than the base state.
FREE = frozenset({"idle", "mixed", "mix", "planned", "plnd"})
UP = FREE | {"allocated", "alloc", "completing", "comp", "reserved", "resv"}
DOWN = frozenset({"down", "error", "fail", "failing"})
JOINING_SUFFIXES = "#*"
POWERED_DOWN_SUFFIXES = "~%!"  # powered down, powering down, about to be powered down
REBOOT_SUFFIXES = "@^"
STATIC = "-st-"  # in the name of a static node, which ParallelCluster starts and keeps
# squeue(1), JOB STATE CODES: a job in one of these states has ended. The processes of a COMPLETING job may still run.
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "REVOKED"})
ENDED |= {"OUT_OF_MEMORY", "BOOT_FAIL", "NODE_FAIL"}
STARTED = frozenset({"RUNNING", "COMPLETING"})
OWNER = "root"  # of all jobs that are submitted here
# srun(1) without an allocation (src/srun/libsrun/allocate.c); any other message comes from a step that began.
REFUSED = ("Unable to allocate resources", "Immediate execution impossible", "Unable to confirm allocation")
# The nodes run other jobs. The words are exact: "Device or resource busy" is the error of a program.
NOT_FREE = ("Requested nodes are busy", "Immediate execution impossible")
# Refusals after which some of the nodes may still be free. Any other refusal concerns all nodes of the request.
SOME_NODES_REFUSED = (*NOT_FREE, "not available")


@dataclass(frozen=True)
class SlurmNode:
    """A node as sinfo shows it. ``state`` has no suffix; ``reason`` is why it is down or drained."""

    name: str
    state: str
    suffix: str
    partition: str
    reason: str = ""

    @property
    def up(self) -> bool:
        """The node runs jobs. Nodes that are busy or planned for a job (suffix ``-``) count."""
        return self.state in UP and self.suffix in ("", "-")

    @property
    def free(self) -> bool:
        """A small job can start there now."""
        return self.up and self.state in FREE

    @property
    def joining(self) -> bool:
        """The node is powering up, has not answered slurmctld yet, or is static and not started yet."""
        on_its_way = any(mark in JOINING_SUFFIXES for mark in self.suffix) or self.state in ("unknown", "unk")
        return on_its_way or (self.powered_down and STATIC in self.name)

    @property
    def powered_down(self) -> bool:
        return any(mark in POWERED_DOWN_SUFFIXES for mark in self.suffix)

    @property
    def condition(self) -> str:
        """One word for why a job can or cannot start there now, followed by Slurm's own state."""
        words = {
            "powered off": self.powered_down,
            "rebooting": any(mark in REBOOT_SUFFIXES for mark in self.suffix),
            "down": self.state in DOWN,
            "joining": self.joining,
            "draining": self.state.startswith("drain"),
            "free": self.free,
            "busy": self.up,
        }
        word = next((word for word, fits in words.items() if fits), "down")
        return f"{word} ({self.state}{self.suffix})"


def find_slurm(system: System) -> str | None:
    """The path of sinfo, or None on a machine without Slurm."""
    return system.which("sinfo")


def nodes(system: System, queue: str | None = None) -> tuple[SlurmNode, ...]:
    """Every node once, with its first partition; or the nodes of one queue."""
    of_queue = [f"--partition={queue}"] if queue else []
    command = ["sinfo", "--noheader", "--Node", *of_queue, "--format=%N|%T|%P|%E"]
    return parse_sinfo(system.run(command, timeout=COMMAND).stdout)


def parse_sinfo(text: str) -> tuple[SlurmNode, ...]:
    """Lines of ``sinfo -h -N -o '%N|%T|%P|%E'``."""
    by_name: dict[str, SlurmNode] = {}
    for name, full, partition, reason in _rows(text, 4):
        state = full.rstrip("*~#!%$@^-+")
        node = SlurmNode(
            name, state.lower(), full[len(state) :], partition.rstrip("*"), "" if reason == "none" else reason
        )
        by_name.setdefault(name, node)
    return tuple(by_name.values())


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """The lines that have so many fields between ``|``; the last field may contain more of them."""
    for line in text.splitlines():
        fields = line.strip().split("|", columns - 1)
        if len(fields) == columns:
            yield fields


class Partition(NamedTuple):
    """The state of a queue (up, down, drain, inact), and its time limit in minutes, None without one."""

    state: str
    minutes: int | None


def partitions(system: System) -> dict[str, Partition]:
    """The queues by name."""
    queues = {}
    shown = system.run(["sinfo", "--noheader", "--format=%R|%a|%l"], timeout=COMMAND).stdout
    for name, state, limit in _rows(shown, 3):  # a queue has one line for each state of its nodes
        days, _, clock = limit.rpartition("-")  # [days-]hours:minutes:seconds, minutes:seconds or infinite
        numbers = [int(part) for part in clock.split(":") if part.isdigit()]
        hours, minutes, _seconds = [0, 0, 0, *numbers][-3:]
        limit_minutes = (int(days or 0) * 24 + hours) * 60 + minutes if numbers else None
        queues[name] = Partition(state.lower(), limit_minutes)
    return queues


def unfolded(system: System, text: str) -> tuple[str, ...]:
    """The names of a hostlist; ProcessFailed also if ``text`` is not one."""
    if "[" not in text:
        return tuple(name for name in text.split(",") if name)
    return tuple(system.run(["scontrol", "show", "hostnames", text], timeout=COMMAND).stdout.split())


def ping(system: System, seconds: float) -> Completed:
    """``scontrol ping``: exits 0 and prints UP if slurmctld answers."""
    return system.run(["scontrol", "ping"], timeout=seconds, ok=None)


def setting(system: System, name: str) -> str | None:
    """A value of slurm.conf as slurmctld uses it; None if it is not set."""
    shown = system.run(["scontrol", "show", "config"], timeout=COMMAND).stdout
    match = re.search(rf"(?m)^{re.escape(name)}\s*=\s*(\S.*?)\s*$", shown)
    return match.group(1) if match else None


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it.

    Args:
        submitted: seconds since the epoch.
        reason: why it is pending or has ended.
    """

    id: str
    user: str
    submitted: float
    state: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def gone(self) -> bool:
        """No process of the job is alive. Processes on a node that Slurm has lost may be."""
        return self.ended and self.state != "NODE_FAIL"

    @property
    def started(self) -> bool:
        return self.state in STARTED

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"job {self.id} is {self.state}{why}"


def jobs(system: System, name: str | None = None) -> tuple[Job, ...]:
    """All jobs in squeue, of all users and queues, those that have ended recently too; or root's jobs of one name.

    ProcessFailed also if a submission time is not a number.
    """
    selection = [f"--user={OWNER}", f"--name={name}"] if name else []
    command = ["squeue", "--noheader", "--all", "--states=all", *selection, "--format=%i|%u|%V|%T|%r"]
    env = {**base_env(), "SLURM_TIME_FORMAT": "%s"}  # squeue(1); the default is local time without its zone
    shown = system.run(command, timeout=COMMAND, env=env).stdout
    try:
        return tuple(
            Job(number, user, float(submitted), state, reason)
            for number, user, submitted, state, reason in _rows(shown, 5)
        )
    except ValueError as error:
        raise ProcessFailed("squeue does not say when a job was submitted", why=str(error)) from error


def submit(
    system: System, script: Path | None, *, name: str, queue: str, minutes: int, output: Path, options: Sequence[str]
) -> str:
    """Submits a job on one node of a queue and returns its id. Slurm never runs the job a second time.

    Args:
        script: the program; None for a job that does nothing.
        minutes: the job's time limit.
        output: a file for the output of the job.
        options: more options of sbatch(1).

    Raises:
        JobError: ``job-not-started``.
    """
    command = ["sbatch", "--parsable", f"--partition={queue}", f"--job-name={name}", "--nodes=1", "--ntasks=1"]
    command += [f"--time={minutes}", "--no-requeue", "--chdir=/", "--export=NIL", f"--output={output}", *options]
    command += [str(script) if script else "--wrap=true"]
    try:
        done = system.run(command, timeout=COMMAND)
    except ProcessFailed as error:
        raise JobError(
            f"Slurm refused the job {name} on queue {queue}",
            why=error.why,
            remedy=f"scontrol show partition {queue}",
            code="job-not-started",
        ) from error
    return done.stdout.strip().partition(";")[0]


def cancel(system: System, name: str) -> None:
    """Cancels root's jobs of that name."""
    system.run(["scancel", f"--user={OWNER}", f"--name={name}"], timeout=COMMAND)


def wait_until_gone(system: System, name: str, seconds: float, *, cancelling: bool) -> bool:
    """Waits until no process of root's jobs of that name can be alive.

    Args:
        cancelling: cancel the jobs, again and again until they are gone.

    Returns:
        False if that was not seen within ``seconds``: Slurm or the job's node does not answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if all(job.gone for job in jobs(system, name)):
                return True
            if cancelling:
                cancel(system, name)
        except PetalError as error:
            LOG.warning("waiting for the end of job %s: %s", name, error)
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)


def srun(
    system: System,
    argv: Sequence[str],
    *,
    name: str,
    nodes: Sequence[str],
    queue: str,
    minutes: int,
    immediate: int,
    mpi: str = "none",
    export: str = "NONE",
    options: Sequence[str] = (),
    user: str | None = None,
) -> Completed:
    """Runs one task of ``argv`` on each of the nodes, in a job of its own.

    Args:
        queue: a partition that all of the nodes are in.
        minutes: the job's time limit.
        immediate: seconds that the job may wait for the nodes.
        mpi, export, options: further options of srun(1).
        user: an ordinary user of the cluster; None runs the job as the caller.

    Returns:
        How srun ended, whatever its exit code.
    """
    command = ["srun", f"--mpi={mpi}", f"--job-name={name}", f"--partition={queue}"]
    command += [f"--nodes={len(nodes)}", f"--ntasks={len(nodes)}", "--ntasks-per-node=1", f"--nodelist={folded(nodes)}"]
    command += [f"--time={minutes}", f"--immediate={immediate}", f"--export={export}", "--chdir=/"]
    command += [*options, *argv]
    return system.run(command, timeout=immediate + 60 * minutes + COMMAND, user=user, ok=None)


def require_step(done: Completed, nodes: Sequence[str]) -> None:
    """If srun failed and no task printed anything: AllocationRefused without an allocation, else ProcessFailed."""
    if done.returncode == 0 or done.stdout.strip():
        return
    if any(words in done.stderr for words in REFUSED):
        what = f"Slurm gave no allocation on {folded(nodes)}"
        raise AllocationRefused(what, why=done.tail(2), remedy=f"sinfo -N -n {folded(nodes)}")
    raise ProcessFailed(f"srun ended with {done.returncode}", why=done.tail(4))


def mpi_plugins(system: System) -> str:
    """The output of ``srun --mpi=list``; older versions of Slurm print it to stderr."""
    done = system.run(["srun", "--mpi=list"], timeout=COMMAND, ok=None)
    return done.stdout + done.stderr
