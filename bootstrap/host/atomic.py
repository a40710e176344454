"""Files, directories and links that get their final name complete and on disk, or not at all.

The order is always the same: write under a private name in the directory of the target; flush the data; rename(2);
fsync the directory. After a kill or a power cut the final name leads to the old content or to the complete new content.
Two processes may write the same target at once: each works under a name of its own.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..core.errors import FetchError
from ..core.text import quoted
from .files import has_sha256, make_dir, remove_tree, sha256_of
from .processes import has_process

PRIVATE = re.compile(r"\..+\..+-(?P<pid>\d+)\.(part|old)")
REPLACED = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR})  # rename(2): the target must be moved aside first
ABANDONED_SECONDS = 24 * 3600.0  # older than any transfer: the number belongs to another process or node


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, owner: tuple[int, int] | None = None) -> None:
    """Replaces the content of ``path`` by ``data``. Readers see the old content or the new content, never a part.

    Args:
        owner: user and group of the file, which only root can choose; by default those of the caller.
    """
    with _staged(path, mode, None) as (_, stream):
        stream.write(data)
        if owner is not None:
            os.fchown(stream.fileno(), *owner)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes a JSON document with sorted keys, as ``write_atomic``."""
    write_atomic(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n")


@contextmanager
def staged_file(path: Path, *, mode: int = 0o644, confirm: Callable[[], None] | None = None) -> Iterator[Path]:
    """Yields an empty private file to write into; it becomes ``path`` if the block ends without an error.

    Args:
        confirm: called when the data is on disk, before the rename; an error that it raises prevents the rename.
    """
    make_dir(path.parent)
    _remove_abandoned(path)
    with _staged(path, mode, confirm) as (part, _):
        yield part


@contextmanager
def resumable_file(path: Path, kept: Path, *, is_useless: Callable[[BaseException], bool]) -> Iterator[Path]:
    """Yields the file ``kept``, which an earlier process may have left; it becomes ``path`` if the block succeeds.

    While another process writes ``kept``, an empty private file is yielded instead.

    Args:
        is_useless: called with the error that ends the block; False keeps the file for the next process.
    """
    make_dir(kept.parent)
    make_dir(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(kept, flags, 0o600), "rb+") as stream:
        if not _is_locked(stream, kept):
            with staged_file(path) as part:
                yield part
            return
        try:
            yield kept
        except BaseException as error:
            if is_useless(error) or os.fstat(stream.fileno()).st_size == 0:
                kept.unlink(missing_ok=True)
            raise
        os.fchmod(stream.fileno(), 0o644)
        os.fsync(stream.fileno())
        kept.rename(path)
    for directory in {path.parent, kept.parent}:
        flush_directory(directory)


def _is_locked(stream: BinaryIO, path: Path) -> bool:
    """Locks an open file, unless another process has locked it, or has completed and renamed it."""
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except OSError:
        return False


@contextmanager
def staged_dir(
    path: Path,
    *,
    confirm: Callable[[], None] | None = None,
    flush: Callable[[Path], None] | None = None,
    keep: Callable[[], bool] = lambda: False,
) -> Iterator[Path]:
    """Yields a private path to make a directory at; it becomes ``path`` if the block ends without an error.

    rename(2) replaces an empty directory. Another one is moved aside first, so ``path`` is missing for a moment, and
    removed afterwards; programs that run from it keep their open files.

    Args:
        confirm: called when the data is on disk, before the rename; an error that it raises prevents the rename.
        flush: writes the directory to disk; the default is ``flush_filesystem``.
        keep: True if the directory at ``path`` is good: another process was faster, and its result is used.
    """
    make_dir(path.parent)
    _remove_abandoned(path)
    part, old = _private(path, "part"), _private(path, "old")
    try:
        remove_tree(part)
        yield part
        (flush or flush_filesystem)(part)
        if confirm is not None:
            confirm()
        if not keep():
            _replace_dir(part, path, old, keep)
        flush_directory(path.parent)
    finally:
        remove_tree(part)
        remove_tree(old)


@contextmanager
def private_dir(path: Path) -> Iterator[Path]:
    """Yields an empty directory next to ``path`` that only this process uses; it is removed at the end."""
    make_dir(path.parent)
    _remove_abandoned(path)
    part = _private(path, "part")
    try:
        remove_tree(part)
        make_dir(part)
        yield part
    finally:
        remove_tree(part)


def scratch_dir(path: Path) -> Path:
    """The directory for transfers, made by its user: ``path``, or one in the cache of a user who cannot write there."""
    place = next(part for part in (path, *path.parents) if os.path.exists(part))  # noqa: PTH110 - it never raises
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.environ.get("HOME", ""), ".cache")  # noqa: PTH118
    if not os.access(place, os.W_OK | os.X_OK) and cache.startswith("/"):
        return Path(cache, "petal-node/scratch")
    return path


