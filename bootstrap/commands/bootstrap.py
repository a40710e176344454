"""``bootstrap`` makes this node match the configuration; ``plan`` only runs its probes."""

from __future__ import annotations

from ..core.errors import ExitCode
from ..core.model import Plan, Result, RunRecord, Status
from ..core.options import Options
from ..engine.converge import exit_of, status_of
from ..engine.registry import STEPS
from ..engine.run import run
from ..state.context import Services
from ..steps.boot_service import is_due
from .common import plan_of, require_root, result_of_run


def bootstrap(options: Options, services: Services) -> Result[RunRecord | None]:
    """Makes this node match the configuration, or with ``--layout`` a machine image for that layout.

    As ``converge`` the service at boot and its timer run it, and as ``worker`` a hook starts it in the background.
    """
    require_root(options, services)
    if options.if_due and not is_due(options.paths, services.system.boot_id()):
        return Result(options.command, Status.OK, None, run_id=services.run_id)
    return result_of_run(run(options, services))


def plan(options: Options, services: Services) -> Result[Plan]:
    """What ``bootstrap`` would do now; with ``--exit-code`` pending changes exit 3."""
    data = plan_of("bootstrap", options, services, STEPS)
    status = status_of(data.steps)
    code = int(ExitCode.CONFIG) if exit_of(data.steps, status) == ExitCode.CONFIG else None
    if code is None and options.exit_code and status is Status.CHANGED:
        code = int(ExitCode.DEGRADED)
    return Result("plan", status, data, run_id=services.run_id, exit=code)
