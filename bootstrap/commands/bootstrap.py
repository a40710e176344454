"""``bootstrap`` and ``converge`` make this node match the configuration; ``plan`` only runs their probes."""

from __future__ import annotations

from ..core.errors import ExitCode
from ..core.model import Plan, Result, RunRecord, Status
from ..core.options import Options
from ..engine import converge as engine
from ..engine.converge import exit_of
from ..engine.prepare import prepare
from ..engine.registry import STEPS
from ..engine.run import run
from ..state.context import Services
from .common import plan_of, require_root, result_of_run


def bootstrap(options: Options, services: Services) -> Result[RunRecord]:
    """Makes this node match the configuration, or with ``--layout`` a machine image for that layout."""
    require_root(options, services)
    return result_of_run(options.command, run(options, services))


def converge(options: Options, services: Services) -> Result[RunRecord]:
    """Run by the service at boot and by its timer: makes this node match the desired state of the cluster."""
    require_root(options, services)
    return result_of_run(options.command, run(options, services))


def plan(options: Options, services: Services) -> Result[Plan]:
    """What ``bootstrap`` would do now; with ``--exit-code`` pending changes exit 3."""
    ctx = prepare(options, services)
    steps = engine.plan(STEPS, ctx)
    status = engine.status_of(steps)
    code = int(ExitCode.CONFIG) if exit_of(steps, status) == ExitCode.CONFIG else None
    if code is None and options.exit_code and status is Status.CHANGED:
        code = int(ExitCode.DEGRADED)
    data = plan_of("bootstrap", options, ctx, steps)
    return Result("plan", status, data, run_id=services.run_id, exit=code)
