"""The engine: probe, apply, probe again; steps that need a failed step are blocked; every result comes from a probe."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bootstrap.core.errors import LockLost, PetalError
from bootstrap.core.model import (  # fmt: skip
    Finding,
    Outcome,
    Role,
    Scope,
    Status,
    StepReport,
    accepted,
    blocked,
    change,
    elsewhere,
    plain,
    satisfied,
)
from bootstrap.engine import converge as engine
from bootstrap.engine.run_locks import NODE_LOCK
from bootstrap.host import atomic
from bootstrap.host.locks import Holder, Lock
from bootstrap.host.log import close_log, entries, open_log
from bootstrap.host.processes import own_start
from bootstrap.state.context import Context
from bootstrap.steps.base import Step
from bootstrap.steps.packages import Packages
from tests.world import World, typed

MISSING = change("missing", "write it")


class Toy(Step):
    """A step with configurable probe and apply."""

    def __init__(
        self,
        name: str,
        probes: list[Finding],
        error: Exception | None = None,
        needs: tuple[str, ...] = (),
        roles: frozenset[Role] = frozenset(Role),
        scope: Scope = Scope.NODE,
        *,
        local: bool = True,
        background: bool = False,
    ) -> None:
        self.name = name
        self.probes = probes
        self.error = error
        self.needs = tuple(SimpleNamespace(name=need) for need in needs)
        self.roles, self.scope, self.local, self.background = roles, scope, local, background
        self.applied = 0
        self.seen: list[str] = []

    def probe(self, _ctx: Context) -> Finding:
        return self.probes.pop(0) if len(self.probes) > 1 else self.probes[0]

    def apply(self, _ctx: Context) -> None:
        self.applied += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def ctx(tmp_path: Path) -> Context:
    world = World(tmp_path / "node")
    world.paths.locks.mkdir(parents=True)
    return world.context


def run(ctx: Context, *steps: Toy) -> dict[str, StepReport]:
    return {report.name: report for report in engine.converge(steps, ctx, lambda _: None)}


def test_a_step_that_holds_is_not_applied(ctx: Context) -> None:
    step = Toy("a", [satisfied("it is there")])
    assert run(ctx, step)["a"].outcome is Outcome.OK
    assert step.applied == 0


def test_a_change_is_applied_and_probed_again(ctx: Context) -> None:
    step = Toy("a", [MISSING, MISSING, satisfied("it is there")])
    report = run(ctx, step)["a"]
    assert (report.outcome, report.reason, report.changes, step.applied) == (
        Outcome.CHANGED,
        "it is there",
        ("write it",),
        1,
    )


def test_a_step_is_not_applied_if_another_run_did_it_during_the_wait_for_the_lock(ctx: Context) -> None:
    step = Toy("a", [MISSING, satisfied("another run made it")])
    assert run(ctx, step)["a"].outcome is Outcome.OK
    assert step.applied == 0


def test_a_step_that_does_not_hold_after_its_apply_is_reported_as_a_bug(ctx: Context) -> None:
    report = run(ctx, Toy("a", [change("still missing", "write it")]))["a"]
    assert report.outcome is Outcome.FAILED
    assert report.error is not None
    assert report.error["code"] == "not-converged"


def test_steps_that_need_a_failed_step_are_blocked_and_others_continue(ctx: Context) -> None:
    bad = Toy("bad", [MISSING], PetalError("it broke", remedy="mend it"))
    child = Toy("child", [MISSING], needs=("bad",))
    grandchild = Toy("grandchild", [MISSING], needs=("child",))
    other = Toy("other", [satisfied("fine")])
    reports = run(ctx, bad, child, grandchild, other)
    assert reports["bad"].remedy == ("mend it",)
    assert reports["child"].outcome is reports["grandchild"].outcome is Outcome.BLOCKED
    assert reports["child"].reason == "needs the step bad (failed)"
    assert child.applied == grandchild.applied == 0
    assert reports["other"].outcome is Outcome.OK
    assert engine.status_of(list(reports.values())) is Status.FAILED


def test_only_a_plan_searches_the_tarballs_and_none_on_storage_that_a_run_mounts_first(tmp_path: Path) -> None:
    world = World(tmp_path / "node", live=True)
    mounts = world.mounts
    world.config_text = (
        "storage: {source: 'fs-0123:/', mount: /shared}\n"
        f"packages: [{{name: p, version: '1', source: {world.paths.shared_mount}/p.tar.gz, sha256: {'a' * 64}}}]"
    )
    step = Packages()
    for command in ("plan", "check", "repair"):
        assert step.probe(typed(world.context, command=command)).pending
    world.mounts = ()
    assert engine.plan([step], world.context)[0].outcome is Outcome.WOULD_CHANGE
    world.mounts = mounts
    (report,) = engine.plan([step], world.context)
    assert (report.outcome, report.error["code"] if report.error else "") == (Outcome.BLOCKED, "fetch-missing")
    assert "petal.yaml:2: packages[0].source: " in report.reason


def test_an_accepted_failure_blocks_no_step_and_degrades_the_run(ctx: Context) -> None:
    lack = accepted("2 of 3 are there", PetalError("one is missing", remedy="less x.log", code="spack-partial"))
    reports = run(
        ctx,
        Toy("a", [MISSING, MISSING, lack]),
        Toy("b", [satisfied("fine")], needs=("a",)),
    )
    assert reports["a"].outcome is Outcome.CHANGED
    assert reports["a"].error is not None
    assert reports["a"].remedy == ("less x.log",)
    assert reports["b"].outcome is Outcome.OK
    assert engine.status_of(list(reports.values())) is Status.DEGRADED


def test_the_progress_of_a_step_is_passed_to_the_listener(ctx: Context) -> None:
    class Long(Toy):
        def apply(self, ctx: Context) -> None:
            ctx.progress("installing 1 of 2")

    events: list[StepReport] = []
    engine.converge(
        [Long("a", [MISSING, MISSING, satisfied("there")])],
        ctx,
        events.append,
    )
    assert [(report.outcome, report.reason) for report in events] == [
        (Outcome.RUNNING, "missing"), (Outcome.RUNNING, "installing 1 of 2"), (Outcome.CHANGED, "there"),
    ]  # fmt: skip


def test_a_full_disk_is_an_error_with_a_remedy_and_not_a_bug(ctx: Context) -> None:
    report = run(ctx, Toy("a", [MISSING], OSError(errno.ENOSPC, "No space left", "/shared/x")))["a"]
    assert report.error is not None
    assert report.error["code"] == "file-no-space"
    assert "df -h" in report.remedy[0]


def test_blocked_and_skipped_steps_have_their_reasons(ctx: Context) -> None:
    reports = run(ctx, Toy("a", [blocked("no disk", "mount it")]), Toy("b", [elsewhere("no stack")]))
    assert (reports["a"].outcome, reports["a"].remedy) == (Outcome.BLOCKED, ("mount it",))
    assert (reports["b"].outcome, reports["b"].reason) == (Outcome.SKIPPED, "no stack")
    assert engine.status_of(list(reports.values())) is Status.DEGRADED


def test_a_probe_that_fails_blocks_its_step_and_is_in_the_log(ctx: Context) -> None:
    class Refused(Toy):
        def probe(self, _ctx: Context) -> Finding:
            raise PermissionError(errno.EACCES, "Permission denied", "/etc/x")

    open_log(ctx.paths.log, "run-1")
    try:
        report = run(ctx, Refused("a", []))["a"]
    finally:
        close_log()
    assert report.outcome is Outcome.BLOCKED
    (line,) = [entry for entry in entries(ctx.paths.log) if entry.level == "warning"]
    assert (line.step, line.message) == ("a", f"blocked: {report.reason}")
    assert "/etc/x" in line.message


def test_an_exception_fails_only_its_step_and_dependent_steps(ctx: Context) -> None:
    reports = run(ctx, Toy("a", [MISSING], KeyError("oops")), Toy("b", [satisfied("fine")], needs=()))
    assert reports["a"].error is not None
    assert reports["a"].error["code"] == "bug"
    assert reports["b"].outcome is Outcome.OK


def test_a_failed_proof_degrades_the_run_without_failing_it(ctx: Context) -> None:
    report = run(ctx, Toy("proof", [MISSING], PetalError("no", code="proof-failed"), background=True))["proof"]
    assert engine.status_of([report]) is Status.DEGRADED


def test_cluster_steps_are_applied_under_the_cluster_lock_and_background_steps_under_none(ctx: Context) -> None:
    held: dict[str, set[str]] = {}

    class Watching(Toy):
        def apply(self, ctx: Context) -> None:
            from bootstrap.host import locks as lock

            held[self.name] = {path.name for path in lock._held}
            super().apply(ctx)

    def make(name: str, scope: Scope, *, background: bool = False) -> Watching:
        return Watching(name, [MISSING, MISSING, satisfied("y")], scope=scope, background=background)

    late = make("late", Scope.NODE, background=True)
    late.probes = [MISSING, satisfied("y")]
    run(ctx, make("node", Scope.NODE), make("cluster", Scope.CLUSTER), make("after", Scope.NODE), late)
    both = {"stack.lock", NODE_LOCK}
    assert held == {"node": {NODE_LOCK}, "cluster": {"stack.lock"}, "after": both, "late": set()}


def test_a_compute_node_never_takes_the_cluster_lock(tmp_path: Path) -> None:
    from bootstrap.engine.registry import STEPS

    assert all(step.roles == {Role.HEAD} for step in STEPS if step.scope is Scope.CLUSTER)


def test_on_node_start_runs_only_local_steps(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    ctx = typed(world.context, event="start")
    step = Toy("a", [MISSING], local=False)
    assert "OnNodeStart" in run(ctx, step)["a"].reason
    assert step.applied == 0


DEAD = Holder("ip-10-0-0-10", 1 << 30, "boot-1", 1.0, "2026-11-24T08:00:00Z", "run-0")


@pytest.mark.parametrize(
    ("before", "ended"),
    [
        (DEAD, ["run-0"]),
        (replace(DEAD, pid=os.getpid(), process_start=own_start()), []),
        (replace(DEAD, pid=os.getpid()), ["run-0"]),
        (replace(DEAD, boot_id="boot-0"), []),
        (replace(DEAD, host="ip-10-0-0-11"), []),
    ],
    ids=["killed", "alive, in the background", "its number is another's now", "before the boot", "another node's"],
)
def test_taking_the_cluster_lock_kills_processes_of_a_dead_holder(
    tmp_path: Path, before: Holder, ended: list[str]
) -> None:
    world = World(tmp_path / "node")
    world.paths.locks.mkdir(parents=True)
    atomic.write_json(world.paths.locks / "stack.holder", plain(before))
    run(world.context, Toy("a", [MISSING, MISSING, satisfied("y")], scope=Scope.CLUSTER))
    assert world.system.ended == ended


def test_a_foreground_run_does_not_probe_a_step_below_a_blocked_one(ctx: Context) -> None:
    """The proof is on shared storage, and reading it would hang if storage hangs."""
    bad = Toy("bad", [blocked("storage hangs")])
    proof = Toy("proof", [], needs=("bad",), background=True)
    reports = engine.converge([bad, proof], ctx, lambda _: None, background=False)
    assert [report.outcome for report in reports] == [Outcome.BLOCKED, Outcome.BLOCKED]


def test_work_that_failed_under_a_new_cluster_lock_is_repeated_for_the_next_step(
    ctx: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the job of a killed run could build at the same time."""
    failures = [PetalError("the abandoned job cannot be ended")]

    def end(*_: object) -> None:
        if failures:
            raise failures.pop()

    monkeypatch.setattr("bootstrap.engine.run_locks.ON_CLUSTER_LOCK", (end,))
    first, second, third = (
        Toy(name, [MISSING, MISSING, satisfied("y")], scope=Scope.CLUSTER) for name in ("first", "second", "third")
    )
    done = run(ctx, first, second, third)
    assert [report.outcome for report in done.values()] == [Outcome.FAILED, Outcome.CHANGED, Outcome.CHANGED]
    assert (first.applied, failures) == (0, [])
    assert run(ctx, Toy("later", [MISSING, MISSING, satisfied("y")], scope=Scope.CLUSTER))["later"].outcome.holds


