"""One run: prepare, converge, check this node, and keep the record at every moment."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from ..checks.node import check_node, reaches_storage
from ..cluster.limits import hook_budget
from ..core.deadlines import WRITE
from ..core.errors import ExitCode, PetalError, from_error
from ..core.model import NodeReport, Outcome, Role, RunRecord, Severity, Status, StepReport, plain
from ..core.options import BOOT, Options
from ..host.log import LOG
from ..host.processes import Terminated, terminable
from ..repair.permissions import Permissions
from ..state.context import Context, Services
from ..state.request import keep_request
from ..state.store import ClusterState, write_document
from ..steps.base import Step
from ..steps.boot_service import arrange_timer
from .converge import converge, exit_of, status_of
from .followers import kept_by_nodes, not_following
from .prepare import prepare, prepare_without_config
from .recorder import Recorder, crash
from .registry import BEFORE_DESIRED, CHECKS, LOCAL, awaits_mount, names_new_storage, steps_for
from .tidy import tidy

CHECKED_EVENTS = ("configured", "updated", BOOT)
SEVERITY = (Status.OK, Status.CHANGED, Status.RUNNING, Status.DEGRADED, Status.FAILED)


def run(options: Options, services: Services) -> RunRecord:
    """Converges this node and returns the finished record. Expected errors are in the record, they are not raised.

    ``repair`` applies other steps than ``bootstrap``, and checks the node at the end, whatever its role. Only a run of
    an event waits for compute nodes and proves; an operator does not wait for that.
    """
    paths = options.paths
    recorder = Recorder(options, services)
    try:
        with terminable():
            _run_to_the_end(options, services, recorder)
    except (KeyboardInterrupt, Terminated) as signalled:
        code = ExitCode.TERMINATED if isinstance(signalled, Terminated) else ExitCode.INTERRUPTED
        step = recorder.record.running_step
        what = f"the run was ended by a signal{f' in the step {step}' if step else ''}"
        error = PetalError(what, remedy=options.again, code="interrupted")
        recorder.close(Status.FAILED, code, error.to_dict())
        LOG.error("%s", error)
    if options.event in CHECKED_EVENTS:
        arrange_timer(recorder.record, paths, services.system)
    return recorder.record


def _run_to_the_end(options: Options, services: Services, recorder: Recorder) -> None:
    """Runs, and closes the record unless a signal ends the run."""
    try:
        with suppress(OSError):  # abandoned files may fill the disk
            recorder.update()  # a hook waits for the record, and their removal can take minutes
        tidy(options.paths, services.system, services.run_id)
        recorder.update()
        keep_request(options)
        status, code = _run(options, services, recorder)
        recorder.close(status, code)
    except (PetalError, OSError) as trouble:
        error = from_error(trouble, None)
        LOG.error("%s", error)
        recorder.update(errors=(error.to_dict(),))
        if options.event:
            _converge_without_config(options, services, recorder)
        recorder.close(Status.FAILED, error.exit)
    except Exception as bug:  # noqa: BLE001 - a bug leaves a record and a report, not a broken node
        recorder.close(Status.FAILED, ExitCode.BUG, crash(bug, options.paths, services.run_id).to_dict())


def _run(options: Options, services: Services, recorder: Recorder) -> tuple[Status, int]:
    repairing = options.command == "repair"
    already: tuple[StepReport, ...] = ()
    try:
        ctx = _prepare(options, services, recorder)
    except PetalError as error:
        if not repairing or error.code not in ("untrusted", "config-missing"):
            raise
        # Records whose modes are wrong are not read, and the step that corrects the modes needs no configuration.
        already = _converge((Permissions(),), prepare_without_config(options, services), recorder)
        ctx = _prepare(options, services, recorder)
    if awaits_mount(ctx):
        already = _converge(BEFORE_DESIRED, ctx, recorder)
        ctx = _prepare(options, services, recorder)  # that storage may have the desired state
    elif names_new_storage(ctx):
        ctx = _prepare(options, services, recorder)
    before = kept_by_nodes(ctx)
    reports = _converge(steps_for(ctx), ctx, recorder, already)
    recorder.update(findings=not_following(ctx, before, ctx.config.to_dict()))
    status = status_of(reports)
    if repairing or (options.event in CHECKED_EVENTS and ctx.role is not Role.HEAD):
        checked = _self_check(ctx, recorder, reports, warnings_count=repairing)
        status = max(status, checked, key=SEVERITY.index)
    return status, exit_of(reports, status)


def _prepare(options: Options, services: Services, recorder: Recorder) -> Context:
    ctx = prepare(options, services, may_hand_over=True)
    keep_request(options, ctx)
    recorder.update(role=ctx.role.value, release=ctx.release, budget=budget_of(ctx))
    return ctx


def budget_of(ctx: Context) -> float:
    """How many seconds a hook waits for this run; the uptime counts only on a node, because a tree does not boot."""
    budget = ctx.config.install.budget
    if not ctx.paths.live:
        return float(budget)
    return hook_budget(ctx.role, ctx.options.event, budget, ctx.paths, ctx.system.uptime())


def _converge_without_config(options: Options, services: Services, recorder: Recorder) -> None:
    """Installs petal-node itself on a node without a configuration, so that an operator finds it and the timer runs."""
    try:
        _converge(LOCAL, prepare_without_config(options, services), recorder)
    except PetalError as error:
        LOG.error("%s", error)


def _converge(
    steps: Sequence[Step], ctx: Context, recorder: Recorder, already: Sequence[StepReport] = ()
) -> tuple[StepReport, ...]:
    listen, background = recorder.listener(ctx, steps), bool(ctx.options.event)
    return converge(steps, ctx, listen, background=background, already=already)


def _self_check(ctx: Context, recorder: Recorder, reports: Sequence[StepReport], *, warnings_count: bool) -> Status:
    """Checks this node; a compute or login node also saves its report. If nothing changed, no probe is repeated."""
    changed = any(report.outcome is Outcome.CHANGED for report in reports)
    report = check_node(ctx, CHECKS, () if changed else reports)
    recorder.update(findings=report.findings)  # before the report is saved, because shared storage may hang by now
    if ctx.role is not Role.HEAD:
        save_report(ctx, report)
    failed = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    for finding in failed:
        LOG.warning("check %s: %s", finding.check, finding.reason)
    warned = warnings_count and any(finding.severity is Severity.WARN for finding in report.findings)
    return Status.DEGRADED if failed or warned else Status.OK


def save_report(ctx: Context, report: NodeReport) -> None:
    """Saves the report on shared storage; on this node if storage does not answer or cannot be written."""
    shared = ClusterState(ctx.paths)
    try:
        if reaches_storage(report.findings):
            ctx.system.on_storage(lambda: shared.save_report(report), ctx.paths.shared, WRITE)
            return
    except (OSError, PetalError) as error:
        LOG.info("the report stays on this node: %s", error)
    write_document(ctx.paths.var / "report.json", plain(report))
