"""A FUSE file system without locks is refused with the kernel's error."""

from __future__ import annotations

from pathlib import Path

from bootstrap.core.model import Outcome
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host import locks
from tests.disks import fuse
from tests.world import World


def test_a_file_system_without_locks_is_refused_with_the_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    (tmp_path / "backing").mkdir()
    with fuse(world.paths.shared_mount, tmp_path / "backing"):
        _is_refused(world)


def _is_refused(world: World) -> None:
    steps = [step for step in STEPS if step.name in ("self-install", "storage", "root")]
    for outcome in (
        Outcome.FAILED,
        Outcome.BLOCKED,
    ):  # first run, later run
        report = engine.converge(steps, world.context, lambda _: None)[1]
        assert report.outcome is outcome
        assert report.error is not None
        assert report.error["code"] == "storage-no-locks"
        assert "Function not implemented" in report.error["why"]
        assert any("flock" in line for line in report.remedy)
    assert "Function not implemented" in locks.lock_problem(world.paths.locks / "tried")
