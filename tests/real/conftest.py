"""Fixtures of the tests with real processes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bootstrap.archive import build
from tests.gpg import key, other
from tests.real.caches import cache
from tests.real.hooks import ARCHIVE, ROOT, Hook
from tests.s3 import s3

__all__ = ["cache", "hook", "key", "other", "s3"]


@pytest.fixture(params=["dash", "bash"])
def hook(request: pytest.FixtureRequest, tmp_path: Path) -> Hook:
    shell = shutil.which(request.param)
    if not shell:
        pytest.skip(f"{request.param} is not installed")
    script = tmp_path / "tmp4f3a"
    script.write_bytes(build.hook(ROOT / "actions", "configured"))
    archive = tmp_path / "archive"
    archive.write_text(ARCHIVE)
    for folder in ("node", "stand-ins"):
        (tmp_path / folder).mkdir()
    made = Hook(shell, script, tmp_path / "node", tmp_path / "stand-ins", archive)
    made.substitute("aws", 'echo "Unable to locate credentials" >&2; exit 255\n')
    return made
