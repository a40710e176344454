"""What Slurm says and does for us: the nodes' states, and one command on several nodes at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..core.errors import AllocationRefused, ProcessFailed
from ..host.system import Completed, System

QUERY_SECONDS = 30.0
# sinfo(1), NODE STATE CODES: a suffix tells what the base state hides.
FREE = frozenset({"idle", "mixed", "mix", "planned", "plnd"})
UP = FREE | {"allocated", "alloc", "completing", "comp", "reserved", "resv"}
DOWN = frozenset({"down", "error", "fail", "failing"})
JOINING_SUFFIXES = "#*"
POWERED_DOWN_SUFFIXES = "~%!"  # off, on its way there, and about to be
REBOOT_SUFFIXES = "@^"
# srun(1) without an allocation (src/srun/libsrun/allocate.c); what it says else comes from a step that began.
REFUSED = ("Unable to allocate resources", "Immediate execution impossible", "Unable to confirm allocation")
# Of these a smaller group may be free; whatever else Slurm says is said of every node.
OF_SOME_NODES = ("busy", "Immediate execution impossible", "configuration is not available", "not available")
JOB_MEMORY = "200M"  # of a node: without it a job wants all, where memory is scheduled
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

    @property
    def condition(self) -> str:
        """In one word why a job can or cannot start there now, with Slurm's own state behind it."""
        return f"{self._word} ({self.state}{self.suffix})"

    @property
    def _word(self) -> str:
        words = (
            ("powered off", self.powered_down),
            ("rebooting", any(mark in REBOOT_SUFFIXES for mark in self.suffix)),
            ("down", self.state in DOWN),
            ("joining", self.joining),
            ("draining", self.state.startswith("drain")),
            ("free", self.free),
            ("busy", self.up),
        )
        return next((word for word, fits in words if fits), "down")


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


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts q1-2 before q1-10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdigit() else -1, part) for part in parts]


def folded(names: Iterable[str]) -> str:
    """Many names as Slurm writes them: ``q1-st-c5-[1-3,7],login`` (the hostlist of scontrol(1))."""
    groups: dict[str, list[int]] = {}
    order: dict[str, None] = {}
    for name in sorted(dict.fromkeys(names), key=natural):
        match = re.fullmatch(r"(.*?)(0|[1-9]\d*)", name)
        key = match.group(1) if match else name
        order[key if match else name] = None
        if match:
            groups.setdefault(key, []).append(int(match.group(2)))
    return ",".join(f"{key}{_ranges(groups[key])}" if key in groups else key for key in order)


def _ranges(numbers: list[int]) -> str:
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    text = ",".join("-".join(map(str, run)) for run in runs)
    return text if len(numbers) == 1 else f"[{text}]"


def unfolded(system: System, text: str) -> tuple[str, ...]:
    """The names of a hostlist, as Slurm reads it.

    Raises:
        ProcessFailed, ProcessTimeout: it is none, or Slurm is not here.
    """
    if "[" not in text:
        return tuple(name for name in text.split(",") if name)
    return tuple(system.run(["scontrol", "show", "hostnames", text], timeout=QUERY_SECONDS).stdout.split())


def on_nodes(
    system: System,
    names: Sequence[str],
    argv: Sequence[str],
    *,
    queue: str,
    user: str | None,
    seconds: int,
    immediate: int,
) -> Completed:
    """Runs one task of ``argv`` on each of the nodes, in one job.

    Args:
        queue: the partition that all of them are in.
        user: an ordinary user of the cluster; None runs the job as the caller.
        seconds: the job's time limit.
        immediate: how long it may wait for the nodes to be free.

    Raises:
        AllocationRefused: Slurm gave no allocation, or not in time.
        ProcessFailed, ProcessTimeout: it gave one, and nothing came of it.
    """
    minutes = max(1, -(-seconds // 60))
    command = [
        "srun", "--quiet", f"--partition={queue}", f"--nodes={len(names)}", f"--nodelist={folded(names)}",
        "--ntasks-per-node=1", f"--mem={JOB_MEMORY}", f"--immediate={immediate}", f"--time={minutes}",
        "--job-name=petal-proof", "--chdir=/", "--export=NONE", "--no-kill", "--mpi=none", *argv,
    ]  # fmt: skip
    done = system.run(command, timeout=seconds + immediate + 10, user=user, ok=None)
    if done.returncode != 0 and not done.stdout.strip():
        if any(words in done.stderr for words in REFUSED):
            what = f"Slurm gave no allocation on {folded(names)}"
            raise AllocationRefused(what, why=done.tail(2), remedy=f"sinfo -N -n {folded(names)}")
        raise ProcessFailed(f"srun ended with {done.returncode}", why=done.tail(4))
    return done
