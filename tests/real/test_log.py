"""The node's log if many processes find simultaneously that it must be rotated."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from bootstrap.host import log as module
from bootstrap.host.log import LOG, close_log, entries, open_log


def write_line(path: Path, run_id: str, text: str) -> None:
    open_log(path, run_id)
    LOG.info(text)
    close_log()


def test_simultaneous_rotations_rotate_once_and_lose_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 4000)
    path = tmp_path / "petal-node.log"
    write_line(path, "old", "x" * 5000)
    context = multiprocessing.get_context("fork")
    runs = [context.Process(target=write_line, args=(path, f"run-{number}", "here")) for number in range(12)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    first, *others = (entry.run_id for entry in entries(path))
    assert first == "old"
    assert sorted(others) == sorted(f"run-{number}" for number in range(12))
