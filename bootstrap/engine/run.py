"""One run: prepare, converge, check, and a record that says so at every moment, also after a kill."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from ..checks.node import check_node, reaches_storage
from ..cluster.limits import hook_budget
from ..core.deadlines import WRITE
from ..core.errors import ExitCode, PetalError, as_error, redacted
from ..core.model import Mark, Mode, NodeReport, Outcome, Role, RunRecord, Scope, Status, StepReport
from ..core.paths import Paths
from ..host.log import LOG, prune_logs
from ..host.system import System, timestamp
from ..state.context import Context
from ..state.request import BOOT, Request, keep_request
from ..state.store import Runs, Shared, write_document
from ..steps.base import Step
from ..steps.converge_timer import arrange
from .converge import converge, exit_of, status_of
from .lock_hooks import CLUSTER_HOOKS
from .prepare import prepare, without_config
from .registry import BEFORE_DESIRED, CHECKS, LOCAL, REPAIRS, awaits_mount, steps_for
from .run_locks import Waits

CHECKED_EVENTS = ("configured", "updated", BOOT)
Listener = Callable[[StepReport], None]


class Terminated(BaseException):
    """SIGTERM reached us: the record is closed before we go."""


class Recorder:
    """Keeps the record of one run on this node's disk, up to date after each step; after ``mirror_to`` a copy too.

    With ``on_full_disk`` a record that cannot be written is no trouble: what makes room must be able to run.
    """

    def __init__(self, paths: Paths, record: RunRecord, *, on_full_disk: bool = False) -> None:
        self._runs = Runs(paths)
        self._on_full_disk = on_full_disk
        self.record = record
        self._steps: dict[str, StepReport] = {}
        self._mirror: Shared | None = None

    def mirror_to(self, shared: Shared) -> None:
        """From now on the record also stands on shared storage, for the other nodes' ``status``."""
        self._mirror = shared

    def step(self, report: StepReport, *, settles: bool = False) -> None:
        """Records where the step stands; with ``settles`` no hook has to wait any longer, and it finds why."""
        self._steps[report.name] = report
        self.update(steps=tuple(self._steps.values()), settled=self.record.settled or settles)

    def is_under_way(self, name: str) -> bool:
        """True when the step's last report said that it is being applied."""
        return name in self._steps and self._steps[name].outcome is Outcome.RUNNING

    def update(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)
        try:
            self._runs.save(self.record)
        except OSError as error:
            if not self._on_full_disk:
                raise
            LOG.warning("the record of this run is not kept: %s", error)
        if self._mirror is not None:
            self._save_mirror(self._mirror)

    def _save_mirror(self, mirror: Shared) -> None:
        """Shared storage that is full or gone costs the copy there, never the run or its own record."""
        try:
            mirror.save_install(self.record)
        except (OSError, PetalError) as error:
            LOG.error("the record is not on shared storage: %s", error)
            self._mirror = None


def new_record(request: Request, system: System, verb: str) -> RunRecord:
    """A record that says "started"."""
    return RunRecord(
        run_id=request.run_id,
        verb=verb,
        event=request.event,
        role=request.role.value if request.role else None,
        host=system.hostname(),
        package=request.tool.version,
        pid=os.getpid(),
        boot_id=system.boot_id(),
        started=timestamp(),
    )


def run(
    request: Request,
    system: System,
    verb: str,
    listen: Listener,
    note: Callable[[str], None],
    waits: Waits | None = None,
    *,
    background: bool = True,
    mends: bool = False,
) -> RunRecord:
    """Converges this node and returns the finished record. Expected failures end up in it, they are not raised.

    Args:
        mends: also look at what a bootstrap takes for granted, and check the node at the end, whatever its role.
        verb: what the record calls the run.
        listen: told every step as it starts to change something and as it ends.
        note: told every line of progress.
        background: also wait for compute nodes and prove.
    """
    recorder = Recorder(Paths(request.prefix), new_record(request, system, verb), on_full_disk=mends)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        recorder.update()
        keep_request(request)
        ctx = _prepared(request, system, note, recorder)
        mounted: tuple[StepReport, ...] = ()
        if awaits_mount(ctx):
            mounted = _converge(BEFORE_DESIRED, ctx, recorder, listen, waits)
            ctx = _prepared(request, system, note, recorder)
        steps = REPAIRS if mends else steps_for(ctx)
        reports = _converge(steps, ctx, recorder, listen, waits, background=background, already=mounted)
        status = status_of(reports)
        if mends or (ctx.event in CHECKED_EVENTS and ctx.role is not Role.HEAD):
            status = _worse(status, _self_check(ctx, recorder, strict=mends))
        _close(recorder, status, exit_of(reports, status))
    except (PetalError, OSError) as trouble:
        mount = Paths(request.prefix).shared_mount
        error = as_error(trouble, mount)
        LOG.error("%s", error)
        recorder.update(errors=(error.to_dict(),))
        if request.event:
            _go_without_config(request, system, note, recorder, listen)
        _close(recorder, Status.FAILED, error.exit)
    except (KeyboardInterrupt, Terminated) as signalled:
        code = ExitCode.TERMINATED if isinstance(signalled, Terminated) else ExitCode.INTERRUPTED
        recorder.update(
            errors=({"code": "interrupted", "what": "the run was ended by a signal", "why": "", "remedy": []},)
        )
        _close(recorder, Status.FAILED, code)
    except Exception as bug:  # noqa: BLE001 - a bug must leave a record and a report, not a broken node
        recorder.update(errors=(crash(bug, Paths(request.prefix), request.run_id),))
        _close(recorder, Status.FAILED, ExitCode.BUG)
    Runs(Paths(request.prefix)).prune()
    prune_logs(Paths(request.prefix).logs)
    if request.event in CHECKED_EVENTS:
        arrange(recorder.record, Paths(request.prefix), system)
    return recorder.record


