"""Reports of compute nodes that are gone: dynamic nodes come and go, and a dead one's report is no news."""

from __future__ import annotations

from pathlib import Path

from ..cluster.slurm import find_slurm, folded, nodes
from ..core.errors import PetalError, StateError, as_error
from ..core.model import Probe, Role, Scope, change, elsewhere, refused, satisfied
from ..state.context import Context
from ..state.store import Shared
from ..steps.base import HEAD, TOUCH_SECONDS


class Reports:
    """Each report is of a node that Slurm knows."""

    name = "reports"
    title = "the nodes' reports are of nodes that are there"
    roles = HEAD
    scope = Scope.NODE
    needs = ("storage",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.paths.live or find_slurm(ctx.system) is None:
            return elsewhere("this node has no Slurm")
        try:
            stale = _stale(ctx)
        except (PetalError, OSError) as error:
            return refused(as_error(error, ctx.paths.shared_mount))
        if stale:
            names = folded(path.stem for path in stale)
            return change(f"{len(stale)} reports are of nodes that Slurm does not know: {names}", "remove them")
        return satisfied("all of them are of nodes that Slurm knows")

    def apply(self, ctx: Context) -> None:
        for path in _stale(ctx):
            path.unlink(missing_ok=True)


def _stale(ctx: Context) -> list[Path]:
    """Of compute nodes only: a login node is none of Slurm's."""
    known = {node.name for node in nodes(ctx.system)}
    return ctx.system.on_storage(lambda: _unknown(ctx, known), ctx.paths.shared, TOUCH_SECONDS)


def _unknown(ctx: Context, known: set[str]) -> list[Path]:
    found = []
    for path in sorted((ctx.paths.state / "nodes").glob("*.json")):
        try:
            report = Shared(ctx.paths).report(path.stem)
        except StateError:
            continue  # ``documents`` tells it
        if report is not None and report.role == Role.COMPUTE.value and report.node not in known:
            found.append(path)
    return found
