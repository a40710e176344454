"""Real Spack and two dozen packages of which two do not compile: the others are installed, a later run completes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bootstrap.core.model import Outcome, Status
from bootstrap.core.paths import Paths
from bootstrap.host.files import sha256_of
from bootstrap.spack import database
from bootstrap.spack.lockfile import locked_specs
from bootstrap.state.release import read_manifest
from tests.lab import bench_stack, recipes
from tests.spack.test_spack import bootstrap, steps

BROKEN = ("bench-base1", "bench-middle2")
ASKED = ("bench-top0", "bench-top1", "bench-top2")
LOST = ("bench-base1", "bench-middle1", "bench-middle2", "bench-top1", "bench-top2")


@pytest.fixture
def switch(tmp_path: Path) -> Path:
    """While this file exists, the broken packages do not compile."""
    path = tmp_path / "broken"
    path.touch()
    return path


@pytest.fixture
def hold(tmp_path: Path) -> Path:
    """While this file exists, every package stays in its phase ``build``."""
    return tmp_path / "hold"


@pytest.fixture
def stack_config(
    full_recipes: Path, spack_archive: Path, clingo: list[Path], switch: Path, hold: Path, tmp_path: Path
) -> str:
    bench_stack.small(full_recipes, tmp_path / "tree", broken=BROKEN, switch=switch, hold=hold, functions=2)
    recipes.pack(tmp_path / "tree", tmp_path / "recipes.tar.gz")
    wheels = ", ".join(f"{{source: {path}, sha256: {sha256_of(path)}}}" for path in clingo)
    found = tmp_path / "recipes.tar.gz"
    return (
        f"spack:\n  source: {spack_archive}\n  sha256: {sha256_of(spack_archive)}\n"
        f"  recipes: {{source: {found}, sha256: {sha256_of(found)}}}\n"
        f"  clingo: [{wheels}]\n  specs: [{', '.join(ASKED)}]\n"
    )


def test_a_failed_package_stops_only_its_dependents_and_the_next_run_completes(
    stack_config: str, switch: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "head"
    record = bootstrap(prefix, stack_config)
    paths, found = Paths(prefix), steps(record)
    assert record.release is not None
    locked = locked_specs(paths.release(record.release) / "spack.lock")
    assert sorted(spec.name for spec in database.missing(locked, paths.store)) == sorted(LOST)
    error = found["spack"].error
    assert error is not None
    assert error["code"] == "spack-install"
    for name in BROKEN:
        assert f"{name}@1.0 failed in phase build" in error["why"]
    assert "error: #error this package is broken" in error["why"]
    assert "not tried, because they need a package that failed: bench-middle1, bench-top1, bench-top2" in error["why"]
    logs = [Path(line.removeprefix("less ")) for line in error["remedy"] if line.startswith("less ")]
    assert sorted(log.name.rsplit("-", 2)[0] for log in logs[:2]) == sorted(BROKEN)
    assert all("this package is broken" in log.read_text() for log in logs[:2])
    assert list((paths.scratch / "spack" / "stage").rglob("spack-stage-*")) == [], "a failed stage is left on the disk"
    assert found["publish"].outcome is Outcome.BLOCKED
    assert not paths.current.exists()

    switch.unlink()
    second = bootstrap(prefix, stack_config)
    assert steps(second)["spack"].outcome is Outcome.CHANGED, second
    assert second.status is Status.CHANGED
    assert second.release == record.release
    assert paths.current.is_symlink()


def test_partial_publishes_the_installed_packages_and_a_later_run_completes_them(
    stack_config: str, switch: Path, tmp_path: Path
) -> None:
    prefix = tmp_path / "head"
    config = stack_config + "install: {partial: true}\n"
    record = bootstrap(prefix, config)
    paths, found = Paths(prefix), steps(record)
    assert record.release is not None
    assert (record.status, record.exit) == (Status.DEGRADED, 3)
    assert found["spack"].error is not None
    assert found["spack"].error["code"] == "spack-partial"
    assert found["publish"].outcome is Outcome.CHANGED
    manifest = read_manifest(paths, record.release)
    assert manifest is not None
    assert manifest.missing == tuple(f"{name}@1.0" for name in LOST)
    assert [module.name for tree in manifest.trees for module in tree.modules] == ["bench-top0/1.0", "spack/1.1.1"]

    switch.unlink()
    second = bootstrap(prefix, config)
    assert second.status is Status.CHANGED, second
    manifest = read_manifest(paths, record.release)
    assert manifest is not None
    assert manifest.missing == ()
    assert {module.name for tree in manifest.trees for module in tree.modules} == {
        "spack/1.1.1", *(f"{name}/1.0" for name in ASKED),
    }  # fmt: skip
    assert bootstrap(prefix, config).status is Status.OK


def test_the_record_shows_the_progress_of_an_install(
    stack_config: str, switch: Path, hold: Path, tmp_path: Path
) -> None:
    """Read by ``status`` on this node and from shared storage. Builds are held until the test has seen them."""
    switch.unlink()
    hold.touch()
    prefix = tmp_path / "head"
    seen: list[str] = []
    (prefix / "shared").mkdir(parents=True)

    def look(step: str) -> None:
        if step != "spack":
            return
        document = json.loads((Paths(prefix).state / "stack.json").read_text())
        seen.extend(found["reason"] for found in document["steps"] if found["name"] == "spack")
        if any("(build)" in text for text in seen):
            hold.unlink(missing_ok=True)

    assert bootstrap(prefix, stack_config, printed=look).status is Status.CHANGED
    messages = [text for text in seen if text.startswith("installing ")]
    assert messages, seen
    assert any("(build)" in text and " of 14" in text for text in messages), messages