def _prepared(request: Request, system: System, note: Callable[[str], None], recorder: Recorder) -> Context:
    ctx = prepare(request, system, note, may_hand_over=True)
    keep_request(request, ctx)
    recorder.update(role=ctx.role.value, release=ctx.release, budget=_budget(ctx))
    return ctx


def _go_without_config(
    request: Request, system: System, note: Callable[[str], None], recorder: Recorder, listen: Listener
) -> None:
    """Where no configuration can be had, an operator still finds petal-node here, and the timer tries again."""
    try:
        ctx = without_config(request, system, note)
        _converge(LOCAL, ctx, recorder, listen)
    except PetalError as error:
        LOG.error("%s", error)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def _budget(ctx: Context) -> float:
    """The seconds that a hook may wait. A tree below --root does not boot, so only its configuration counts."""
    if not ctx.paths.live:
        return float(ctx.config.install.budget)
    return hook_budget(ctx.role, ctx.event, ctx.config.install.budget, ctx.paths, ctx.system.uptime())


def _converge(
    steps: Sequence[Step],
    ctx: Context,
    recorder: Recorder,
    listen: Listener,
    waits: Waits | None = None,
    *,
    background: bool = True,
    already: Sequence[StepReport] = (),
) -> tuple[StepReport, ...]:
    record = recording(recorder, ctx, steps, listen)
    return converge(steps, ctx, record, waits, hooks=CLUSTER_HOOKS, background=background, already=already)


def recording(recorder: Recorder, ctx: Context, steps: Sequence[Step], listen: Listener) -> Listener:
    """A listener that records each report of ``steps`` before it passes the report on to ``listen``.

    From the first change under the cluster lock on, the record is also kept on shared storage; before the storage is
    claimed, the record there is another cluster's.
    """
    by_name = {step.name: step for step in steps}

    def record(report: StepReport) -> None:
        step = by_name[report.name]
        running = report.outcome is Outcome.RUNNING
        mirrored = step.scope is Scope.CLUSTER and not step.claims_storage and ctx.mode is not Mode.IMAGE
        if mirrored and running and not recorder.is_under_way(report.name):
            recorder.mirror_to(Shared(ctx.paths))
        recorder.step(report, settles=running and step.lets_hook_return(ctx))
        listen(report)

    return record


def _close(recorder: Recorder, status: Status, code: int) -> None:
    """A hook's failure costs the stack, never the node: its record says degraded, and keeps the code."""
    if recorder.record.verb == "hook" and status is Status.FAILED:
        status = Status.DEGRADED
    recorder.update(finished=timestamp(), status=status, exit=int(code), settled=True)


def _worse(first: Status, second: Status) -> Status:
    order = [Status.OK, Status.CHANGED, Status.RUNNING, Status.DEGRADED, Status.FAILED]
    return max(first, second, key=order.index)


def _self_check(ctx: Context, recorder: Recorder, *, strict: bool) -> Status:
    """The node looks at itself; a compute or login node leaves its report. With ``strict`` a warning counts too."""
    report = check_node(replace(ctx, every_byte=False), CHECKS)  # which a repair has compared already
    recorder.update(findings=report.findings)  # first: shared storage may have begun to hang meanwhile
    if ctx.role is not Role.HEAD:
        save_report(ctx, report)
    failed = [finding for finding in report.findings if finding.mark is Mark.FAIL]
    for finding in failed:
        LOG.warning("check %s: %s %s", finding.check, finding.message, finding.why)
    warned = strict and any(finding.mark is Mark.WARN for finding in report.findings)
    return Status.DEGRADED if failed or warned else Status.OK


def save_report(ctx: Context, report: NodeReport) -> None:
    """On shared storage where that answers and can be written by this process, else on this node."""
    shared = Shared(ctx.paths)
    try:
        if reaches_storage(report.findings):
            ctx.system.on_storage(lambda: shared.save_report(report), ctx.paths.shared, WRITE)
            return
    except (OSError, PetalError) as error:
        LOG.info("the report stays on this node: %s", error)
    write_document(ctx.paths.var / "report.json", report.to_dict())


def crash(error: Exception, paths: Paths, run_id: str) -> dict[str, Any]:
    """Writes the crash report of a bug and returns the error that names it."""
    text = redacted("".join(traceback.format_exception(type(error), error, error.__traceback__)))
    LOG.error("bug: %s", text)
    target: Path | str = paths.var / f"crash-{run_id}.txt"
    try:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).write_bytes(text.encode(errors="backslashreplace"))
    except OSError:
        target = "the log"
    what = redacted(f"petal-node has a bug: {type(error).__name__}: {error}")
    return {
        "code": "bug",
        "what": what,
        "why": f"the crash report is {target}",
        "remedy": ["please report it with that file"],
    }
