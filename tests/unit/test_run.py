"""A complete run and its record on a node without a known configuration."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli import main
from bootstrap.core.model import Outcome, Role, RunRecord, Status, StepReport, Tool
from bootstrap.core.options import BOOT
from bootstrap.core.paths import Paths
from bootstrap.engine.recorder import crash
from bootstrap.engine.run import run
from bootstrap.engine.tidy import tidy
from bootstrap.host.files import sha256_of
from bootstrap.host.log import close_log, open_log
from bootstrap.host.times import timestamp
from bootstrap.report.lines import summary
from bootstrap.state.runs import Runs
from bootstrap.steps.boot_service import TIMER, arrange_timer, is_due
from tests.world import World, services


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr("bootstrap.host.processes.signal.signal", lambda *_: None)
    return World(tmp_path / "node")


def one_run(world: World, config: Path | None, event: str, command: str) -> RunRecord:
    archive = world.prefix.with_name("archive")
    archive.write_bytes(b"petal-node")
    tool = Tool("0.1.0", archive, sha256_of(archive))
    options = world.options(config, command, role=Role.HEAD, event=event)
    return run(options, services(world.system, tool, f"run-{event}"))


@pytest.mark.parametrize("text", [None, "layout: shard", "a: ["], ids=["missing", "a mistake", "no YAML"])
def test_without_a_configuration_petal_node_installs_itself_and_recovers_later(
    world: World, text: str | None, tmp_path: Path
) -> None:
    config = tmp_path / "petal.yaml"
    if text is not None:
        config.write_text(text)
    record = one_run(world, config, "configured", "worker")
    assert {step.name: step.outcome for step in record.steps} == {
        "self-install": Outcome.CHANGED,
        "boot-service": Outcome.SKIPPED,
    }
    assert (record.exit, record.errors[0]["code"].partition("-")[0]) == (78, "config")
    assert world.paths.link.resolve().read_bytes() == b"petal-node"
    config.write_text("check: {run: [right]}")
    after = one_run(world, None, BOOT, "converge")
    assert after.errors == ()
    assert {step.name: step.outcome for step in after.steps}["publish"] is Outcome.CHANGED


def test_a_signal_closes_the_record_at_any_moment_and_has_its_default_effect_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while a node without a configuration installs petal-node itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("bootstrap.engine.run._converge_without_config", end)
    record = one_run(World(tmp_path / "node"), tmp_path / "absent.yaml", "configured", "worker")
    assert (record.exit, record.errors[0]["code"]) == (143, "interrupted")
    assert record.finished
    assert {number: signal.getsignal(number) for number in before} == before


def test_an_ended_run_names_its_step_and_the_command_and_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "node")

    def end(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("bootstrap.steps.publish.Publish.apply", end)
    (tmp_path / "petal.yaml").write_text("check: {run: [right]}")
    open_log(world.paths.log, "run-")
    record = one_run(world, tmp_path / "petal.yaml", "", "bootstrap")
    close_log()
    (error,) = record.errors
    assert error["what"] == "the run was ended by a signal in the step publish"
    assert f" bootstrap --config {tmp_path}/petal.yaml" in error["remedy"][0]
    assert error["what"] in world.paths.log.read_text().splitlines()[-1]
    assert "1 unfinished" in summary(record.steps, ended=True)
    assert "running" not in summary(record.steps, ended=True)


def records(prefix: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((prefix / "var/lib/petal-node/runs").glob("*.json"))]


def test_a_run_has_a_record_before_it_removes_what_killed_runs_left(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal can take minutes, and a hook waits for the record of its worker."""
    seen: list[str] = []

    def note(paths: Paths, *_: Any) -> None:
        seen.extend(path.stem for path in paths.runs.glob("*.json"))

    monkeypatch.setattr("bootstrap.engine.run.tidy", note)
    one_run(world, tmp_path / "missing.yaml", "configured", "worker")
    assert seen == ["run-configured"]


@pytest.mark.parametrize(
    "words",
    [["configured", "--confg", "x"], ["configurd"], ["start", "--role", "king"], []],
    ids=["an option", "an event", "a role", "nothing"],
)
def test_a_hook_with_invalid_arguments_leaves_a_record(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["hook", *words, "--root", str(tmp_path)]) == 0
    (record,) = records(tmp_path)
    assert (record["status"], record["exit"], record["errors"][0]["code"]) == ("degraded", 2, "hook-usage")
    assert "cannot be used" in capsys.readouterr().out
    assert main(["hook", *words, f"--root={tmp_path}", "--strict"]) == 2
    assert len(records(tmp_path)) == 2


def test_a_secret_in_invalid_arguments_is_not_recorded(tmp_path: Path) -> None:
    main(["hook", "configured", "--confg", "https://u:s3cret@host/x", "--root", str(tmp_path)])
    assert "s3cret" not in json.dumps(records(tmp_path))


def test_help_of_a_hook_is_not_a_failure(tmp_path: Path) -> None:
    assert main(["hook", "--help"]) == 0


def finished(run_id: str, outcome: Outcome) -> RunRecord:
    record = RunRecord(run_id, "hook", "configured", "head", "n", "0.1.0", 1, "boot", "t", "t", Status.OK, 0)
    return replace(record, steps=(StepReport("storage", outcome, ""),))


