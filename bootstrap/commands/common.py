"""What all verbs are given, and the requests and views that several of them need."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import NotRoot
from ..core.model import Result, Role, RunRecord, StepReport, Tool, plain
from ..core.paths import Paths
from ..host.system import System
from ..state.request import Request


@dataclass(frozen=True)
class Asked:
    """The options that every verb takes, and the two channels for progress."""

    command: str
    tool: Tool
    system: System
    run_id: str
    config: str | None
    config_sha256: str | None
    prefix: Path
    role: Role | None
    listen: Callable[[StepReport], None]
    note: Callable[[str], None]

    def request(self, event: str = "", *, decides: bool = True) -> Request:
        return Request(
            self.tool, self.run_id, self.config, self.prefix, self.role, event, decides,
            config_sha256=self.config_sha256,
        )  # fmt: skip

    def paths(self) -> Paths:
        return Paths(self.prefix)


def require_root(asked: Asked) -> None:
    """Verbs that change the machine need root; under ``--root DIR`` the owner of DIR will do.

    Raises:
        NotRoot: with the command to type.
    """
    if asked.paths().live and not asked.system.is_root():
        raise NotRoot(
            f"petal-node {asked.command} changes this machine and needs root",
            remedy=f"sudo petal-node {asked.command}",
        )


def result_of_run(command: str, record: RunRecord) -> Result:
    """A finished or running record as the result of the verb that made it."""
    data: dict[str, Any] = {"run": plain(record)}
    return Result(command, "run", record.status, data, record.errors, record.run_id, record.exit)
