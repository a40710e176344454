"""The desired version of petal-node replaces this process only with the archive of its checksum."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from bootstrap.core.errors import FetchError
from bootstrap.core.model import Tool
from bootstrap.core.paths import Paths
from bootstrap.engine.handover import hand_over
from bootstrap.host.system import System
from bootstrap.state.desired import DesiredState

GOOD, EVIL = b"#!/bin/sh\necho good\n", b"#!/bin/sh\necho evil\n"
SHA = hashlib.sha256(GOOD).hexdigest()
OWN = Tool("0.1.0", sha256="0" * 64)


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The content of the programs that replace this process."""
    contents: list[bytes] = []
    monkeypatch.setattr(os, "execv", lambda path, _: contents.append(Path(path).read_bytes()))
    return contents


@pytest.mark.parametrize("installed", [None, GOOD, EVIL], ids=["missing", "installed", "another archive"])
@pytest.mark.parametrize("shared", [None, GOOD, EVIL], ids=["missing", "on storage", "another archive"])
def test_only_the_archive_of_the_desired_checksum_is_executed(
    installed: bytes | None, shared: bytes | None, executed: list[bytes], tmp_path: Path
) -> None:
    paths = Paths(tmp_path)
    for path, content in ((paths.program("0.2.0"), installed), (paths.archives / SHA, shared)):
        path.parent.mkdir(parents=True)
        if content is not None:
            path.write_bytes(content)
            path.chmod(0o755)
    desired = DesiredState("0.2.0", SHA, {}, {}, "r1")
    if installed != GOOD and shared == EVIL:
        with pytest.raises(FetchError) as caught:
            hand_over(desired, OWN, paths, System())
        assert caught.value.code == "fetch-checksum"
    else:
        hand_over(desired, OWN, paths, System())
    assert executed == ([GOOD] if GOOD in (installed, shared) else [])


def test_the_desired_version_is_not_replaced(executed: list[bytes], tmp_path: Path) -> None:
    hand_over(DesiredState("0.1.0", OWN.sha256, {}, {}, "r1"), OWN, Paths(tmp_path), System())
    assert executed == []
