"""``bootstrap``: makes this node what the configuration says. ``plan``: the same probes, and nothing else."""

from __future__ import annotations

from ..core.errors import ExitCode, UsageError
from ..core.model import Plan, Result, RunRecord, Status
from ..core.options import Options
from ..engine import converge as engine
from ..engine.converge import exit_of
from ..engine.prepare import prepare
from ..engine.registry import STEPS
from ..engine.run import run
from ..engine.run_locks import Waits
from ..state.request import BOOT
from .common import Services, request_of, require_root, result_of_run


def bootstrap(options: Options, services: Services) -> Result[RunRecord]:
    """Converges this node in the foreground. With ``--layout`` it becomes a machine image for that layout."""
    require_root(options, services)
    waits = Waits(node=min(120.0, options.lock_wait), cluster=options.lock_wait)
    request = request_of(options, services)
    record = run(request, services.system, options.command, services.listen, services.note, waits, background=False)
    return result_of_run(options.command, record)


def converge(options: Options, services: Services) -> Result[RunRecord]:
    """What the service at boot runs: this node becomes what the cluster wants; the timer tries again if it cannot.

    Raises:
        UsageError: with ``--config``, which would not count.
    """
    require_root(options, services)
    if options.config is not None:
        why, remedy = "it makes this node what the cluster wants", f"petal-node bootstrap --config {options.config}"
        raise UsageError("converge takes no --config", why=why, remedy=remedy)
    request = request_of(options, services, event=BOOT)
    record = run(request, services.system, options.command, services.listen, services.note)
    return result_of_run(options.command, record)


def plan(options: Options, services: Services) -> Result[Plan]:
    """What ``bootstrap`` would do now. With ``--exit-code`` pending changes end with 3."""
    ctx = prepare(request_of(options, services), services.system, services.note)
    steps = engine.plan(STEPS, ctx)
    status = engine.status_of(steps)
    code = int(ExitCode.CONFIG) if exit_of(steps, status) == ExitCode.CONFIG else None
    if code is None and options.exit_code and status is Status.CHANGED:
        code = int(ExitCode.DEGRADED)
    data = Plan(ctx.facts.host.name, ctx.role, ctx.config.layout, ctx.release, ctx.config.to_dict(), steps)
    return Result("plan", status, data, run_id=services.run_id, exit=code)
