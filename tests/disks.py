"""Small separate file systems for tests that fill a disk."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


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
