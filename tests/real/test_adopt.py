"""Storage of another cluster with real processes: the holder of its lock, and the output of ``status``."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli import main
from tests.adoption import NFS, converge, installed, new_head_node, write_dna, write_records_of_dead_head
from tests.unit.test_laws import snapshot
from tests.world import World


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return installed(tmp_path, monkeypatch)


@pytest.fixture
def held(old: World) -> Iterator[Path]:
    """The cluster lock, held by a running process."""
    script = "import fcntl, sys; f = open(sys.argv[1], 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    path = old.paths.locks / "stack.lock"
    argv = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield path
        process.kill()


def test_storage_is_not_taken_over_while_the_other_cluster_installs(old: World, held: Path) -> None:
    """A held lock prevents it, even with ``--accept-storage``."""
    with held.open("r+") as file, pytest.raises(BlockingIOError):
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    new = new_head_node(old, mount=NFS)
    before = snapshot(new.paths.state)
    found = converge(new, accept=True, lock_wait=0)
    assert (found["storage-owner"].error or {}).get("code") == "lock-timeout"
    assert snapshot(new.paths.state) == before


def ask_status(world: World, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    """The output of status as text and as JSON, with the real facts of this machine and the cluster's name."""
    main(["status", "--json", "--root", str(world.prefix)])
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    main(["status", "--root", str(world.prefix)])
    captured = capsys.readouterr()
    return answer, captured.out + captured.err


def test_status_shows_no_records_of_another_cluster(old: World, capsys: pytest.CaptureFixture[str]) -> None:
    write_records_of_dead_head(old)
    new = new_head_node(old)
    write_dna(new)
    answer, text = ask_status(new, capsys)
    assert answer["status"] == "degraded"
    assert [error["code"] for error in answer["errors"]] == ["storage-other-cluster"]
    assert answer["data"]["storage"]["owner"]["name"] == "old"
    assert (answer["data"]["reports"], answer["data"]["install"], answer["data"]["proof"]) == ([], None, None)
    assert "belongs to cluster old in us-east-1" in text
    converge(new, accept=True)
    answer, _ = ask_status(new, capsys)
    assert (answer["data"]["storage"]["owner"]["name"], answer["data"]["reports"]) == ("demo", [])
