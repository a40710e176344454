"""What several commands need: the refusal without root, and the result of a run."""

from __future__ import annotations

from ..core.errors import NotRoot
from ..core.model import Result, RunRecord
from ..core.options import Options
from ..state.context import Services


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


def result_of_run(command: str, record: RunRecord) -> Result[RunRecord]:
    """A finished or running record as the result of the verb that made it."""
    return Result(command, record.status, record, record.errors, record.run_id, record.exit)
