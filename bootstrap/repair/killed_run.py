"""Closes the record of a killed run, which would show it as running. The other steps of the repair do its work."""

from __future__ import annotations

from dataclasses import replace

from ..core.deadlines import PROBE
from ..core.errors import PetalError
from ..core.model import Finding, RunRecord, Severity, change, satisfied
from ..host.log import LOG
from ..host.times import timestamp
from ..state.context import Context
from ..state.runs import KEEP_RUNS, Runs, is_dead, killed_words, mark_if_killed
from ..state.store import ClusterState
from ..steps.base import Run, Step


class KilledRun(Step):
    """The newest run of this node has ended or is running."""

    name = "killed-run"
    local = True
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    severity = Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        dead = _dead(ctx)
        if not dead:
            return satisfied("the newest run of this node has ended, or is in progress")
        return change(killed_words(dead[0]), "close its record; the other steps do its work")

    def apply(self, ctx: Context) -> None:
        for run in _dead(ctx):
            closed = replace(
                mark_if_killed(run, ctx.facts.host.boot_id), finished=timestamp(), exit=1, hook_may_return=True
            )
            Runs(ctx.paths).save(closed)
            _close_on_shared(ctx, closed)


def _dead(ctx: Context) -> list[RunRecord]:
    """Killed runs after which no other run has ended: a later one has done their work."""
    dead = []
    for run in Runs(ctx.paths).latest(KEEP_RUNS).records:
        if run.finished is not None:
            break
        if run.run_id != ctx.run_id and is_dead(run, ctx.facts.host.boot_id):
            dead.append(run)
    return dead


def _close_on_shared(ctx: Context, closed: RunRecord) -> None:
    """Closes the head node's install record too. Without shared storage that copy stays as it is."""

    def close() -> None:
        shared = ClusterState(ctx.paths)
        install = shared.install()
        if install is not None and install.run_id == closed.run_id:
            shared.save_install(closed)

    try:
        ctx.system.on_storage(close, ctx.paths.shared, PROBE)
    except (PetalError, OSError) as error:
        LOG.info("the record on shared storage stays as it is: %s", error)
