"""CPU targets by their names in archspec and Spack: which ones to build for, and which code a CPU runs. Pure.

``auto`` is the best generic level that the CPUs of all queues run: binaries for x86_64_v4 run on Intel and AMD, and
build caches hold them. The CPU of the head node does not count.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core.errors import ConfigError, did_you_mean
from ..core.facts import Queue

AUTO = "auto"
# The levels for ``auto``, best first. Neoverse V2 does not descend from V1; both run code for N1 (archspec).
LEVELS = {
    "x86_64": ("x86_64_v4", "x86_64_v3", "x86_64_v2", "x86_64"),
    "aarch64": ("neoverse_v2", "neoverse_v1", "neoverse_n1", "cortex_a72", "aarch64"),
}
# The target of instance types that the table lacks.
FALLBACKS = {"x86_64": "x86_64_v3", "aarch64": "neoverse_n1"}
# In archspec 0.2.7, and not in the copy of it that Spack 1.1.1 builds with (compared in tests/spack).
UNKNOWN_TO_SPACK = frozenset({"alderlake", "ampere1", "ampere1a", "armv9.2a", "arrowlake", "arrowlake_s"})
UNKNOWN_TO_SPACK |= {"neoverse_v3ae", "olympus", "x60", "zen6"}


@dataclass(frozen=True)
class BuildTargets:
    """The targets to build for, the compute capabilities of the GPUs, and notes for the administrator."""

    targets: tuple[str, ...]
    cuda: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def build_targets(asked: Sequence[str], queues: Sequence[Queue], machine: str) -> BuildTargets:
    """The targets of this cluster.

    Args:
        asked: ``spack.target``, empty for ``auto``.
        queues: the cluster's queues with their instance types.
        machine: the head node's architecture, which every node of a cluster has.

    Raises:
        ConfigError: ``target-mixed``: this head node cannot build for those targets.
    """
    families = {kind: family_of(kind) for queue in queues for kind in queue.instances}
    cuda = tuple(sorted({family.cuda for family in families.values() if family and family.cuda}, key=int))
    assumed = FALLBACKS.get(machine, machine)
    if asked:
        foreign = next((name for name in asked if machine_of(name) != machine), None)
        if foreign:
            raise ConfigError(
                f"spack.target {foreign} is a target of {machine_of(foreign)}, this head node is {machine}",
                why="Spack cannot build for another architecture than its own",
                remedy=f"spack: {{target: auto}} or {{target: {assumed}}} in the configuration",
                code="target-mixed",
            )
        return BuildTargets(tuple(asked), cuda)
    cpus = {kind: family.cpu if family else assumed for kind, family in families.items()}
    wrong = [kind for kind, cpu in cpus.items() if machine_of(cpu) != machine]
    if wrong:
        raise ConfigError(
            f"{', '.join(wrong)} cannot run what this head node builds",
            why=f"it is {machine}, and they are {machine_of(cpus[wrong[0]])}: one store is for one architecture",
            remedy=(
                "give all queues instance types of the head node's architecture",
                f"or leave those queues without it: spack: {{target: {assumed}}} in the configuration",
            ),
            code="target-mixed",
        )
    target = common(cpus.values(), machine) if cpus else assumed
    notes = []
    unknown = [f"{kind} of queue {queue.name}" for queue in queues for kind in queue.instances if not families[kind]]
    if unknown:
        notes.append(f"not in the table of instance types, {assumed} is assumed: {', '.join(dict.fromkeys(unknown))}")
    if not families:
        notes.append(f"the instance types of the queues are not known; most run {target}")
    return BuildTargets((target,), cuda, tuple(notes))


class InstanceFamily(NamedTuple):
    """The processors of a family of instance types.

    Args:
        cpu: archspec's name, and of several the least capable one.
        cuda: the compute capability of its GPU without the point (``90``), None without a GPU.
    """

    cpu: str
    cuda: str | None


def family_of(instance_type: str) -> InstanceFamily | None:
    """The family of an instance type such as ``c7i-flex.large``; None if the table lacks it."""
    return _families().get(instance_type.partition(".")[0])


@functools.cache
def _families() -> dict[str, InstanceFamily]:
    """The table. Its ``source`` quotes the processor's name on AWS's pages of instance types."""
    rows = json.loads(Path(__file__).with_name("instances.json").read_text(encoding="utf-8"))
    return {name: InstanceFamily(row["cpu"], row.get("cuda")) for row in rows for name in row["families"].split()}


def cpus_of(queues: Sequence[Queue], name: str) -> tuple[str, ...]:
    """The CPUs of one queue, without those of instance types that the table lacks."""
    families = (family_of(kind) for queue in queues if queue.name == name for kind in queue.instances)
    return tuple(dict.fromkeys(family.cpu for family in families if family))


def common(cpus: Collection[str], machine: str) -> str:
    """The best level that all CPUs run."""
    return next((level for level in LEVELS[machine] if all(runs(cpu, level) for cpu in cpus)), machine)


def level(cpu: str) -> str:
    """The best generic level that a CPU runs: ``x86_64_v4`` for ``icelake``."""
    return next((name for name in LEVELS.get(machine_of(cpu), ()) if runs(cpu, name)), cpu)


def machine_of(target: str) -> str:
    """The architecture of a target; a target that archspec does not know is its own architecture."""
    known = _known().get(target)
    return str(known.family) if known is not None else target


def problem_of(target: str) -> str | None:
    """Why a name is not valid as ``spack.target``, or None."""
    names = [name for name in _known() if machine_of(name) in LEVELS and name not in UNKNOWN_TO_SPACK]
    if target in names:
        return None
    return f"{target} is not a CPU target of Spack{did_you_mean(target, [AUTO, *names])}"


def runs(cpu: str, target: str) -> bool:
    """True when a CPU runs code that was built for ``target``."""
    known = _known()
    if cpu not in known or target not in known:
        return cpu == target
    return bool(known[cpu] >= known[target])


def runnable(cpu: str) -> tuple[str, ...]:
    """Every target that a CPU runs, its own first, each before its ancestors."""
    known = _known().get(cpu)
    if known is None:
        return (cpu,)

    def rank(item: Any) -> tuple[int, int, str]:
        return len(item.ancestors), len(item.features), str(item.name)

    return tuple(str(item.name) for item in sorted((known, *known.ancestors), key=rank, reverse=True))


def best(cpu: str, targets: Iterable[str]) -> str | None:
    """The best of ``targets`` for a CPU, None if it runs none of them."""
    offered = frozenset(targets)
    return next((name for name in runnable(cpu) if name in offered), None)


def own_cpu() -> str:
    """This node's CPU, from /proc/cpuinfo."""
    import archspec.cpu

    return str(archspec.cpu.host().name)


def compiler_builds(target: str, version: str) -> bool:
    """True when this version of GCC has options for a target."""
    import archspec.cpu

    known = _known().get(target)
    number = re.match(r"[0-9.]+", version)
    if known is None or number is None:
        return True
    try:
        known.optimization_flags("gcc", number.group(0))
    except archspec.cpu.UnsupportedMicroarchitecture:
        return False
    return True


def buildable(target: str, version: str) -> str:
    """The best target that this version of GCC builds for and that every CPU of ``target`` runs."""
    return next((name for name in runnable(target) if compiler_builds(name, version)), machine_of(target))


@functools.cache
def _known() -> dict[str, Any]:
    import archspec.cpu

    return dict(archspec.cpu.TARGETS)
