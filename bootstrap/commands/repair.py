"""``repair``: what the checks find is mended where that is safe, looked at again, and only then called fixed."""

from __future__ import annotations

from ..core.errors import UsageError
from ..core.model import Outcome, Plan, Result, RunRecord, Status, StepReport
from ..core.options import Options
from ..engine import converge as engine
from ..engine.prepare import prepare
from ..engine.registry import REPAIRS
from ..engine.run import run
from ..engine.run_locks import Waits
from ..host import systemd
from ..host.files import same_content
from ..state.request import Request
from .common import Services, request_of, require_root, result_of_run

NODE_LOCK_SECONDS = 120.0
QUIET = (Outcome.OK, Outcome.SKIPPED)


def repair(options: Options, services: Services) -> Result[RunRecord | Plan]:
    """Repairs this node, and on the head node the cluster's storage; ``--dry-run`` only plans it."""
    return _plan(options, services) if options.dry_run else _repair(options, services)


def _repair(options: Options, services: Services) -> Result[RunRecord]:
    """Mends this node, and on the head node the cluster's storage.

    Raises:
        NotRoot, UsageError: it cannot begin.
    """
    require_root(options, services)
    _refuse_another(options, services)
    if options.paths.live:
        systemd.take_environment()
    waits = Waits(node=min(NODE_LOCK_SECONDS, options.lock_wait), cluster=options.lock_wait)
    request = _request(options, services)

    def tell(step: StepReport) -> None:
        """Only of what is not as it was: there are twenty others."""
        if step.outcome not in QUIET:
            services.listen(step)

    record = run(request, services.system, options.command, tell, services.note, waits, background=False, mends=True)
    return result_of_run(options.command, record)


def _refuse_another(options: Options, services: Services) -> None:
    """Another petal-node than the installed one would make the cluster its own, and that is no repair.

    Raises:
        UsageError: with what to type instead.
    """
    installed = options.paths.link
    archive = services.tool.archive
    if archive is None or not installed.exists() or same_content(archive, installed.resolve().read_bytes()):
        return
    what = f"this is not the petal-node that is installed here ({installed})"
    remedy = (f"{installed} repair", f"to change the cluster's petal-node: {archive} bootstrap    (on the head node)")
    raise UsageError(what, why="a repair keeps the cluster as it is", remedy=remedy)


def _plan(options: Options, services: Services) -> Result[Plan]:
    """What ``repair`` would do, step by step. Ends with 3 where that is anything, or where something is left."""
    ctx = prepare(_request(options, services), services.system, services.note)
    steps = engine.plan(REPAIRS, ctx)
    troubled = any(step.outcome not in QUIET for step in steps)
    data = Plan(ctx.facts.host.name, ctx.role, ctx.config.layout, ctx.release, ctx.config.to_dict(), steps)
    status = Status.DEGRADED if troubled else Status.OK
    return Result(options.command, status, data, run_id=services.run_id)


def _request(options: Options, services: Services) -> Request:
    if options.config is not None:
        why, remedy = "it mends what the cluster wants", f"petal-node bootstrap --config {options.config}"
        raise UsageError("repair takes no --config", why=why, remedy=remedy)
    return request_of(options, services)
