"""status --wait: it ends when no better state can be expected, and names the run for which it waits."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import status as verb
from bootstrap.commands.common import Services
from bootstrap.commands.status import NodeStatus
from bootstrap.core.errors import PetalError, StorageError
from bootstrap.core.facts import Cluster, External, Facts
from bootstrap.core.model import (
    Finding,
    NodeReport,
    Outcome,
    Result,
    Role,
    RunRecord,
    Severity,
    Status,
    StepReport,
    blocked,
    plain,
)
from bootstrap.core.options import Options
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.atomic import write_json
from bootstrap.host.locks import Holder
from bootstrap.report.render import show
from bootstrap.report.status_view import status_view
from bootstrap.state.desired import Proof
from bootstrap.state.runs import Runs, mark_if_killed
from bootstrap.state.store import ClusterState, write_document
from tests.world import HOST, World

RUN = RunRecord("r2", "hook", "start", "head", "n", "0.1.0", 1, "boot", "t", "t", Status.DEGRADED, 3)
RUNNING = replace(RUN, finished=None, status=Status.RUNNING)
INSTALLING = replace(RUNNING, run_id="r1", host="head")


def data(**changes: Any) -> NodeStatus:
    facts = Facts(Cluster(Role.HEAD), HOST, ())
    return replace(NodeStatus("n", Role.HEAD, "t", "0.1.0", None, (RUN,), facts), **changes)


NOTES: list[str] = []


@pytest.fixture
def services(tmp_path: Path) -> Services:
    world = World(tmp_path / "node")
    NOTES.clear()
    return Services(world.context.tool, world.system, "run-1", print, NOTES.append)


def wait(services: Services, timeout: float = 60) -> Result[NodeStatus]:
    return verb.status(Options("status", root=Path("/nowhere"), wait=True, timeout=timeout), services)


def answers(monkeypatch: pytest.MonkeyPatch, *states: tuple[Status, NodeStatus]) -> list[int]:
    """The results of ``status`` in turn, then the last one repeatedly, without sleeping."""
    asked_for: list[int] = []

    def say(_: Options, __: Services) -> Result[NodeStatus]:
        state, found = states[min(len(asked_for), len(states) - 1)]
        asked_for.append(len(asked_for))
        return Result("status", state, found)

    monkeypatch.setattr(verb, "read_status", say)
    monkeypatch.setattr(verb, "POLL", 0.0)
    return asked_for


def test_wait_returns_at_once_on_a_ready_node(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    times = answers(monkeypatch, (Status.OK, data()))
    assert wait(services).exit_code == 0
    assert len(times) == 1


def test_wait_returns_at_once_if_no_run_is_active(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    times = answers(monkeypatch, (Status.DEGRADED, data()))
    assert wait(services).exit_code == 3
    assert len(times) == 1


@pytest.mark.parametrize(
    ("going", "words"),
    [
        (data(runs=()), "no run has started on this node yet"),
        (data(runs=(RUNNING,)), "run r2 is running"),
        (data(install=INSTALLING, install_age=4.0), "head is installing (run r1)"),
    ],
)
def test_wait_names_the_active_run_once(
    services: Services, monkeypatch: pytest.MonkeyPatch, going: NodeStatus, words: str
) -> None:
    times = answers(monkeypatch, *[(Status.DEGRADED, going)] * 3, (Status.OK, data()))
    assert wait(services).exit_code == 0
    assert len(times) == 4
    assert [f"waiting: {words}"] == NOTES


def test_wait_ignores_an_install_without_updates(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, (Status.DEGRADED, data(install=INSTALLING, install_age=3600.0)))
    assert wait(services).exit_code == 3


def test_wait_exits_75_at_its_deadline(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, (Status.DEGRADED, data(runs=())))
    result = wait(services, 0)
    assert (result.exit_code, result.errors[-1]["code"]) == (75, "wait-timeout")
    assert "no run has started on this node yet" in str(result.errors[-1]["what"])


def test_wait_waits_if_the_timer_is_active(tmp_path: Path) -> None:
    world = World(tmp_path / "node", live=True)
    world.system.systemd = True
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=active\n"
    services = Services(world.context.tool, world.system, "r", print, print)
    assert verb._activity(world.paths, services, data()) == "the node is not ready, and its timer will retry"
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=inactive\n"
    assert verb._activity(world.paths, services, data()) == ""


def test_json_and_verbose_include_facts_and_externals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slurm = External("slurm", "slurm@24.05.7", "/opt/slurm", Path("/opt/slurm"))
    monkeypatch.setattr(verb, "find_externals", lambda *_: (slurm,))
    world = World(tmp_path / "node")
    services = Services(world.context.tool, world.system, "r", print, print)

    def answer(**options: bool) -> NodeStatus:
        return verb.status(Options("status", root=world.prefix, role=Role.HEAD, **options), services).data  # type: ignore[arg-type]

    assert answer().externals is None
    for known in (answer(verbose=True), answer(json=True)):
        assert known.externals == (slurm,)
        assert known.facts.cluster.role is Role.HEAD


def test_a_killed_install_of_this_node_is_not_running_and_holds_no_lock(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    record = world.paths.state / "stack.json"
    killed = replace(RUNNING, host=world.system.hostname(), boot_id="an earlier boot")
    world.paths.locks.mkdir(parents=True)
    write_document(record, plain(killed))
    write_json(world.paths.locks / "stack.holder", plain(Holder(killed.host, 1, "an earlier boot", 1.0, "t", "r2")))
    services = Services(world.context.tool, world.system, "r", print, print)
    found = verb.read_status(Options("status", root=world.prefix, role=Role.HEAD), services).data
    assert found.install is not None
    assert (found.install.status, found.holder) == (Status.DEGRADED, None)
    assert verb._activity(world.paths, services, replace(found, runs=(RUN,))) == ""
    write_document(record, plain(replace(killed, host="another")))
    found = verb.read_status(Options("status", root=world.prefix, role=Role.HEAD), services).data
    assert found.install is not None
    assert found.install.status is Status.RUNNING
    assert found.holder is not None


def test_a_degraded_status_has_a_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    services = Services(world.context.tool, world.system, "r", print, print)
    options = Options("status", root=world.prefix, role=Role.HEAD)
    result = verb.read_status(options, services)
    assert result.status is Status.DEGRADED
    assert result.data.problems == (blocked("no run on this node yet", "petal-node bootstrap"),)
    view = [str(line) for line in status_view(result)]
    assert view[view.index("  why       no run on this node yet") + 1] == "            try  petal-node bootstrap"
    world.paths.release("abc").mkdir(parents=True)
    world.paths.current.symlink_to("releases/abc")
    assert verb.read_status(options, services).data.problems[-1].message.startswith("release abc is incomplete")


def messages(result: Result[NodeStatus]) -> list[str]:
    return [problem.message for problem in result.data.problems]


def installed(tmp_path: Path) -> tuple[World, Options]:
    """A head node with a release, after a successful run."""
    world = World(tmp_path / "node")
    engine.converge(STEPS, world.context, lambda _: None)
    record = replace(RUN, status=Status.OK, exit=0, host=world.system.hostname(), boot_id=world.system.boot_id())
    Runs(world.paths).save(record)
    options = Options("status", root=world.prefix, role=Role.HEAD)
    assert verb.read_status(options, world.services).status is Status.OK
    return world, options


@pytest.mark.parametrize("name", ["stack.json", "proof.json"])
def test_a_damaged_record_hides_no_other_one(tmp_path: Path, name: str) -> None:
    world, options = installed(tmp_path)
    (world.paths.state / name).write_text("{")
    result = verb.read_status(options, world.services)
    assert result.data.current == world.release
    assert result.data.storage is not None
    assert [error["code"] for error in result.errors] == ["state-corrupt"]
    assert messages(result) == []


def test_a_release_whose_manifest_is_damaged_is_current(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    world.paths.manifest(world.release).write_text("{")
    result = verb.read_status(options, world.services)
    assert (result.data.current, messages(result)) == (world.release, [])
    assert [error["code"] for error in result.errors] == ["state-corrupt"]


def test_another_release_than_the_desired_one_is_a_problem(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    world.paths.current.unlink()
    assert messages(verb.read_status(options, world.services)) == ["no release is published yet"]
    world.paths.current.symlink_to(f"releases/{world.release}")
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    ClusterState(world.paths).save_desired_state(replace(desired, release="other"))
    (problem,) = verb.read_status(options, world.services).data.problems
    assert problem.message == f"the current release is {world.release}, the desired one is other"
    assert problem.remedy == ("on the head node: petal-node bootstrap",)


def test_a_lost_desired_state_is_a_problem(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    (world.paths.state / "desired.json").unlink()
    result = verb.read_status(options, world.services)
    assert (result.status, messages(result)) == (Status.DEGRADED, ["the desired state is unknown"])


def test_a_lost_desired_state_is_named_on_its_own_mount(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text="storage: {mount: /fsx}")
    world.paths.shared_mount.mkdir()
    engine.converge(STEPS, world.context, lambda _: None)
    (world.paths.state / "desired.json").unlink()
    result = verb.read_status(Options("status", root=world.prefix, role=Role.HEAD), world.services)
    assert f"{world.paths.state}/desired.json is missing" in result.data.problems[1].why
    assert result.data.storage is not None


def test_a_running_run_has_no_problems_yet(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    world.paths.current.unlink()
    here = replace(RUNNING, run_id="r3", host=world.system.hostname(), boot_id=world.system.boot_id(), pid=os.getpid())
    Runs(world.paths).save(replace(here, started="u"))
    result = verb.read_status(options, world.services)
    assert (result.status, result.data.runs[0].status, messages(result)) == (Status.RUNNING, Status.RUNNING, [])


def test_the_commands_of_problems_act_on_the_same_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = Options("status", root=tmp_path / "tree")
    problem = blocked("no run on this node yet", "petal-node bootstrap")
    show(Result("status", Status.DEGRADED, data(runs=(), problems=(problem,))), options)
    assert f"try  petal-node bootstrap --root {tmp_path}/tree" in capsys.readouterr().out


def test_a_machine_of_which_nothing_is_known_is_not_ok(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    result = verb.read_status(world.options(command="status"), world.services)
    assert (result.status, result.data.role) == (Status.DEGRADED, None)
    assert [problem.message for problem in result.data.problems] == [
        "the role of this node is unknown, and no run has started on it"
    ]


def test_the_proof_of_another_release_is_not_that_of_the_current_one(tmp_path: Path) -> None:
    world = World(tmp_path / "node")
    reports = engine.converge(STEPS, world.context, lambda _: None)
    assert {report.name: report.outcome for report in reports}["publish"] is Outcome.CHANGED
    bad = NodeReport("q-1", "compute", "t", "75ad75ad75ad", (Finding("cpu", Severity.FAIL, "is too old"),))
    for release in ("75ad75ad75ad", world.release):
        ClusterState(world.paths).save_proof(Proof(release, "t", (replace(bad, release=release),)))
        result = verb.read_status(world.options(command="status", role=Role.HEAD), world.services)
        shown = [line.text for line in status_view(result)]
        failed = any("proof" in problem.message for problem in result.data.problems)
        if release == world.release:
            assert (result.data.proved, result.data.checked, failed) == (0, 1, True)
        else:
            assert (result.data.proved, result.data.checked, failed) == (0, 0, False)
            assert "none for this release (the last one is of 75ad75ad75ad)" in shown


def test_a_failed_proof_is_a_problem_in_other_words_than_its_row() -> None:
    node = NodeReport("c1", "compute", "t", "r1", (Finding("cpu", Severity.FAIL, "too old"),))
    (problem,) = verb._proof_problems(Proof("r1", "t", (node,)))
    assert problem.message == "the proof of release r1 failed"


def test_a_killed_run_is_not_shown_as_running() -> None:
    step = StepReport("spack", Outcome.RUNNING, "building gcc")
    killed = mark_if_killed(replace(RUNNING, boot_id="an earlier boot", steps=(step,)), "boot")
    text = "\n".join(map(str, status_view(Result("status", Status.DEGRADED, data(runs=(killed,))))))
    assert "1 unfinished" in text
    assert "1 running" not in text
    assert "building gcc" not in text


def test_a_killed_run_is_repaired(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    step = StepReport("packages", Outcome.RUNNING, "unpacking hello")
    Runs(world.paths).save(replace(RUNNING, run_id="r3", verb="bootstrap", event="", steps=(step,)))
    (problem,) = verb.read_status(options, world.services).data.problems
    assert problem == blocked("run r3 (bootstrap) was killed in the step packages", "petal-node repair")


def test_a_storage_that_does_not_answer_has_no_known_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, options = installed(tmp_path)

    def hang(_: object, action: object, where: Path, seconds: float) -> None:
        raise StorageError(f"{where} did not answer", code="storage-hangs")

    monkeypatch.setattr(type(world.system), "on_storage", hang)
    view = [str(line) for line in status_view(verb.read_status(options, world.services))]
    assert {"  release   unknown, desired unknown", "  install   unknown", "  proof     unknown"} <= set(view)


@pytest.mark.skipif(os.geteuid() != 0, reason="changes the owner of a directory, and this is not root")
def test_releases_of_another_owner_are_not_ok(tmp_path: Path) -> None:
    world, options = installed(tmp_path)
    os.chown(world.paths.shared_root / "releases", 1000, -1)
    result = verb.read_status(options, world.services)
    assert [error["code"] for error in result.errors] == ["untrusted"]
    assert result.errors[0]["remedy"][1].startswith("chown -Rh --from=1000")  # the release stays current


def test_only_the_newest_ended_run_has_details() -> None:
    failed = PetalError("it broke").to_dict()
    older, newer = (replace(RUN, run_id=run_id, errors=(failed,)) for run_id in ("r1", "r2"))

    def times(*runs: RunRecord) -> int:
        return sum("it broke" in str(line) for line in status_view(Result("status", Status.OK, data(runs=runs))))

    assert times(newer, older) == 1
    assert times(replace(RUN, status=Status.OK, run_id="r3"), older) == 0
    assert times(RUNNING, older) == 1
