"""``repair``: what the checks find is mended where that is safe, looked at again, and only then called fixed."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import UsageError
from ..core.model import Outcome, Result, Status, StepReport, plain
from ..engine import converge as engine
from ..engine.prepare import prepare
from ..engine.run import run
from ..host import systemd
from ..host.files import same_content
from ..repair.registry import REPAIRS
from ..state.request import Request
from .common import Asked, require_root, result_of_run

NODE_LOCK_SECONDS = 120.0
QUIET = (Outcome.OK, Outcome.SKIPPED)


def repair(asked: Asked, lock_wait: float, *, yes: bool, deep: bool) -> Result:
    """Mends this node, and on the head node the cluster's storage.

    Args:
        lock_wait: seconds to wait for an install that goes on.
        yes: also take away what somebody may still need, or may have done on purpose.
        deep: compare every byte of the packages.

    Raises:
        NotRoot, UsageError: it cannot begin.
    """
    require_root(asked)
    _refuse_another(asked)
    if asked.paths().live:
        systemd.take_environment()
    waits = engine.Waits(node=min(NODE_LOCK_SECONDS, lock_wait), cluster=lock_wait)
    request = _request(asked, yes=yes, deep=deep)

    def tell(step: StepReport) -> None:
        """Only of what is not as it was: there are twenty others."""
        if step.outcome not in QUIET:
            asked.listen(step)

    record = run(request, asked.system, asked.command, tell, asked.note, waits, background=False, mends=True)
    return replace(result_of_run(asked.command, record), kind="repair")


def _refuse_another(asked: Asked) -> None:
    """Another petal-node than the installed one would make the cluster its own, and that is no repair.

    Raises:
        UsageError: with what to type instead.
    """
    installed = asked.paths().link
    archive = asked.tool.archive
    if archive is None or not installed.exists() or same_content(archive, installed.resolve().read_bytes()):
        return
    what = f"this is not the petal-node that is installed here ({installed})"
    remedy = (f"{installed} repair", f"to change the cluster's petal-node: {archive} bootstrap    (on the head node)")
    raise UsageError(what, why="a repair keeps the cluster as it is", remedy=remedy)


def plan_repair(asked: Asked, *, yes: bool, deep: bool) -> Result:
    """What ``repair`` would do, step by step. Ends with 3 where that is anything, or where something is left."""
    ctx = prepare(_request(asked, yes=yes, deep=deep), asked.system, asked.note)
    steps = engine.plan(REPAIRS, ctx)
    troubled = any(step.outcome not in QUIET for step in steps)
    data = {"node": ctx.facts.host.name, "role": ctx.role.value, "steps": [plain(step) for step in steps]}
    status = Status.DEGRADED if troubled else Status.OK
    return Result(asked.command, "repair-plan", status, data, run_id=asked.run_id)


def _request(asked: Asked, *, yes: bool, deep: bool) -> Request:
    if asked.config is not None:
        why, remedy = "it mends what the cluster wants", f"petal-node bootstrap --config {asked.config}"
        raise UsageError("repair takes no --config", why=why, remedy=remedy)
    return replace(asked.request(), may_destroy=yes, every_byte=deep)
