"""status --wait: it ends as soon as nothing better can come, and says who is at it while something can."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands import status as verb
from bootstrap.commands.common import Services
from bootstrap.core.model import Result, Status
from bootstrap.core.options import Options
from tests.world import World

RUN = {"run_id": "r2", "status": "degraded"}


def data(**changes: Any) -> dict[str, Any]:
    return {"runs": [RUN], "install": None, "install_age": None, **changes}


NOTES: list[str] = []


@pytest.fixture
def services(tmp_path: Path) -> Services:
    world = World(tmp_path / "node")
    NOTES.clear()
    return Services(world.context.tool, world.system, "run-1", print, NOTES.append)


def wait(services: Services, timeout: float = 60) -> Result:
    return verb.status(Options("status", root=Path("/nowhere"), wait=True, timeout=timeout), services)


def answers(monkeypatch: pytest.MonkeyPatch, *states: tuple[Status, dict[str, Any]]) -> list[int]:
    """What ``status`` says, one after the other; the last one for ever. Nobody sleeps."""
    asked_for: list[int] = []

    def say(_: Options, __: Services) -> Result:
        state, found = states[min(len(asked_for), len(states) - 1)]
        asked_for.append(len(asked_for))
        return Result("status", "status", state, found)

    monkeypatch.setattr(verb, "look", say)
    monkeypatch.setattr(verb, "POLL_SECONDS", 0.0)
    return asked_for


def test_a_ready_node_is_told_at_once(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    times = answers(monkeypatch, (Status.OK, data()))
    assert wait(services).exit_code == 0
    assert len(times) == 1


def test_what_nobody_is_at_stays_degraded_and_is_told_at_once(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = answers(monkeypatch, (Status.DEGRADED, data()))
    assert wait(services).exit_code == 3
    assert len(times) == 1


INSTALLING = {"finished": None, "host": "head", "run_id": "r1"}


@pytest.mark.parametrize(
    ("going", "words"),
    [
        (data(runs=[]), "no run has begun on this node"),
        (data(runs=[{"run_id": "r2", "status": "running"}]), "run r2 goes on"),
        (data(install=INSTALLING, install_age=4.0), "head installs (run r1)"),
    ],
)
def test_it_waits_while_somebody_is_at_it_and_says_who_once(
    services: Services, monkeypatch: pytest.MonkeyPatch, going: dict[str, Any], words: str
) -> None:
    times = answers(monkeypatch, *[(Status.DEGRADED, going)] * 3, (Status.OK, data()))
    assert wait(services).exit_code == 0
    assert len(times) == 4
    assert [f"waiting: {words}"] == NOTES


def test_an_install_that_says_nothing_any_more_is_not_waited_for(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers(monkeypatch, (Status.DEGRADED, data(install=INSTALLING, install_age=3600.0)))
    assert wait(services).exit_code == 3


def test_its_deadline_ends_with_75_and_the_state_as_it_is(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, (Status.DEGRADED, data(runs=[])))
    result = wait(services, 0)
    assert (result.exit_code, result.errors[-1]["code"]) == (75, "wait-timeout")
    assert "no run has begun on this node" in str(result.errors[-1]["what"])


def test_a_node_whose_timer_runs_is_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path / "node", live=True)
    world.system.systemd = True
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=active\n"
    services = Services(world.context.tool, world.system, "r", print, print)
    assert verb._going_on(world.paths, services, data()) == "this node is not ready, and its timer tries again"
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=inactive\n"
    assert verb._going_on(world.paths, services, data()) == ""
