"""The node's log: its size is limited, rotation loses no line, and any content can be read."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands.common import Services
from bootstrap.commands.log import LogLines, log
from bootstrap.core.deadlines import RECENT
from bootstrap.core.errors import NotRoot, UsageError
from bootstrap.core.model import Result, Tool
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.host import log as module
from bootstrap.host.log import (
    KEEP_LOGS,
    LOG,
    Entry,
    close_log,
    entries,
    older,
    open_log,
    prune_logs,
)
from bootstrap.report.runs_view import log_view
from tests.world import World


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "MOST", 1000)
    return tmp_path / "var/log/petal-node.log"


def show(root: Path, **options: Any) -> Result[LogLines]:
    def nothing(_: object) -> None:
        return None

    return log(Options("log", root=root, **options), Services(Tool("0.1.0"), World(root).system, "r", nothing, nothing))


def write_line(path: Path, run_id: str, *texts: str) -> None:
    open_log(path, run_id)
    for text in texts:
        LOG.info(text, extra={"step": "spack"})
    close_log()


def test_a_large_log_is_rotated_by_the_next_run_and_only_two_files_exist(path: Path) -> None:
    for number in range(40):
        write_line(path, f"run-{number}", "x" * 100)
        assert path.stat().st_size + (older(path).stat().st_size if older(path).exists() else 0) < 2600
    assert [entry.run_id for entry in entries(path)][-1] == "run-39"
    assert path.stat().st_mode & 0o777 == older(path).stat().st_mode & 0o777 == 0o640


def test_a_run_with_an_open_log_loses_no_line_if_another_run_rotates_it(path: Path) -> None:
    write_line(path, "old", "x" * 2000)
    with path.open("a") as kept:
        write_line(path, "new", "begins")
        kept.write(json.dumps({"level": "info", "message": "still here"}) + "\n")
    assert [entry.message for entry in entries(path)] == ["x" * 2000, "still here", "begins"]


def test_foreign_lines_of_the_log_are_shown_unchanged(path: Path) -> None:
    path.parent.mkdir(parents=True)
    lines = (
        "[" * 100000,
        "not json",
        "[1]",
        '{"level": "loud", "message": "x"}',
        '{"level": "info", "message": 7}',
        '{"cut": "of',
    )
    path.write_bytes("\n".join(lines).encode() + b"\n\xff\xfe\n")
    assert [entry.message for entry in entries(path)] == [*lines, "\ufffd\ufffd"]
    assert {entry.level for entry in entries(path)} == {"warning"}


def test_a_line_with_any_file_name_belongs_to_its_run(path: Path) -> None:
    write_line(path, "run-1", "cannot read " + os.fsdecode(b"/x/caf\xe9"), "one\0two")
    lines = [(entry.run_id, entry.message) for entry in entries(path)]
    assert lines == [("run-1", r"cannot read /x/caf\udce9"), ("run-1", r"one\0two")]


def test_spack_logs_of_old_runs_are_removed(tmp_path: Path) -> None:
    ids = [f"20261128T1000{number:02d}.000Z-abcdef" for number in range(KEEP_LOGS + 3)]
    long_ago = time.time() - RECENT - 60
    for run_id in ids:
        log = tmp_path / f"spack-{run_id}.log"
        log.write_text("said")
        os.utime(log, (long_ago, long_ago))
    (tmp_path / f"spack-{ids[1]}.log").write_text("it goes on")
    (tmp_path / "notes").write_text("not ours")
    prune_logs(tmp_path)
    prune_logs(tmp_path / "nothing")
    kept = [f"spack-{run_id}.log" for run_id in (ids[1], *ids[3:])]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", *kept]


def test_a_log_that_cannot_be_rotated_is_continued(path: Path) -> None:
    (older(path) / "in the way").mkdir(parents=True)
    write_line(path, "old", "x" * 2000)
    write_line(path, "new", "here")
    assert '"here"' in path.read_text()


def test_log_shows_the_newest_lines_or_all_lines_of_a_run(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    target = paths.log
    write_line(target, "20261128T100000.000Z-aaaaaa", "first", "second")
    write_line(target, "20261128T110000.000Z-bbbbbb", "third")
    paths.logs.mkdir(parents=True)
    paths.spack_log("20261128T100000.000Z-aaaaaa").write_text("said")

    def shown(run: str | None, level: str, number: int) -> list[str]:
        return [entry.message for entry in show(tmp_path, run=run, level=level, number=number).data.entries]

    assert shown(None, "info", 2) == ["second", "third"]
    assert shown("20261128T1000", "info", 1) == ["first", "second"]
    assert shown(None, "warning", 9) == []
    with pytest.raises(UsageError, match="the log has no run 2025"):
        show(tmp_path, run="2025")
    with pytest.raises(UsageError, match="20261128 matches 2 runs") as caught:
        show(tmp_path, run="20261128")
    assert caught.value.remedy == ("petal-node log --run 20261128T110000.000Z-bbbbbb",)
    write_line(target, "20261128T110000.000Z-bbbbbb-worker", "fourth")
    assert shown("20261128T110000.000Z-bbbbbb", "info", 1) == ["third"]
    lines = list(map(str, log_view(show(tmp_path))))
    assert lines[0].startswith("run 20261128T100000.000Z-aaaaaa, 2")
    assert lines[1].endswith(" first")
    assert " spack " in lines[1]
    assert lines[-1].startswith("Spack log: ")


def test_a_failure_of_a_hook_script_is_an_error_with_its_time(tmp_path: Path) -> None:
    target = Paths(tmp_path).log
    target.parent.mkdir(parents=True)
    message = "petal-node start: s3://b/k could not be fetched [fetch-missing]: 404. Remedy: upload it"
    target.write_text(f"2026-11-28T10:00:00Z {message}\n")
    assert list(map(str, log_view(show(tmp_path)))) == [
        "run unknown, 2026-11-28 UTC",
        f"  x    -             10:00:00 {message}",
    ]


def test_the_errors_for_an_empty_and_an_unreadable_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = list(map(str, log_view(show(tmp_path))))
    assert line == f"{Paths(tmp_path).log} has no matching lines"

    def refuse(_path: Path) -> list[Entry]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bootstrap.commands.log.entries", refuse)
    with pytest.raises(PermissionError):  # below --root root is not required
        show(tmp_path)
    with pytest.raises(NotRoot) as caught:
        show(Path("/"))
    assert caught.value.remedy == ("petal-node log",)
