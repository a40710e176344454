"""Small separate file systems for tests that fill a disk."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
def fuse(mount: Path, backing: Path, user: int = 0) -> Iterator[Path]:
    """Show ``backing`` at ``mount`` through FUSE, without locks, as a mount of ``user``; skip without /dev/fuse."""
    if os.geteuid() or not Path("/dev/fuse").exists():
        pytest.skip("the test mounts a FUSE file system, which needs root and /dev/fuse")
    env = {**os.environ, "BADFS_USER": str(user)}
    process = subprocess.Popen([sys.executable, BADFS, "nolock", mount, backing], stderr=subprocess.PIPE, env=env)
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