@pytest.mark.parametrize(
    ("older", "newer", "action"),
    [
        (Outcome.OK, None, "stop"),
        (Outcome.BLOCKED, None, "start"),
        (Outcome.OK, Outcome.OK, "stop"),
        (Outcome.OK, Outcome.BLOCKED, "start"),
        (Outcome.BLOCKED, Outcome.OK, "start"),
    ],
)
def test_the_timer_stops_if_the_newest_run_of_the_node_is_ready_too(
    tmp_path: Path, older: Outcome, newer: Outcome | None, action: str
) -> None:
    """The older run ends now: it has waited for its proof."""
    world = World(tmp_path / "head", live=True)
    world.system.systemd = True
    paths = world.paths
    paths.units.mkdir(parents=True)
    (paths.units / TIMER.name).touch()
    for name, outcome in (("run-1", older), ("run-2", newer)):
        if outcome is not None:
            Runs(paths).save(finished(name, outcome))
    arrange_timer(finished("run-1", older), paths, world.system)
    assert [argv for argv in world.system.commands if TIMER.name in argv] == [
        ("systemctl", "--no-block", action, TIMER.name)
    ]


@pytest.mark.parametrize(
    ("minutes", "pause"),
    [(0.1, 30), (5, 30), (10, 60), (19, 60), (20, 120), (50, 300), (100, 600), (9999, 600), (-60, 30)],
)
def test_the_timer_of_a_node_that_is_not_ready_waits_longer_and_longer(
    tmp_path: Path, minutes: float, pause: int
) -> None:
    world = World(tmp_path / "node", live=True)
    started = timestamp(time.time() - minutes * 60 - 1)
    before = replace(finished("run-0", Outcome.OK), started=timestamp(0))
    newest = replace(finished("run-2", Outcome.BLOCKED), started=timestamp())
    for record in (before, replace(finished("run-1", Outcome.BLOCKED), started=started), newest):
        Runs(world.paths).save(record)
    for waited, is_over in ((pause - 20, pause == 30), (pause, True), (-60, True)):  # the clock may be set back
        Runs(world.paths).save(replace(newest, finished=timestamp(time.time() - waited)))
        assert is_due(world.paths, newest.boot_id) == is_over
    Runs(world.paths).save(replace(newest, finished=timestamp()))
    assert is_due(world.paths, "another boot")


def test_the_time_before_this_boot_does_not_make_the_timer_wait_longer(tmp_path: Path) -> None:
    world = World(tmp_path / "node", live=True)
    before = replace(finished("run-1", Outcome.BLOCKED), started=timestamp(time.time() - 7 * 86400), boot_id="before")
    newest = replace(finished("run-2", Outcome.BLOCKED), started=timestamp(time.time() - 40), finished=timestamp())
    for record in (before, newest):
        Runs(world.paths).save(record)
    assert is_due(world.paths, newest.boot_id)


def test_a_run_removes_old_versions_and_files_of_killed_processes(world: World) -> None:
    """The version in the PATH stays, whatever its age, and so do the newest others."""
    paths = world.paths
    for number in range(8):
        for path in (paths.program(f"0.{number}.0"), paths.lmods / f"8.{number}" / "complete"):
            path.parent.mkdir(parents=True)
            path.touch()
            os.utime(path.parent, (number, number))
    for link, target in ((paths.link, paths.program("0.1.0")), (paths.lmod_in_use, Path("8.0"))):
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    dead, alive = (paths.scratch / f".x.{os.uname().nodename}-{pid}.part" for pid in (2**22 + 1, os.getpid()))
    old, new = (paths.home / "incoming" / name for name in ("0" * 64, "1" * 64))
    cut_off, continued = (paths.scratch / f"{name}.part" for name in ("0" * 64, "1" * 64))
    writes = [place / f".r.json.{os.uname().nodename}-{2**22 + 1}.part" for place in (paths.var, paths.runs)]
    for path in (dead / "tree", alive / "tree", old, new, cut_off, continued, *writes):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for path in (old, cut_off):
        os.utime(path, (0, 0))
    world.system.other_runs = lambda _: frozenset({"run-9"})  # type: ignore[method-assign]
    tidy(paths, world.system, "run-1")
    assert dead.exists()
    del world.system.other_runs
    tidy(paths, world.system, "run-1")
    assert sorted(path.parent.name for path in paths.home.glob("*/petal-node")) == ["0.1.0", "0.5.0", "0.6.0", "0.7.0"]
    assert sorted(path.name for path in paths.lmods.iterdir()) == ["8.0", "8.5", "8.6", "8.7", "in-use"]
    assert [path.exists() for path in (dead, alive, old, new)] == [False, True, False, True]
    assert [path.exists() for path in (cut_off, continued, *writes)] == [False, True, False, False]


def test_the_newest_crash_reports_stay(world: World) -> None:
    for number in range(40):
        crash(RuntimeError("x"), world.paths, f"run-{number:02}")
    assert [path.stem for path in sorted(world.paths.var.glob("crash-*"))] == [f"crash-run-{n}" for n in range(10, 40)]