def replace_link(link: Path, target: str) -> None:
    """Points the symbolic link ``link`` at ``target`` with one rename (symlink(7), rename(2))."""
    part = _private(link, "part")
    part.unlink(missing_ok=True)
    part.symlink_to(target)
    part.rename(link)
    flush_directory(link.parent)


def move_aside(path: Path, target: Path) -> None:
    """Renames a file or directory within its file system: the rename is on disk at the return."""
    path.rename(target)
    for directory in {path.parent, target.parent}:
        flush_directory(directory)


def install_executable(source: Path, target: Path, sha256: str) -> None:
    """Copies ``source`` to ``target`` with mode 0755, unless a file with the expected checksum is there.

    Raises:
        FetchError: ``fetch-checksum``; ``target`` is unchanged.
    """
    if has_sha256(target, sha256):
        return
    with staged_file(target, mode=0o755) as part:
        shutil.copyfile(source, part)
        actual = sha256_of(part)
        if actual != sha256:
            raise FetchError(
                f"{source} does not have the expected checksum",
                why=f"its sha256 is {actual}, expected {sha256}",
                remedy=("on the head node: petal-node bootstrap", f"sha256sum {quoted(source)}"),
                code="fetch-checksum",
            )


def flush_filesystem(path: Path) -> None:
    """Returns when everything that was written to the file system of ``path`` is on disk (syncfs(2)).

    One call is faster than one fsync(2) per file: a tree of Spack has 10,000 files.

    Raises:
        OSError: data could not be written.
    """
    import ctypes

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(path))
    finally:
        os.close(descriptor)


def flush_directory(path: Path) -> None:
    """Returns when the names in a directory are on disk: fsync(2) of a file does not include its name."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system without fsync for directories
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _staged(path: Path, mode: int, confirm: Callable[[], None] | None) -> Iterator[tuple[Path, BinaryIO]]:
    part = _private(path, "part")
    part.unlink(missing_ok=True)  # left by a killed process that had the same number
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield part, stream
            stream.flush()
            os.fchmod(stream.fileno(), mode)
            os.fsync(stream.fileno())
        if confirm is not None:
            confirm()
        part.rename(path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno and error.filename is None:  # write(2) names no file
            error.filename = str(path)
        raise
    flush_directory(path.parent)


def _replace_dir(part: Path, path: Path, old: Path, keep: Callable[[], bool]) -> None:
    try:
        part.rename(path)
    except OSError as error:
        if error.errno not in REPLACED:
            raise
    else:
        return
    if keep():  # another process was faster
        return
    remove_tree(old)
    path.rename(old)
    try:
        part.rename(path)
    except OSError:
        if keep():
            return
        if not path.exists():
            old.rename(path)
        raise


def _private(path: Path, kind: str) -> Path:
    """The name that only this process uses for ``path``; shared storage is written by several nodes."""
    return path.with_name(f".{path.name}.{os.uname().nodename}-{os.getpid()}.{kind}")


def abandoned(directory: Path, name: str = "*") -> Iterator[Path]:
    """What killed processes left in a directory under their private names for the paths that match ``name``."""
    for entry in directory.glob(f".{name}.*"):
        private = PRIVATE.fullmatch(entry.name)
        if private is None:
            continue
        with suppress(FileNotFoundError):  # another process removes it at the same time
            is_old = time.time() - entry.lstat().st_mtime > ABANDONED_SECONDS
            is_ours = entry.stem.endswith(f".{os.uname().nodename}-{private['pid']}")
            is_dead = is_ours and not has_process(int(private["pid"]))
            if is_old or is_dead:
                yield entry


def set_aside(path: Path) -> Path:
    """Gives a path a private name, which is returned: another process can create the path again at once."""
    old = _private(path, "old")
    path.rename(old)
    return old


def _remove_abandoned(path: Path) -> None:
    for entry in abandoned(path.parent, glob.escape(path.name)):
        remove_tree(entry)
