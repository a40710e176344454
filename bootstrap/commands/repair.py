"""``repair``: repairs what the checks find if that is safe, and runs the checks again before it reports success."""

from __future__ import annotations

import shlex
from dataclasses import replace

from ..core.errors import UsageError
from ..core.model import Outcome, Plan, Result, Role, RunRecord, Status, StepReport
from ..core.options import Options
from ..engine.registry import REPAIRS
from ..engine.run import run
from ..host.files import same_content
from ..state.context import Services
from .common import plan_of, require_root, result_of_run

FINE = (Outcome.OK, Outcome.SKIPPED)  # not shown, because there are about twenty


def repair(options: Options, services: Services) -> Result[RunRecord | Plan]:
    """Repairs this node, and on the head node the cluster's storage.

    ``--dry-run`` only plans it, and exits 3 if something would be repaired, or cannot be.
    """
    if options.dry_run:
        data = plan_of("repair", options, services, REPAIRS)
        status = Status.OK if all(step.outcome in FINE for step in data.steps) else Status.DEGRADED
        return Result("repair", status, data, run_id=services.run_id)
    require_root(options, services)
    _refuse_other_version(options, services)

    def listen(step: StepReport) -> None:
        if step.outcome not in FINE:
            services.listen(step)

    return result_of_run(run(options, replace(services, listen=listen)))


def _refuse_other_version(options: Options, services: Services) -> None:
    """A repair by another petal-node than the installed one would also change the cluster's petal-node.

    Raises:
        UsageError: with the commands to run instead.
    """
    installed = options.paths.link
    archive = services.tool.archive
    if archive is None or not installed.exists() or same_content(archive, installed.resolve().read_bytes()):
        return
    what = f"this petal-node is not the installed one ({installed})"
    repeated = shlex.join([str(installed), *(options.argv or ("repair",))])
    on_head = replace(options, role=options.role if options.role is Role.HEAD else None)
    upgrade = shlex.join([str(archive), "bootstrap", *on_head.common_arguments()])
    remedy = (repeated, f"on the head node, to change the cluster's petal-node: {upgrade}")
    raise UsageError(what, why="a repair does not change the version", remedy=remedy)
