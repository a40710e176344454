"""Shared by commands: the refusal without root, the plan of a run, and its result."""

from __future__ import annotations

import shlex

from ..core.errors import NotRoot
from ..core.model import Plan, Result, RunRecord, StepReport
from ..core.options import Options
from ..state.context import Context, Services


def require_root(options: Options, services: Services) -> None:
    """Verbs that change the machine need root. With ``--root DIR`` any user who may write to DIR can run them.

    Raises:
        NotRoot: with the command to type.
    """
    if options.paths.live and not services.system.is_root():
        raise NotRoot(
            f"petal-node {options.command} changes this machine and needs root",
            remedy=f"sudo petal-node {options.command}",
        )


def plan_of(verb: str, options: Options, ctx: Context, steps: tuple[StepReport, ...]) -> Plan:
    """The plan of ``verb``, with the command that applies it."""
    command = shlex.join(["petal-node", verb, *options.common_arguments()])
    return Plan(ctx.facts.host.name, ctx.role, ctx.config.layout, ctx.release, ctx.config.to_dict(), steps, command)


def result_of_run(command: str, record: RunRecord) -> Result[RunRecord]:
    """A finished or running record as the result of the verb that made it."""
    return Result(command, record.status, record, record.errors, record.run_id, record.exit)
