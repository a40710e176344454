"""Spack, its recipes or the compiler are missing, damaged or wrong: an error with a remedy, nothing is published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bootstrap.core.errors import ProcessFailed, SpackError
from bootstrap.core.model import Outcome, StepReport
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import sha256_of
from bootstrap.host.system import Completed
from bootstrap.spack.workspace import open_spack
from tests.world import World, tarball, with_spack

SPACK = "spack-1.1.1/lib/spack/spack/__init__.py"


def converge(world: World) -> dict[str, StepReport]:
    return {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}


def world_with(tmp_path: Path, name: str, change: Callable[[Path], object]) -> World:
    """A head node of which one tarball was changed, with its new checksum."""
    text, path = with_spack(tmp_path), tmp_path / f"{name}.tar.gz"
    old = sha256_of(path)
    change(path)
    new = sha256_of(path) if path.is_file() else old
    return World(tmp_path / "head", config_text=text.replace(old, new))


DAMAGE: dict[str, tuple[Callable[[Path], object], set[str]]] = {
    "missing": (Path.unlink, {"fetch-missing", "fetch-unreachable"}),
    "empty": (lambda path: path.write_bytes(b""), {"package-archive"}),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-30]), {"package-archive"}),
    "something else": (lambda path: path.write_text("<html>404</html>"), {"package-archive"}),
    "another package": (lambda path: tarball(path, {"vendor-1/bin/tool": "#!"}), {"spack-source"}),
}


@pytest.mark.parametrize("name", ["spack", "recipes"])
@pytest.mark.parametrize(("change", "codes"), DAMAGE.values(), ids=DAMAGE)
def test_a_tarball_without_spack_or_recipes_is_refused(
    tmp_path: Path, name: str, change: Callable[[Path], object], codes: set[str]
) -> None:
    world = world_with(tmp_path, name, change)
    for _ in range(2):  # the second run finds no partial tree
        reports = converge(world)
        error = reports["spack"].error
        assert error is not None
        assert error["code"] in codes, error
        assert str(tmp_path) in error["what"] + error["why"]
        assert error["remedy"]
        assert reports["publish"].outcome is Outcome.BLOCKED
        assert not world.paths.current.exists()
    world.config_text = with_spack(tmp_path)
    assert converge(world)["spack"].outcome is Outcome.CHANGED


def test_a_spack_of_another_version_than_configured_is_refused(tmp_path: Path) -> None:
    world = world_with(tmp_path, "spack", lambda path: tarball(path, {SPACK: '__version__ = "1.2.0"\n'}))
    error = converge(world)["spack"].error
    assert error is not None
    assert (error["code"], error["why"]) == ("spack-source", "it is 1.2.0")


@pytest.mark.parametrize(("program", "code"), [("spack", "process-failed"), ("python", "spack-no-clingo")])
def test_only_a_failed_import_of_clingo_is_a_missing_clingo(tmp_path: Path, program: str, code: str) -> None:
    world = World(tmp_path / "head", config_text=with_spack(tmp_path))
    answer = world.system.answers[program]

    def refuse(argv: Sequence[str]) -> str:
        if {"concretize", "import clingo"} & set(argv):
            raise ProcessFailed(f"{program} cannot be started", why="Exec format error")
        return answer(argv)

    world.system.answers[program] = refuse
    error = converge(world)["spack"].error
    assert error is not None
    assert error["code"] == code


def test_a_missing_compiler_is_reported_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "head", config_text=with_spack(tmp_path))
    ctx = world.context
    monkeypatch.setattr(world.system, "which", lambda _: None)
    report = {each.name: each for each in engine.converge(STEPS, ctx, lambda _: None)}["spack"]
    assert report.error is not None
    assert report.error["code"] == "spack-no-compiler"
    assert any("install" in line for line in report.remedy)
    assert not list((world.paths.root / "spack").glob("*")), "something was fetched"


def test_caches_that_a_full_disk_or_a_power_cut_left_incomplete_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Spack and Python trust these files, so every later command would fail."""
    world = World(tmp_path / "head", config_text=with_spack(tmp_path))
    assert converge(world)["spack"].outcome is Outcome.CHANGED
    spack = open_spack(world.context, world.context.targets[0])
    scratch = spack.places.scratch
    code, cut, whole, stage = (
        scratch / name for name in ("pycache/x.pyc", "misc/cut.json", "misc/whole.json", "stage/spack-stage-x/src")
    )

    def write() -> None:
        for path, text in {code: "c", cut: '{"a', whole: "{}", stage: "s"}.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    write()
    monkeypatch.setattr(world.system, "run", lambda *_, **__: Completed(1, "EOFError: marshal data too short", ""))
    with pytest.raises(SpackError):
        spack.reindex()
    assert [path.exists() for path in (code, cut, whole, stage)] == [False, False, True, True]

    write()
    monkeypatch.setattr(world.system, "run", lambda *_, **__: Completed(0, "", ""))
    spack.reindex()
    assert [path.exists() for path in (code, cut, whole, stage)] == [True, True, True, True]
    spack.output.unlink()
    spack.reindex()
    assert [path.exists() for path in (code, cut, whole, stage)] == [True, False, True, True], "the next run"
    monkeypatch.setattr(world.system, "boot_id", lambda: "the next boot")
    spack.reindex()
    assert [path.exists() for path in (code, cut, whole, stage)] == [False, False, False, False]
