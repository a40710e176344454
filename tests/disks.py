"""Small separate file systems for tests that fill a disk, or cut its power."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BADFS = Path(__file__).parent / "lab" / "node" / "badfs.py"


@contextmanager
def mounted(place: Path, size: int, mode: str = "755") -> Iterator[Path]:
    """Mount a disk with ``size`` MiB at ``place`` and remove it afterwards; skip if mounting is not possible."""
    place.mkdir(parents=True, exist_ok=True)
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode={mode}", "tmpfs", place]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"the test mounts a file system, which fails here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


@contextmanager
def fuse(mount: Path, backing: Path, user: int = 0, kind: str = "nolock") -> Iterator[Path]:
    """Show ``backing`` at ``mount`` through FUSE, as a mount of ``user``; skip without /dev/fuse.

    Args:
        kind: how the file system misbehaves (``badfs.py``).
    """
    if os.geteuid() or not Path("/dev/fuse").exists():
        pytest.skip("the test mounts a FUSE file system, which needs root and /dev/fuse")
    env = {**os.environ, "BADFS_USER": str(user)}
    process = subprocess.Popen([sys.executable, BADFS, kind, mount, backing], stderr=subprocess.PIPE, env=env)
    try:
        limit = time.monotonic() + 20
        while not mount.is_mount():
            if process.poll() is not None and process.stderr is not None:
                pytest.skip(f"the FUSE file system cannot be mounted: {process.stderr.read().decode()[-200:]}")
            assert time.monotonic() < limit, "the file system is not mounted after 20 s"
            time.sleep(0.02)
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=False)
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class LoopDisk:
    """A file system in a file. A copy of the file is what a machine without power has on its disk."""

    image: Path
    place: Path

    @classmethod
    def make(cls, kind: str, directory: Path) -> LoopDisk:
        """Make and mount an ext4 or xfs at ``directory/disk``; skip if this machine cannot."""
        disk = cls(directory / "disk.img", directory / "disk")
        if not shutil.which(f"mkfs.{kind}"):
            pytest.skip(f"mkfs.{kind} is not installed")
        disk.place.mkdir(parents=True)
        with disk.image.open("wb") as stream:
            stream.truncate(400 << 20)  # sparse; the smallest xfs has 300 MiB
        subprocess.run([f"mkfs.{kind}", "-q", disk.image], check=True, capture_output=True)
        problem = disk.mount(disk.image)
        if problem:
            pytest.skip(f"the test mounts a loop device, which fails here: {problem}")
        return disk

    def mount(self, image: Path) -> str:
        """Mount a state; returns why that failed, or an empty string."""
        done = subprocess.run(["mount", "-o", "loop", image, self.place], check=False, capture_output=True, text=True)
        return "" if done.returncode == 0 else done.stderr.strip() or f"mount exits {done.returncode}"

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.place], check=False, capture_output=True)

    def cut(self) -> Path:
        """The state of the disk now, without what the kernel has not written yet."""
        copy = self.image.with_name(f"cut-{len(list(self.image.parent.glob('cut-*')))}.img")
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        return copy

    def boot(self, image: Path) -> None:
        """Mount a state at the same place, which replays the journal."""
        self.unmount()
        problem = self.mount(image)
        assert not problem, problem
