"""The running nodes that a change of the configuration does not reach: they keep a part of it on their own disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..cluster.hostlist import folded
from ..cluster.slurm import as_root_on, nodes
from ..core.deadlines import PROBE
from ..core.errors import PetalError
from ..core.model import Finding, Role, Severity
from ..core.text import grouped
from ..state.context import Context
from ..state.store import ClusterState

KEPT_ON_NODES = ("layout", "storage", "modules.paths", "modules.lmod")


def kept_by_nodes(ctx: Context) -> Mapping[str, Any] | None:
    """The configuration that running nodes follow; None if this run does not change it, or it cannot be read."""
    if not (ctx.sets_desired_state and ctx.role is Role.HEAD and ctx.paths.live):
        return None
    shared = ClusterState(ctx.paths)
    desired = ctx.system.try_storage(shared.desired_state, ctx.paths.shared, PROBE)
    return desired.config if desired else None


def not_following(ctx: Context, before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[Finding, ...]:
    """A warning with the nodes that have to run petal-node again, and the commands; empty if nothing changes there."""
    changed = [key for key in KEPT_ON_NODES if before is not None and _value(before, key) != _value(now, key)]
    read = ctx.system.try_storage(ClusterState(ctx.paths).reports, ctx.paths.shared, PROBE) if changed else None
    up = _partitions(ctx) if read else {}
    groups = grouped(
        ((up or {}).get(one.node, ""), one.node)
        for one in (read.current if read else ())
        if one.role == Role.LOGIN or (one.role == Role.COMPUTE and (up is None or one.node in up))
    )
    if not groups:
        return ()
    names_of_all = folded([name for names in groups.values() for name in names])
    message = f"{names_of_all} still follow the earlier {', '.join(changed)}"
    why = "each node keeps these on its own disk, and a node that is ready looks for changes at its next boot only"
    known = [(partition, name) for partition, names in groups.items() for name in names if partition]
    remedy = as_root_on(ctx.system, known, f"{ctx.paths.link} bootstrap")
    if "" in groups:
        remedy = (f"on {folded(groups[''])}: petal-node bootstrap", *remedy)
    return (Finding("desired-state", Severity.WARN, message, why, remedy),)


def _value(config: Mapping[str, Any], key: str) -> Any:
    section, _, name = key.partition(".")
    value = config.get(section)
    return value.get(name) if name and isinstance(value, Mapping) else value


def _partitions(ctx: Context) -> Mapping[str, str] | None:
    """A partition of each compute node that is up; None if Slurm does not answer."""
    try:
        return {node.name: node.partition for node in nodes(ctx.system) if node.up}
    except PetalError:
        return None
