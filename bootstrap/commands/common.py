"""Shared by commands: the refusal without root, the plan of a run, and its result."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence

from ..core.errors import NotRoot
from ..core.model import Outcome, Plan, Result, RunRecord
from ..core.options import Options
from ..engine.converge import plan
from ..engine.prepare import prepare
from ..host.files import not_writable
from ..state.context import Services
from ..steps.base import Step


def require_root(options: Options, services: Services) -> None:
    """Verbs that change the machine need root. With ``--root DIR`` any user who may write to DIR can run them.

    Raises:
        NotRoot: with the command for root, or with the directory that this user may not write to.
    """
    if services.system.is_root():
        return
    if options.paths.live:
        raise NotRoot(f"petal-node {options.command} changes this machine and needs root", remedy=options.typed)
    records = options.paths.runs
    place = next(path for path in (records, *records.parents) if path.exists())
    if not os.access(place, os.W_OK | os.X_OK):
        raise not_writable(place)


def plan_of(verb: str, options: Options, services: Services, steps: Sequence[Step]) -> Plan:
    """What ``verb`` would do with these steps, and the command for that; if steps are blocked, to plan again."""
    ctx = prepare(options, services)
    more = [f"--{name}" for name in ("yes", "deep") if getattr(options, name)]  # options of repair
    remedy = shlex.join(["petal-node", verb, *more, *options.common_arguments()])
    reports, config = plan(steps, ctx), ctx.config.to_dict()
    if verb == "bootstrap" and any(report.outcome is Outcome.BLOCKED for report in reports):
        where = f"in {options.config} or on this node" if options.config else "on this node"
        remedy = f"correct the causes of the blocked steps ({where}), then: {options.typed}"
    return Plan(ctx.facts.host.name, ctx.role, ctx.config.layout, ctx.release, config, reports, (remedy,))


def result_of_run(record: RunRecord) -> Result[RunRecord]:
    """A finished or running record as the result of the verb that made it."""
    return Result(record.verb, record.status, record, record.errors, record.run_id, record.exit)
