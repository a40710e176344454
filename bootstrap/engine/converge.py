"""Probes all steps (that is the plan); applies a plan under the locks; probes again; never claims what it did not see.

Node steps are applied under a lock of this node, cluster steps under the lock on shared storage, background steps
under neither: they only wait and record. A lock is taken when the first change asks for it, and the step is probed
again behind it, since somebody else may have done it meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..core.errors import NotConverged, PetalError, StateError, StorageError, as_error
from ..core.model import Outcome, Probe, Scope, Status, StepReport, Verdict
from ..host.log import LOG
from ..host.processes import has_process
from ..spack.job.submit import end_left
from ..state.cluster_lock import Holder, Lock, builders_ended, own_holder
from ..state.context import Context
from ..state.store import Shared
from ..steps.base import Step
from ..steps.registry import CARRIED

NODE_LOCK = "node.lock"
UNCHANGED = {
    Verdict.SATISFIED: Outcome.OK,
    Verdict.BLOCKED: Outcome.BLOCKED,
    Verdict.ELSEWHERE: Outcome.SKIPPED,
}
# What only a correction of the configuration helps against, found by a step.
OF_THE_CONFIGURATION = frozenset({"spec-unknown", "lock-unfit", "lock-invalid", "job-queue"})
Listener = Callable[[StepReport], None]


@dataclass(frozen=True)
class Waits:
    """How long a lock is waited for, in seconds."""

    node: float = 120.0
    cluster: float = 7200.0


def plan(steps: Sequence[Step], ctx: Context) -> tuple[StepReport, ...]:
    """What a run would do, step by step, each with its reason. Changes nothing."""
    reports: dict[str, StepReport] = {}
    for step in steps:
        reports[step.name] = _skip(step, ctx) or _unmet(step, reports) or _planned(step, ctx)
    return tuple(reports.values())


def converge(
    steps: Sequence[Step],
    ctx: Context,
    listen: Listener,
    waits: Waits | None = None,
    *,
    background: bool = True,
    already: Sequence[StepReport] = (),
) -> tuple[StepReport, ...]:
    """Makes every step hold, in order.

    A step that fails or is blocked keeps those that need it from being tried; the others go on.

    Args:
        listen: told each step when it waits for somebody else's lock (``waiting``, with whom), when it starts to change
            something (``running``) and when it has ended.
        background: also do what nobody waits for; a run in the foreground leaves that to who comes after it.
        already: what this run has done before; these steps are not tried again.
    """
    done = {report.name: report for report in already}
    with ExitStack() as locks:
        held = _Held(ctx, waits or Waits(), locks, listen)
        for step in (step for step in steps if not step.background and step.name not in done):
            done[step.name] = _one(step, ctx, done, listen, held)
            listen(done[step.name])
    for step in (step for step in steps if step.background):
        done[step.name] = _one(step, ctx, done, listen, None) if background else _left(step, ctx, done)
        listen(done[step.name])
    return tuple(done.values())


def _left(step: Step, ctx: Context, done: Mapping[str, StepReport]) -> StepReport:
    report = _skip(step, ctx) or _unmet(step, done) or _planned(step, ctx)
    return replace(report, outcome=Outcome.SKIPPED) if report.outcome is Outcome.WOULD_CHANGE else report


def status_of(reports: Sequence[StepReport]) -> Status:
    """How a run as a whole stands."""
    outcomes = [report.outcome for report in reports]
    if any(_fails(report) for report in reports):
        return Status.FAILED
    accepted = any(report.error is not None and report.outcome.holds for report in reports)
    if accepted or Outcome.FAILED in outcomes or Outcome.BLOCKED in outcomes:
        return Status.DEGRADED
    if any(outcome.goes_on for outcome in outcomes):
        return Status.RUNNING
    changed = {Outcome.CHANGED, Outcome.WOULD_CHANGE}
    return Status.CHANGED if changed & set(outcomes) else Status.OK


def _fails(report: StepReport) -> bool:
    code = str((report.error or {}).get("code", ""))
    return code in OF_THE_CONFIGURATION or (report.outcome is Outcome.FAILED and not code.startswith("proof-"))


@dataclass(frozen=True)
class _Verb:
    """What holds the cluster's lock and is no step."""

    name: str
    title: str
    scope: Scope = Scope.CLUSTER


