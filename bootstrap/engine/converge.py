"""Probes all steps (a plan), applies the changes of a plan under the locks, and probes again.

Steps of the node are applied under a lock of this node, steps of the cluster under the lock on shared storage,
background steps under neither: they only wait and record. A lock is taken when the first change needs it, and the step
is probed again under it, because another process may have made the change.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace

from ..core.errors import Bug, ExitCode, NotConverged, PetalError, from_error
from ..core.model import Finding, Mode, Outcome, Status, StepReport, blocked, elsewhere, refused
from ..host.log import LOG
from ..state.context import Context
from ..steps.base import Step
from .inputs import look_up, with_answers
from .run_locks import RunLocks

Listener = Callable[[StepReport], None]
ENOUGH = (Outcome.OK, Outcome.CHANGED, Outcome.SKIPPED, Outcome.WOULD_CHANGE)


def plan(steps: Sequence[Step], ctx: Context) -> tuple[StepReport, ...]:
    """What a run would do, step by step, each with its reason and its inputs. Changes nothing."""
    reports: dict[str, StepReport] = {}
    for step in steps:
        reports[step.name] = _planned(step, ctx, reports)
    asked = [step for step in steps if reports[step.name].outcome in (Outcome.WOULD_CHANGE, Outcome.BLOCKED)]
    hangs = any(report.error and report.error["code"] == "storage-hangs" for report in reports.values())
    answers = look_up(asked, ctx, storage_hangs=hangs)
    for step in asked:
        report = reports[step.name]
        blocked_now = _not_applicable(step, ctx, reports) if report.outcome is Outcome.WOULD_CHANGE else None
        report = _report(step, blocked_now) if blocked_now else report
        own = {key: answer for (name, key), answer in answers.items() if name == step.name}
        reports[step.name] = _later(with_answers(report, own, ctx))
    return tuple(reports.values())


def converge(
    steps: Sequence[Step],
    ctx: Context,
    listen: Listener,
    *,
    background: bool = True,
    already: Sequence[StepReport] = (),
) -> tuple[StepReport, ...]:
    """Makes every step hold, in order.

    If a step fails or is blocked, the steps that need it are not tried; the others are.

    Args:
        listen: called with each step when it waits for a lock (``waiting``, with the holder), when it starts to change
            something (``running``) and when it has ended.
        background: also apply background steps; a run in the foreground leaves them to a later run.
        already: reports of this run's earlier part; these steps are not tried again.
    """
    reports = {report.name: report for report in already}
    with ExitStack() as stack:
        locks = RunLocks(ctx, stack, listen)
        for step in (step for step in steps if not step.background and step.name not in reports):
            reports[step.name] = _run_step(step, ctx, reports, listen, locks)
            listen(reports[step.name])
    for step in (step for step in steps if step.background):
        if background:
            reports[step.name] = _run_step(step, ctx, reports, listen, None)
        else:
            reports[step.name] = _later(_planned(step, ctx, reports))
        listen(reports[step.name])
    return tuple(reports.values())


def _later(report: StepReport) -> StepReport:
    """A change of a background step is left to the worker of a hook, or to the command that the reason names."""
    is_left = report.background and report.outcome is Outcome.WOULD_CHANGE
    return replace(report, outcome=Outcome.SKIPPED) if is_left else report


def status_of(reports: Sequence[StepReport]) -> Status:
    """The status of a run as a whole."""
    outcomes = {report.outcome for report in reports}
    failed = [report for report in reports if report.outcome is Outcome.FAILED and not report.background]
    if failed or any(report.exit == ExitCode.CONFIG for report in reports):
        return Status.FAILED
    accepted = any(report.error is not None and report.outcome.holds for report in reports)
    if accepted or outcomes & {Outcome.FAILED, Outcome.BLOCKED}:
        return Status.DEGRADED
    if any(outcome.is_running for outcome in outcomes):
        return Status.RUNNING
    return Status.CHANGED if outcomes & {Outcome.CHANGED, Outcome.WOULD_CHANGE} else Status.OK


def exit_of(reports: Sequence[StepReport], status: Status) -> int:
    """The exit code of a command with these reports: the most telling code of an error, else that of the status."""
    codes = {report.exit for report in reports}
    telling = (ExitCode.BUG, ExitCode.CONFIG, ExitCode.TRY_AGAIN)
    return int(next((code for code in telling if code in codes), status.exit))


def _not_applicable(step: Step, ctx: Context, done: Mapping[str, StepReport]) -> Finding | None:
    """A finding without a probe: the step is not for this node or event, or a step that it needs does not hold."""
    if ctx.role not in step.roles:
        return elsewhere("only the head node does this")
    if step.in_image and not ctx.config.root_is_shared and ctx.mode is not Mode.IMAGE:
        return elsewhere("the machine image contains it")
    if ctx.options.event == "start" and not step.local:
        return elsewhere("shared storage is not mounted at OnNodeStart")
    needs = (done[need.name] for need in step.needs if need.name in done)
    failed = [f"{need.name} ({need.outcome.value})" for need in needs if need.outcome not in ENOUGH]
    return blocked(f"needs the step{'' if len(failed) == 1 else 's'} {', '.join(failed)}") if failed else None


def _planned(step: Step, ctx: Context, done: Mapping[str, StepReport]) -> StepReport:
    return _report(step, _not_applicable(step, ctx, done) or step.probe_or_error(ctx))


def _run_step(
    step: Step, ctx: Context, done: Mapping[str, StepReport], listen: Listener, locks: RunLocks | None
) -> StepReport:
    finding = _not_applicable(step, ctx, done)
    if finding is not None:
        return _report(step, finding)
    started = time.monotonic()
    try:
        report = _probe_apply_probe(step, ctx, listen, locks)
        if report.outcome.holds:
            step.on_held(ctx)
        elif report.outcome is Outcome.BLOCKED:
            LOG.warning("blocked: %s", report.reason, extra={"step": step.name})
    except (PetalError, OSError) as trouble:
        error = from_error(trouble, ctx.paths.shared_mount)
        LOG.error("%s: %s", step.name, error, extra={"step": step.name})
        report = _report(step, refused(error), Outcome.FAILED)
    except Exception as bug:  # noqa: BLE001 - a bug costs its step, and the steps that need it
        LOG.exception("bug in %s", step.name, extra={"step": step.name})
        what = f"petal-node has a bug in {step.name}: {type(bug).__name__}: {bug}"
        why = f"the log has its traceback: {ctx.paths.log}"
        report = _report(step, refused(Bug(what, why=why, remedy="please report it")), Outcome.FAILED)
    return replace(report, seconds=round(time.monotonic() - started, 2))


def _probe_apply_probe(step: Step, ctx: Context, listen: Listener, locks: RunLocks | None) -> StepReport:
    finding = step.probe_or_error(ctx)
    if not finding.pending:
        return _report(step, finding)
    if locks is None:
        return _apply(step, ctx, finding, listen)
    with locks.hold(_report(step, finding), step.scope, claims_storage=step.claims_storage) as inside:
        finding = step.probe_or_error(inside)
        return _apply(step, inside, finding, listen) if finding.pending else _report(step, finding)


def _apply(step: Step, ctx: Context, finding: Finding, listen: Listener) -> StepReport:
    running = _report(step, finding, Outcome.RUNNING)
    listen(running)
    LOG.info("apply: %s", finding.reason, extra={"step": step.name})

    def warn(error: PetalError) -> None:
        LOG.warning("%s", error, extra={"step": step.name})
        listen(replace(running, reason=str(error), remedy=error.remedy, error=error.to_dict()))

    step.apply(replace(ctx, progress=lambda text: listen(replace(running, reason=text)), warn=warn))
    after = step.probe(ctx)
    if after.blocked:  # the apply has made its changes; the rest needs ``--yes`` or an administrator
        return _report(step, after)
    if not after.holds:
        raise NotConverged(
            f"{step.name} was applied and does not hold",
            why=after.reason,
            remedy=after.remedy or ("petal-node plan", "please report it with /var/log/petal-node.log"),
        )
    LOG.info("done: %s", after.reason, extra={"step": step.name})
    return _report(step, replace(after, changes=finding.changes), Outcome.CHANGED)


def _report(step: Step, finding: Finding, outcome: Outcome | None = None) -> StepReport:
    """The report of a step with this finding. Without ``outcome`` it is that of a probe."""
    if outcome is None and finding.pending:
        outcome = Outcome.WOULD_CHANGE
    elif outcome is None and finding.skipped:
        outcome = Outcome.SKIPPED
    elif outcome is None:
        outcome = Outcome.OK if finding.holds else Outcome.BLOCKED
    return StepReport(
        step.name,
        outcome,
        finding.reason,
        finding.changes,
        finding.remedy,
        error=finding.error,
        exit=finding.exit,
        background=step.background,
    )
