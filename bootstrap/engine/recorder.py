"""The record of one run, written after each step, so that a killed run leaves one; and crash reports."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..core.errors import Bug, PetalError, redacted
from ..core.model import Mode, Outcome, RunRecord, Scope, Status, StepReport
from ..core.options import Options
from ..core.paths import Paths
from ..host.log import LOG
from ..host.processes import own_start
from ..host.times import timestamp
from ..state.context import Context, Services
from ..state.runs import KEEP_RUNS, Runs
from ..state.store import ClusterState
from ..steps.base import Step


class Recorder:
    """Keeps the record of one run on this node's disk, and from the first change of the cluster on, on shared storage.

    A hook's worker makes the record of the hook. A repair goes on if the record cannot be written: it may free space.
    """

    def __init__(self, options: Options, services: Services) -> None:
        self._runs = Runs(options.paths)
        self._must_write = options.command != "repair"
        self._steps: dict[str, StepReport] = {}
        self._mirror: ClusterState | None = None
        self.record = RunRecord(
            run_id=services.run_id,
            verb="hook" if options.command == "worker" else options.command,
            event=options.event,
            role=options.role.value if options.role else None,
            host=services.system.hostname(),
            package=services.tool.version,
            pid=os.getpid(),
            boot_id=services.system.boot_id(),
            started=timestamp(),
            process_start=own_start(),
        )

    def listener(self, ctx: Context, steps: Sequence[Step]) -> Callable[[StepReport], None]:
        """A function that records each report of ``steps`` before it passes the report on.

        Before the storage is claimed, the record there is another cluster's.
        """
        by_name = {step.name: step for step in steps}

        def record(report: StepReport) -> None:
            step, earlier = by_name[report.name], self._steps.get(report.name)
            running = report.outcome is Outcome.RUNNING
            starts = running and (earlier is None or earlier.outcome is not Outcome.RUNNING)
            if starts and step.scope is Scope.CLUSTER and not step.claims_storage and ctx.mode is not Mode.IMAGE:
                self._mirror = ClusterState(ctx.paths)
            self._steps[report.name] = report
            may_return = self.record.hook_may_return or (running and step.lets_hook_return(ctx))
            self.update(steps=tuple(self._steps.values()), hook_may_return=may_return)
            ctx.services.listen(report)

        return record

    def update(self, **changes: Any) -> None:
        """Replaces fields of the record and writes it. A copy that cannot be written does not end the run."""
        self.record = replace(self.record, **changes)
        try:
            self._runs.save(self.record)
        except OSError as error:
            if self._must_write:
                raise
            LOG.warning("the record of this run is not kept: %s", error)
        if self._mirror is not None:
            try:
                self._mirror.save_install(self.record)
            except (OSError, PetalError) as error:
                LOG.error("the record is not on shared storage: %s", error)
                self._mirror = None

    def close(self, status: Status, code: int, *errors: Mapping[str, Any]) -> None:
        """The record of a failed hook is degraded, because the node works without the stack; it keeps the exit code."""
        if self.record.verb == "hook" and status is Status.FAILED:
            status = Status.DEGRADED
        errors = errors or self.record.errors
        self.update(finished=timestamp(), status=status, exit=int(code), errors=errors, hook_may_return=True)


def crash(error: Exception, paths: Paths, run_id: str) -> Bug:
    """Writes the crash report of a bug and returns the error that names it."""
    text = redacted("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    LOG.error("bug: %s", text)
    target = paths.var / f"crash-{run_id}.txt"
    why = f"the crash report is {target}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text.encode(errors="backslashreplace"))
        for old in sorted(paths.var.glob("crash-*.txt"))[:-KEEP_RUNS]:  # run ids sort by time
            old.unlink(missing_ok=True)
    except OSError:  # another user may not write there
        why = text
    what = f"petal-node has a bug: {type(error).__name__}: {error}"
    return Bug(what, why=why, remedy="please report it with the crash report")
