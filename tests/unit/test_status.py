"""status --wait: it ends when no better state can be expected, and names the run for which it waits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import status as verb
from bootstrap.commands.common import Services
from bootstrap.commands.status import NodeStatus
from bootstrap.core.errors import PetalError
from bootstrap.core.facts import Cluster, External, Facts
from bootstrap.core.model import Result, Role, RunRecord, Status, plain
from bootstrap.core.options import Options
from bootstrap.host.atomic import write_json
from bootstrap.host.locks import Holder
from bootstrap.report.status_view import status_view
from bootstrap.state.store import write_document
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
    assert result.data.problems == ("no run on this node yet: petal-node bootstrap",)
    assert "  why       no run on this node yet: petal-node bootstrap" in map(str, status_view(result))
    world.paths.release("abc").mkdir(parents=True)
    world.paths.current.symlink_to("releases/abc")
    assert verb.read_status(options, services).data.problems[0].startswith("release abc has no manifest.json")
    world.paths.manifest("abc").touch()
    assert "abc" not in str(verb.read_status(options, services).data.problems)


def test_only_the_newest_ended_run_has_details() -> None:
    failed = PetalError("it broke").to_dict()
    older, newer = (replace(RUN, run_id=run_id, errors=(failed,)) for run_id in ("r1", "r2"))

    def times(*runs: RunRecord) -> int:
        return sum("it broke" in str(line) for line in status_view(Result("status", Status.OK, data(runs=runs))))

    assert times(newer, older) == 1
    assert times(replace(RUN, status=Status.OK, run_id="r3"), older) == 0
    assert times(RUNNING, older) == 1
