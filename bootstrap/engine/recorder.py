"""The record of one run, written after each step, so that a killed run leaves one; and crash reports."""

from __future__ import annotations

import os
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.errors import Bug, PetalError, redacted
from ..core.model import Outcome, RunRecord, StepReport
from ..core.options import Options
from ..core.paths import Paths
from ..host.log import LOG
from ..host.times import timestamp
from ..state.context import Services
from ..state.store import ClusterState, Runs


class Recorder:
    """Keeps the record of one run on this node's disk, and after ``mirror_to`` a copy on shared storage.

    Args:
        on_full_disk: continue if the record cannot be written, so that a repair can free space.
    """

    def __init__(self, paths: Paths, record: RunRecord, *, on_full_disk: bool = False) -> None:
        self._runs = Runs(paths)
        self._on_full_disk = on_full_disk
        self.record = record
        self._steps: dict[str, StepReport] = {}
        self._mirror: ClusterState | None = None

    def mirror_to(self, shared: ClusterState) -> None:
        """From now on the record is also kept on shared storage, for ``status`` on the other nodes."""
        self._mirror = shared

    def step(self, report: StepReport, *, lets_hook_return: bool = False) -> None:
        """Records a step. After a step with ``lets_hook_return`` the hook need not wait for the rest of the run."""
        self._steps[report.name] = report
        self.update(steps=tuple(self._steps.values()), hook_may_return=self.record.hook_may_return or lets_hook_return)

    def is_running(self, name: str) -> bool:
        """True if the last report of the step is ``running``: its change is in progress."""
        return name in self._steps and self._steps[name].outcome is Outcome.RUNNING

    def update(self, **changes: Any) -> None:
        """Replaces fields of the record and writes it. A copy that cannot be written does not end the run."""
        self.record = replace(self.record, **changes)
        try:
            self._runs.save(self.record)
        except OSError as error:
            if not self._on_full_disk:
                raise
            LOG.warning("the record of this run is not kept: %s", error)
        if self._mirror is not None:
            try:
                self._mirror.save_install(self.record)
            except (OSError, PetalError) as error:
                LOG.error("the record is not on shared storage: %s", error)
                self._mirror = None


def new_record(options: Options, services: Services) -> RunRecord:
    """The record of a run that starts now. A hook's worker makes the record of the hook."""
    return RunRecord(
        run_id=services.run_id,
        verb="hook" if options.command == "worker" else options.command,
        event=options.event,
        role=options.role.value if options.role else None,
        host=services.system.hostname(),
        package=services.tool.version,
        pid=os.getpid(),
        boot_id=services.system.boot_id(),
        started=timestamp(),
    )


def crash(error: Exception, paths: Paths, run_id: str) -> Bug:
    """Writes the crash report of a bug and returns the error that names it."""
    text = redacted("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    LOG.error("bug: %s", text)
    target: Path | str = paths.var / f"crash-{run_id}.txt"
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(text.encode(errors="backslashreplace"))
    except OSError:
        target = "the log"
    what = f"petal-node has a bug: {type(error).__name__}: {error}"
    remedy = "please report it with that file"
    return Bug(what, why=f"the crash report is {target}", remedy=remedy)