@contextmanager
def alone(ctx: Context, verb: str, seconds: float, listen: Listener) -> Iterator[Context]:
    """Holds what an install holds, for a verb that changes what all nodes share.

    Args:
        seconds: how long an install that goes on is waited for.
        listen: told whom this waits for.

    Raises:
        LockTimeout: it still goes on.
    """
    with ExitStack() as locks:
        held = _Held(ctx, Waits(cluster=seconds), locks, listen)
        with held.around(_Verb(verb, verb)) as inside:
            yield inside


class _Held:
    """The locks of one run: the cluster's is kept to its end, the node's only for one step.

    So nobody who holds the node's ever waits for the cluster's, and two runs never wait for each other.
    """

    def __init__(self, ctx: Context, waits: Waits, locks: ExitStack, listen: Listener) -> None:
        self._ctx = ctx
        self._listen = listen
        self._waits = waits
        self._locks = locks
        self._cluster: Lock | None = None
        self._before: Holder | None = None
        self._builders: int | None = None

    @contextmanager
    def around(self, step: Step | _Verb) -> Iterator[Context]:
        """Holds what a step needs, and gives the context with which it can confirm that."""
        if step.scope is Scope.NODE:
            with self._lock(step, self._ctx.paths.var / NODE_LOCK, self._waits.node, nameless=True):
                yield self._ctx
            return
        path = self._ctx.cluster_lock
        if self._cluster is None:
            lock = self._lock(step, path, self._waits.cluster, self._end_what_is_left)
            self._cluster = self._locks.enter_context(lock)
            end_left(self._ctx.paths, self._ctx.system)  # jobs of killed runs, whoever held the lock last
        else:
            self._cluster.confirm()
        if step.name != "owner":  # which takes a storage over
            self._refuse_what_was_taken_over()
            self._refuse_what_is_not_wanted()
        if self._builders is None:
            wait = partial(self._wait_for, step)
            left = builders_ended(path.with_suffix(".builders"), self._before, self._waits.cluster, wait)
            self._builders = self._locks.enter_context(left)
        yield replace(self._ctx, confirm=self._cluster.confirm, builders=self._builders)

    def _refuse_what_was_taken_over(self) -> None:
        """Whoever waited for the lock may find that the storage serves another cluster by now."""
        if not Shared(self._ctx.paths).is_from_before():
            where = self._ctx.paths.shared_mount
            raise StorageError(
                f"{where} was taken over while this run waited, or another file system came in its place",
                remedy=("petal-node status", f"findmnt {where}"),
                code="storage-changed",
            )

    def _refuse_what_is_not_wanted(self) -> None:
        """Whoever obeys wanted.json and waited for the lock may find another release in it: a rollback, an update."""
        ctx = self._ctx
        if ctx.decides or ctx.bakes or ctx.release is None:
            return
        wanted = Shared(ctx.paths).wanted()
        if wanted is not None and wanted.release != ctx.release:
            raise StateError(
                f"this run was to make release {ctx.release}, and the cluster wants {wanted.release} by now",
                why="a rollback or an update came before it",
                remedy="petal-node bootstrap    (the service at boot and its timer do it too)",
                code="state-settled",
            )

    def _lock(
        self,
        step: Step | _Verb,
        path: Path,
        timeout: float,
        inherit: Callable[[Holder], None] | None = None,
        *,
        nameless: bool = False,
    ) -> Lock:
        host = self._ctx.facts.host
        holder = own_holder(host.name, host.boot_id, self._ctx.run_id)
        waiting = partial(self._wait_for, step)
        return Lock(path, holder, timeout=timeout, waiting=waiting, inherit=inherit, nameless=nameless)

    def _wait_for(self, step: Step | _Verb, other: str) -> None:
        LOG.info("waiting for %s", other, extra={"step": step.name})
        self._listen(_report(step, Outcome.WAITING, f"waiting for {other}"))

    def _end_what_is_left(self, before: Holder) -> None:
        """The builders of a run that was killed live on, and would write into the store beside ours."""
        self._before = before
        host = self._ctx.facts.host
        if (before.host, before.boot_id) != (host.name, host.boot_id) or has_process(before.pid, before.process_start):
            return
        ended = self._ctx.system.end_run(before.run_id)
        if ended:
            LOG.warning("ended %d processes that run %s had left behind", ended, before.run_id)


