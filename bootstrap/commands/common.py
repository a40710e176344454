"""The services that every verb gets besides its options, and the requests that several verbs make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..core.errors import NotRoot
from ..core.model import Result, RunRecord, StepReport, Tool
from ..core.options import Options
from ..host.system import System
from ..state.request import Request


@dataclass(frozen=True)
class Services:
    """What a verb works with.

    Args:
        tool: this petal-node.
        system: the machine.
        run_id: the id of this run.
        listen: called with each step when it starts, waits and ends.
        note: called with each line of progress.
    """

    tool: Tool
    system: System
    run_id: str
    listen: Callable[[StepReport], None]
    note: Callable[[str], None]


def request_of(options: Options, services: Services, *, event: str = "", decides: bool = True) -> Request:
    """The options as the engine takes them.

    Args:
        event: of a verb without ``--event``.
        decides: the run sets what the cluster should have; False for verbs that only look.
    """
    return Request(
        services.tool,
        services.run_id,
        options.config,
        options.root,
        options.role,
        event or options.event,
        decides,
        accept_storage=options.accept_storage,
        config_sha256=options.config_sha256,
        image=options.layout,
        may_destroy=options.yes,
        every_byte=options.deep,
    )


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
