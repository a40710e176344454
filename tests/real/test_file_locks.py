"""A FUSE file system without locks is refused with the kernel's error."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.core.model import Outcome
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host import locks
from tests.world import World

BADFS = Path(__file__).parents[1] / "lab" / "node" / "badfs.py"


@pytest.fixture
def without_locks(tmp_path: Path) -> Iterator[World]:
    """A node with shared storage without locks."""
    if os.geteuid() or not Path("/dev/fuse").exists():
        pytest.skip("the test mounts a FUSE file system, which needs root and /dev/fuse")
    world = World(tmp_path / "head")
    mount = world.paths.shared_mount
    (tmp_path / "backing").mkdir()
    process = subprocess.Popen([sys.executable, BADFS, "nolock", mount, tmp_path / "backing"], stderr=subprocess.PIPE)
    try:
        limit = time.monotonic() + 20
        while not mount.is_mount():
            if process.poll() is not None and process.stderr is not None:
                pytest.skip(f"the FUSE file system cannot be mounted: {process.stderr.read().decode()[-200:]}")
            assert time.monotonic() < limit, "the file system is not mounted after 20 s"
            time.sleep(0.02)
        yield world
    finally:
        subprocess.run(["umount", "-l", mount], check=False)
        process.kill()
        process.communicate()


def test_a_file_system_without_locks_is_refused_with_the_reason(without_locks: World) -> None:
    world = without_locks
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
