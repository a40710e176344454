"""The order of flushes and renames, which determines the state after a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import FetchError
from bootstrap.host import atomic
from bootstrap.host.files import sha256_of

DEAD = 999_999_999  # larger than any pid (proc(5), pid_max)
HOST = os.uname().nodename


class Calls(list[str]):
    """The calls that affect the disk, in order, with the names of files instead of private names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, top: Path) -> None:
        self._top, self._names = top, {top: "directory"}
        fsync, syncfs, rename = os.fsync, atomic.flush_filesystem, Path.rename

        def recorded_fsync(descriptor: int) -> None:
            self.append(f"fsync {self._name(Path(f'/proc/self/fd/{descriptor}').readlink())}")
            fsync(descriptor)

        def recorded_syncfs(path: Path) -> None:
            self.append(f"syncfs {self._name(path)}")
            syncfs(path)

        def recorded_rename(path: Path, target: Path) -> Path:
            self.append(f"rename {self._name(path)} {self._name(Path(target))}")
            return rename(path, target)

        monkeypatch.setattr(os, "fsync", recorded_fsync)
        monkeypatch.setattr(atomic, "flush_filesystem", recorded_syncfs)
        monkeypatch.setattr(Path, "rename", recorded_rename)

    def _name(self, path: Path) -> str:
        if path == self._top:
            return "directory"
        return path.suffix[1:] if path.name.startswith(".") else path.name

    def confirm(self) -> None:
        self.append("confirm")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Calls:
    return Calls(monkeypatch, tmp_path)


def test_a_file_is_flushed_before_its_rename_and_the_rename_before_the_return(calls: Calls, tmp_path: Path) -> None:
    atomic.write_atomic(tmp_path / "x", b"data", mode=0o640)
    assert calls == ["fsync part", "rename part x", "fsync directory"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_a_staged_file_is_confirmed_after_the_flush_and_before_the_rename(calls: Calls, tmp_path: Path) -> None:
    with atomic.staged_file(tmp_path / "x", confirm=calls.confirm) as part:
        part.write_bytes(b"data")
        assert calls == []
    assert calls == ["fsync part", "confirm", "rename part x", "fsync directory"]
    assert (tmp_path / "x").read_bytes() == b"data"


def test_a_staged_directory_replaces_the_old_one_in_the_same_order(calls: Calls, tmp_path: Path) -> None:
    for content in ("old", "new"):
        del calls[:]
        with atomic.staged_dir(tmp_path / "x", confirm=calls.confirm) as part:
            part.mkdir()
            (part / "file").write_text(content)
    assert calls == [
        *("syncfs part", "confirm"),
        *("rename part x", "rename x old", "rename part x"),  # the first one fails: the old directory is not empty
        "fsync directory",
    ]
    assert (tmp_path / "x" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_the_name_of_a_link_is_flushed_before_the_return(calls: Calls, tmp_path: Path) -> None:
    atomic.replace_link(tmp_path / "x", "there")
    assert calls == ["rename part x", "fsync directory"]


def test_the_removal_of_a_name_is_flushed_before_move_aside_returns(calls: Calls, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    atomic.move_aside(tmp_path / "x", tmp_path / "gone")
    assert calls == ["rename x gone", "fsync directory"]


def stage_file(path: Path, confirm: Callable[[], None]) -> None:
    with atomic.staged_file(path, confirm=confirm) as part:
        part.write_text("new")


def stage_dir(path: Path, confirm: Callable[[], None]) -> None:
    with atomic.staged_dir(path, confirm=confirm) as part:
        part.mkdir()


@pytest.mark.parametrize("stage", [stage_file, stage_dir])
@pytest.mark.parametrize("fails", ["flush", "confirm", "rename"])
def test_an_error_before_the_rename_leaves_the_old_content(
    fails: str, stage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    path.write_text("old") if stage is stage_file else path.mkdir()
    before = path.stat().st_ino

    def fail(*_: object) -> None:
        raise OSError("it fails")

    rename = Path.rename

    def fail_to_publish(source: Path, target: Path) -> Path:
        return fail() or source if source.suffix == ".part" else rename(source, target)

    if fails == "flush":
        monkeypatch.setattr(os, "fsync", fail)
        monkeypatch.setattr(atomic, "flush_filesystem", fail)
    if fails == "rename":
        monkeypatch.setattr(Path, "rename", fail_to_publish)
    with pytest.raises(OSError, match="it fails"):
        stage(path, fail if fails == "confirm" else lambda: None)
    assert path.stat().st_ino == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["x"]


def test_the_result_of_a_faster_process_is_kept(tmp_path: Path) -> None:
    with atomic.staged_dir(tmp_path / "x", keep=(tmp_path / "x" / "good").is_file) as part:
        part.mkdir()
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "good").touch()
    assert [entry.name for entry in (tmp_path / "x").iterdir()] == ["good"]


@pytest.mark.parametrize(
    ("name", "age", "stays"),
    [
        (f".x.{HOST}-{DEAD}.part", 0, False),
        (f".x.{HOST}-{DEAD}.old", 0, False),
        (f".x.{HOST}-{os.getppid()}.part", 0, True),
        (f".x.{HOST}-{os.getppid()}.part", 90_000, False),
        (f".x.another-node.local-{DEAD}.part", 0, True),
        (f".x.another-node.local-{DEAD}.part", 90_000, False),
        (f".xy.{HOST}-{DEAD}.part", 90_000, True),
        (".x.swp", 90_000, True),
    ],
)
def test_only_abandoned_private_names_are_removed(name: str, age: int, stays: bool, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    changed = (tmp_path / name).stat().st_mtime - age
    os.utime(tmp_path / name, (changed, changed))
    stage_file(tmp_path / "x", lambda: None)
    assert (tmp_path / name).exists() == stays


def test_an_executable_is_installed_only_with_the_expected_checksum(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "bin" / "x"
    source.write_text("program")
    atomic.install_executable(source, target, sha256_of(source))
    assert target.stat().st_mode & 0o777 == 0o755
    with pytest.raises(FetchError) as caught:
        atomic.install_executable(source, target, "0" * 64)
    assert caught.value.code == "fetch-checksum"
    assert target.read_text() == "program"
    assert [entry.name for entry in target.parent.iterdir()] == ["x"]
