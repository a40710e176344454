"""What Slurm says and does for us: the nodes' states, and one command on several nodes at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import ProcessFailed
from .system import Completed, System

QUERY_SECONDS = 30.0
# sinfo(1), NODE STATE CODES: a suffix tells what the base state hides.
FREE = frozenset({"idle", "mixed", "mix", "planned", "plnd"})
UP = FREE | {"allocated", "alloc", "completing", "comp", "reserved", "resv"}
JOINING_SUFFIXES = "#*"
POWERED_DOWN_SUFFIXES = "~%"
STATIC = "-st-"  # in the name of a node that ParallelCluster starts by itself and keeps


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
        """It runs jobs: also one that is busy, or planned for a job (suffix ``-``)."""
        return self.state in UP and self.suffix in ("", "-")

    @property
    def free(self) -> bool:
        """A small job can start there now."""
        return self.up and self.state in FREE

    @property
    def joining(self) -> bool:
        """It is on its way: powering up, known to Slurm and not heard of yet, or static and not started yet."""
        on_its_way = any(mark in JOINING_SUFFIXES for mark in self.suffix) or self.state in ("unknown", "unk")
        return on_its_way or (self.powered_down and STATIC in self.name)

    @property
    def powered_down(self) -> bool:
        return any(mark in POWERED_DOWN_SUFFIXES for mark in self.suffix)


def find_slurm(system: System) -> str | None:
    """The path of sinfo, or None on a machine without Slurm."""
    return system.which("sinfo")


def nodes(system: System, queue: str | None = None) -> tuple[SlurmNode, ...]:
    """Every node once, with its first partition; or those of one queue.

    Raises:
        ProcessFailed, ProcessTimeout: slurmctld does not answer.
    """
    only = [f"--partition={queue}"] if queue else []
    done = system.run(["sinfo", "--noheader", "--Node", *only, "--format=%N|%T|%P|%E"], timeout=QUERY_SECONDS)
    return parse_sinfo(done.stdout)


@dataclass(frozen=True)
class Partition:
    """A queue as Slurm has it: ``state`` is up, down, drain or inact; ``minutes`` its time limit, None without one."""

    name: str
    state: str
    minutes: int | None


def partitions(system: System) -> tuple[Partition, ...]:
    """All queues.

    Raises:
        ProcessFailed, ProcessTimeout: slurmctld does not answer.
    """
    done = system.run(["sinfo", "--noheader", "--format=%R|%a|%l"], timeout=QUERY_SECONDS)
    return parse_partitions(done.stdout)


def parse_partitions(text: str) -> tuple[Partition, ...]:
    """Lines of ``sinfo -h -o '%R|%a|%l'``; a queue has one for each state of its nodes."""
    found = {}
    for line in text.splitlines():
        fields = line.strip().split("|")
        if len(fields) == 3:
            found[fields[0]] = Partition(fields[0], fields[1].lower(), _minutes(fields[2]))
    return tuple(found.values())


def _minutes(limit: str) -> int | None:
    """``[days-]hours:minutes:seconds`` or ``minutes:seconds``, cut down to whole minutes; None for ``infinite``."""
    days, _, clock = limit.rpartition("-")
    numbers = [int(part) for part in clock.split(":") if part.isdigit()]
    if not numbers:
        return None
    hours, minutes, _seconds = [0, 0, *numbers][-3:]
    return (int(days or 0) * 24 + hours) * 60 + minutes


def parse_sinfo(text: str) -> tuple[SlurmNode, ...]:
    """Lines of ``sinfo -h -N -o '%N|%T|%P|%E'``."""
    found: dict[str, SlurmNode] = {}
    for line in text.splitlines():
        fields = line.strip().split("|", 3)
        if len(fields) != 4 or fields[0] in found:
            continue
        name, full, partition, reason = fields
        state = full.rstrip("*~#!%$@^-+")
        found[name] = SlurmNode(
            name, state.lower(), full[len(state) :], partition.rstrip("*"), reason if reason != "none" else ""
        )
    return tuple(found.values())


def on_nodes(
    system: System,
    names: Sequence[str],
    argv: Sequence[str],
    *,
    user: str | None,
    seconds: int,
    immediate: int,
) -> Completed:
    """Runs one task of ``argv`` on each of the nodes, in one job.

    Args:
        user: an ordinary user of the cluster; None runs the job as the caller.
        seconds: the job's time limit.
        immediate: how long it may wait for the nodes to be free.

    Raises:
        ProcessFailed: Slurm refused the job.
    """
    minutes = max(1, -(-seconds // 60))
    command = [
        "srun", "--quiet", f"--nodes={len(names)}", f"--nodelist={','.join(names)}", "--ntasks-per-node=1",
        f"--immediate={immediate}", f"--time={minutes}", "--job-name=petal-proof", "--chdir=/", "--export=NONE",
        "--no-kill", "--mpi=none", *argv,
    ]  # fmt: skip
    done = system.run(command, timeout=seconds + immediate + 10, user=user, ok=None)
    if done.returncode != 0 and not done.stdout.strip():
        raise ProcessFailed(f"srun ended with {done.returncode}", why=done.tail(4))
    return done