def test_a_run_that_lost_its_lock_runs_no_further_step(ctx: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another run took the lock during a step: no later step is applied."""

    def lost(_: Lock) -> None:
        raise LockLost("stack.lock was lost")

    first = Toy("first", [MISSING, MISSING, satisfied("y")], scope=Scope.CLUSTER)
    second = Toy("second", [MISSING], scope=Scope.CLUSTER)
    monkeypatch.setattr(Lock, "confirm", lost)
    done = run(ctx, first, second)
    assert done["first"].outcome is Outcome.CHANGED
    assert done["second"].error is not None
    assert done["second"].error["code"] == "lock-lost"
    assert second.applied == 0


def test_a_cluster_step_can_confirm_its_lock(ctx: Context) -> None:
    """It gets an error if the lock was lost after the start of the step."""

    class Slow(Toy):
        def apply(self, ctx: Context) -> None:
            ctx.confirm()
            holder = ctx.paths.locks / "stack.holder"
            holder.write_text(holder.read_text().replace(ctx.run_id, "another-run"))
            ctx.confirm()

    step = Slow("slow", [MISSING], scope=Scope.CLUSTER)
    error = run(ctx, step)["slow"].error
    assert error is not None
    assert error["code"] == "lock-lost"
    assert "another-run" in str(error["why"])


def test_steps_that_a_run_has_done_are_not_repeated(ctx: Context) -> None:
    step = Toy("a", [MISSING, MISSING, satisfied("y")])
    before = engine.converge((step,), ctx, lambda _: None)
    after = engine.converge((step, Toy("b", [satisfied("z")])), ctx, lambda _: None, already=before)
    assert step.applied == 1
    assert [report.outcome for report in after] == [Outcome.CHANGED, Outcome.OK]
