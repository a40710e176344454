"""Reading files that another node may replace at any time."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bootstrap.core.errors import StateError
from bootstrap.host import atomic, files
from bootstrap.host import locks as lock

REAL = os.open


class Stale:
    """An ``open`` that fails with a stale handle a few times, like an NFS client after the file was replaced."""

    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self, path: Path, *arguments: int) -> int:
        if self.left:
            self.left -= 1
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return REAL(path, *arguments)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.json"
    atomic.write_json(path, {"a": 1})
    return path


def test_a_file_that_was_replaced_while_it_was_read_is_read_again(
    document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", Stale(files.STALE_TRIES - 1))
    assert files.read_json(document) == {"a": 1}


def test_the_holder_of_a_lock_that_changes_too_fast_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", Stale(files.STALE_TRIES))
    assert lock.holder_of(tmp_path / "stack.lock") is None


def test_a_handle_that_stays_stale_is_an_error(document: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "open", Stale(files.STALE_TRIES))
    with pytest.raises(OSError) as caught:
        files.read_json(document)
    assert caught.value.errno == errno.ESTALE


@pytest.mark.parametrize("kind", ["link", "pipe", "directory", "too large"])
def test_only_a_regular_file_of_limited_size_is_read(kind: str, document: Path, tmp_path: Path) -> None:
    path = tmp_path / "planted.json"
    if kind == "link":
        path.symlink_to(document)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.write_text(f'{{"a": "{"x" * 100}"}}')
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits for a writer"))
    signal.alarm(5)
    with pytest.raises(StateError, match="larger than 100 bytes" if kind == "too large" else "planted") as caught:
        files.read_json(path, limit=100)
    signal.alarm(0)
    assert caught.value.code == ("untrusted" if kind == "link" else "state-corrupt")


def test_a_file_that_vanishes_during_the_scan_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "below").mkdir(parents=True)
    for name in ("stays", "below/stays"):
        (tmp_path / "tree" / name).write_bytes(b"x" * 8192)
    os.link(tmp_path / "tree" / "stays", tmp_path / "tree" / "again")
    gone = Mock(**{"stat.side_effect": FileNotFoundError})
    scandir = os.scandir

    @contextmanager
    def vanishing(directory: int) -> Iterator[list[Any]]:
        with scandir(directory) as entries:
            yield [*entries, gone]

    monkeypatch.setattr(files.os, "scandir", vanishing)
    paths = (tmp_path / "tree", tmp_path / "tree/below", tmp_path / "tree/stays", tmp_path / "tree/below/stays")
    assert files.size_of(tmp_path / "tree") == sum(path.lstat().st_blocks * 512 for path in paths)
    assert files.size_of(tmp_path / "missing") == 0


def test_a_tree_of_any_depth_is_removed(tmp_path: Path) -> None:
    """Deeper than Python's recursion and longer than the kernel's paths; configure scripts leave such trees."""
    top = os.open(tmp_path, os.O_RDONLY)
    at = top
    for number in range(3000):
        name = "t" if number == 0 else "deep"
        os.mkdir(name, dir_fd=at)
        inner = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = inner
    os.close(os.open("file", os.O_CREAT, dir_fd=at))
    os.close(at)
    files.remove_tree(tmp_path / "t")
    assert list(tmp_path.iterdir()) == []
