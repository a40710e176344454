"""Documents on disk: complete or absent, of a known format, and read only if no other user could have written them."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.config.load import parse
from bootstrap.core import decode
from bootstrap.core.errors import StateError
from bootstrap.core.model import Outcome, RunRecord, Status, StepReport, plain
from bootstrap.core.paths import Paths
from bootstrap.host import atomic, files
from bootstrap.host.processes import own_start
from bootstrap.state import desired as documents
from bootstrap.state import release
from bootstrap.state import runs as runs_store
from bootstrap.state import store as state
from tests.world import HOST, World

RECORD = RunRecord("r1", "hook", "configured", "head", "h", "0.1.0", 1, "b", "2026-01-01T00:00:00Z")


def test_a_record_is_read_back_unchanged(tmp_path: Path) -> None:
    runs = runs_store.Runs(Paths(tmp_path))
    steps = (
        StepReport(
            "a", Outcome.CHANGED, "why", ("x",), ("y",), 1.5, {"code": "c", "what": "w", "why": "", "remedy": []}
        ),
    )
    record = decode.build(RunRecord, {**plain(RECORD), "status": "degraded", "exit": 3})
    record = RunRecord(**{**record.__dict__, "steps": steps, "status": Status.DEGRADED})
    runs.save(record)
    assert runs.load("r1") == record


def save_old(paths: Paths, run_id: str, verb: str) -> None:
    """Save a record that is two hours old."""
    runs_store.Runs(paths).save(RunRecord(**{**RECORD.__dict__, "run_id": run_id, "verb": verb}))
    old = time.time() - 7200
    os.utime(paths.runs / f"{run_id}.json", (old, old))


def test_the_newest_runs_come_first_and_old_ones_are_removed(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for number in range(runs_store.KEEP_RUNS + 5):
        save_old(paths, f"r{number:03d}", "bootstrap")
    runs_store.Runs(paths).prune()
    latest, errors = runs_store.Runs(paths).latest(2)
    assert [record.run_id for record in latest] == ["r034", "r033"]
    assert errors == ()
    assert len(list(paths.runs.glob("*.json"))) == runs_store.KEEP_RUNS


def test_records_of_the_timer_do_not_replace_those_of_hooks(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    save_old(paths, "r000", "hook")
    for number in range(1, runs_store.KEEP_RUNS + 5):
        save_old(paths, f"r{number:03d}", "converge")
    runs_store.Runs(paths).prune()
    assert (paths.runs / "r000.json").is_file()
    assert not (paths.runs / "r001.json").is_file()


def test_the_record_of_a_running_run_is_not_removed(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for number in range(64):
        runs_store.Runs(paths).save(RunRecord(**{**RECORD.__dict__, "run_id": f"r{number:03d}"}))
    runs_store.Runs(paths).prune()
    assert len(list(paths.runs.glob("*.json"))) == 64


def test_a_run_whose_time_is_to_come_is_not_the_newest(tmp_path: Path) -> None:
    paths, to_come = Paths(tmp_path), "20990601T000000.000Z-abcdef"
    save_old(paths, to_come, "bootstrap")
    os.utime(paths.runs / f"{to_come}.json", (time.time() + 10**8,) * 2)
    runs = runs_store.Runs(paths)
    for number in range(runs_store.KEEP_RUNS):
        save_old(paths, f"20260101T000000.{number:03d}Z-abcdef", "bootstrap")
    assert runs.latest(1).records[0].run_id == f"20260101T000000.{runs_store.KEEP_RUNS - 1:03d}Z-abcdef"
    runs.prune()
    assert runs.load(to_come) is None


def test_a_run_is_dead_if_another_process_has_its_number(tmp_path: Path) -> None:
    run = replace(RECORD, pid=os.getpid(), process_start=own_start())
    assert not runs_store.is_dead(run, "b")
    assert runs_store.is_dead(replace(run, process_start=own_start() - 1), "b")
    assert runs_store.is_dead(run, "another boot")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"format": "1"}', '{"format": 1}', "\x00", "[" * 100_000])
def test_a_damaged_document_is_reported_with_a_remedy(text: str, tmp_path: Path) -> None:
    path = Paths(tmp_path).runs / "r1.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(StateError) as caught:
        runs_store.Runs(Paths(tmp_path)).load("r1")
    assert caught.value.code == "state-corrupt"
    assert str(path) in str(caught.value)


def test_a_newer_format_is_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"format": 99}')
    with pytest.raises(StateError) as caught:
        state.read_document(path)
    assert caught.value.code == "state-newer"
    assert path.read_text() == '{"format": 99}'


def test_a_document_that_others_can_write_is_not_read(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    shared = state.ClusterState(world.paths)
    world.paths.state.mkdir(parents=True)
    shared.save_token(documents.Token("t", "h"))
    world.paths.state.chmod(0o777)
    with pytest.raises(StateError, match="is not read"):
        shared.token()


def test_no_link_is_followed_on_shared_storage(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    (tmp_path / "foreign" / "state").mkdir(parents=True)
    world.paths.shared.symlink_to(tmp_path / "foreign")
    with pytest.raises(StateError) as caught:
        state.ClusterState(world.paths).save_token(documents.Token("t", "h"))
    assert caught.value.code == "untrusted"
    assert list((tmp_path / "foreign" / "state").iterdir()) == []


def test_an_owner_that_is_not_root_is_distrusted(tmp_path: Path) -> None:
    (tmp_path / "petal").mkdir()
    assert files.path_problem(tmp_path / "petal" / "state", tmp_path) is None
    if os.geteuid() == 0:
        os.chown(tmp_path / "petal", 1000, 1000)
        assert "belongs to user 1000" in str(files.path_problem(tmp_path / "petal" / "state", tmp_path))


def test_a_write_that_fails_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    atomic.write_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [item.name for item in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("kind", ["link", "hard link", "file"])
def test_a_planted_link_at_a_temporary_name_is_not_followed(kind: str, tmp_path: Path) -> None:
    victim, planted = tmp_path / "victim", tmp_path / f".x.json.{os.uname().nodename}-{os.getpid()}.part"
    victim.write_text("mine")
    if kind == "link":
        planted.symlink_to(victim)
    elif kind == "hard link":
        planted.hardlink_to(victim)
    else:
        planted.write_text("theirs")
    atomic.write_json(tmp_path / "x.json", {"a": 1})
    assert victim.read_text() == "mine"
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim", "x.json"]


def test_a_name_planted_again_before_it_is_opened_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / f".x.json.{os.uname().nodename}-{os.getpid()}.part").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)  # the attacker is faster
    with pytest.raises(FileExistsError):
        atomic.write_json(tmp_path / "x.json", {"a": 1})
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize(("mode", "says"), [(0o777, "written by others"), (0o775, "written by others"), (0o755, "")])
def test_a_tree_that_others_can_change_is_distrusted(mode: int, says: str, tmp_path: Path) -> None:
    (tmp_path / "spack" / "bin").mkdir(parents=True)
    (tmp_path / "spack").chmod(mode)
    for path in (tmp_path / "spack", tmp_path / "spack" / "bin"):
        assert says in str(files.real_path_problem(path))
        assert bool(files.real_path_problem(path)) == bool(says)


def test_a_sticky_directory_is_trusted_only_as_a_parent(tmp_path: Path) -> None:
    (tmp_path / "shared" / "spack").mkdir(parents=True)
    (tmp_path / "shared").chmod(0o1777)
    assert files.real_path_problem(tmp_path / "shared" / "spack") is None
    assert files.real_path_problem(tmp_path / "shared")


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        files.make_dir(tmp_path / "a" / "b")
        atomic.write_json(tmp_path / "a" / "b" / "x", {})
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "a" / "b" / "x").stat().st_mode & 0o777 == 0o644


BASE = "packages: [{name: a, version: '1', prefix: /a}]"
SHA = "a" * 64
STACK = f"spack: {{specs: [zlib], source: s3://b/s, sha256: {SHA}, recipes: {{source: s3://b/r, sha256: {SHA}}}}}"


def identity(text: str, host: object = HOST, environment: dict[str, object] | None = None, templates: str = "t") -> str:
    return release.release_id(parse(text), host, environment or {}, templates)  # type: ignore[arg-type]


def test_the_release_id_depends_on_everything_in_a_release() -> None:
    one = identity(BASE)
    assert one == identity(BASE)
    assert identity(BASE + "\ncheck: {run: [x]}\ninstall: {budget: 1}") == one
    others = [
        identity("packages: [{name: a, version: '2', prefix: /a}]"),
        identity(BASE, templates="u"),
        identity(BASE, HOST.__class__(**{**HOST.__dict__, "glibc": "2.39"})),
        identity(STACK.replace("spack: {", "spack: {target: x86_64_v4, ")),
        identity(STACK),
        identity(STACK.replace("[zlib]", "[zlib, bzip2]")),
        identity(STACK.replace("s3://b/r, sha256: a", "s3://b/r, sha256: b")),
        identity(STACK, environment={"packages": {"gmake": {}}}),
    ]
    assert len({one, *others}) == len(others) + 1