def _skip(step: Step, ctx: Context) -> StepReport | None:
    if ctx.role not in step.roles:
        return _report(step, Outcome.SKIPPED, "the head node does it")
    if step.name in CARRIED and not ctx.config.bound and not ctx.bakes:
        return _report(step, Outcome.SKIPPED, "the machine image carries it")
    if ctx.event == "start" and not step.local:
        return _report(step, Outcome.SKIPPED, "shared storage is not mounted at OnNodeStart")
    return None


def _unmet(step: Step, done: Mapping[str, StepReport]) -> StepReport | None:
    """Blocked by what it needs; in a plan what would change is taken to hold by then."""
    good = (Outcome.OK, Outcome.CHANGED, Outcome.SKIPPED, Outcome.WOULD_CHANGE)
    names = [name for name in step.needs if name in done and done[name].outcome not in good]
    return _report(step, Outcome.BLOCKED, f"needs {', '.join(names)}") if names else None


def _planned(step: Step, ctx: Context) -> StepReport:
    try:
        probe = step.probe(ctx)
    except (PetalError, OSError) as trouble:
        error = as_error(trouble, ctx.paths.shared_mount)
        return _failed(step, error, 0.0)
    return _of_probe(step, probe, UNCHANGED.get(probe.verdict, Outcome.WOULD_CHANGE))


def _one(step: Step, ctx: Context, done: dict[str, StepReport], listen: Listener, held: _Held | None) -> StepReport:
    skipped = _skip(step, ctx)
    if skipped:
        return skipped
    blocked = _unmet(step, done)
    if blocked:
        return blocked
    started = time.monotonic()
    try:
        report = _probe_apply_probe(step, ctx, listen, held)
    except (PetalError, OSError) as trouble:
        error = as_error(trouble, ctx.paths.shared_mount)
        LOG.error("%s: %s", step.name, error, extra={"step": step.name})
        return _failed(step, error, time.monotonic() - started)
    except Exception as bug:  # noqa: BLE001 - a bug costs its step, and what needs it
        LOG.exception("bug in %s", step.name, extra={"step": step.name})
        what = f"petal-node has a bug in {step.name}: {type(bug).__name__}: {bug}"
        error = PetalError(
            what, why=f"the log has its traceback: {ctx.paths.log}", remedy="please report it", code="bug"
        )
        return _failed(step, error, time.monotonic() - started)
    return replace(report, seconds=round(time.monotonic() - started, 2))


def _probe_apply_probe(step: Step, ctx: Context, listen: Listener, held: _Held | None) -> StepReport:
    probe = step.probe(ctx)
    if probe.verdict is not Verdict.CHANGE:
        return _of_probe(step, probe, UNCHANGED[probe.verdict])
    if held is None:
        return _apply_probe(step, ctx, probe, listen)
    with held.around(step) as inside:
        probe = step.probe(inside)
        if probe.verdict is not Verdict.CHANGE:
            return _of_probe(step, probe, UNCHANGED[probe.verdict])
        return _apply_probe(step, inside, probe, listen)


def _apply_probe(step: Step, ctx: Context, probe: Probe, listen: Listener) -> StepReport:
    running = _of_probe(step, probe, Outcome.RUNNING)
    listen(running)
    LOG.info("apply: %s", probe.reason, extra={"step": step.name})
    step.apply(replace(ctx, progress=lambda text: listen(replace(running, reason=text))))
    after = step.probe(ctx)
    if after.verdict is not Verdict.SATISFIED:
        raise NotConverged(
            f"{step.name} was applied and does not hold",
            why=after.reason,
            remedy=after.remedy or ("petal-node plan", "please report it with /var/log/petal-node.log"),
        )
    LOG.info("done: %s", after.reason, extra={"step": step.name})
    return _of_probe(step, after, Outcome.CHANGED, probe.changes)


def _of_probe(step: Step, probe: Probe, outcome: Outcome, changes: tuple[str, ...] | None = None) -> StepReport:
    return StepReport(
        step.name,
        step.title,
        outcome,
        probe.reason,
        probe.changes if changes is None else changes,
        probe.remedy,
        error=probe.error,
    )


def _report(step: Step | _Verb, outcome: Outcome, reason: str) -> StepReport:
    return StepReport(step.name, step.title, outcome, reason)


def _failed(step: Step, error: PetalError, seconds: float) -> StepReport:
    detail: dict[str, Any] = error.to_dict()
    return StepReport(step.name, step.title, Outcome.FAILED, str(error), (), error.remedy, round(seconds, 2), detail)
