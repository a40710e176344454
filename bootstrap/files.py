"""The door to files: writes that are whole or absent, directories that are ours, reads that are trusted.

The mount point of shared storage is 1777 on ParallelCluster, so anybody may have put something there first. What is
read from below it must belong to root (or to the caller) and must not be writable by others, and no symbolic link
is followed on the way (open(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import StateError

CHUNK = 1 << 20
# On NFS a file that another node replaces between our open and our read is stale; the next open finds the new one.
STALE_TRIES = 5


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes ``data`` beside ``path``, flushes it to disk and renames it into place.

    Whoever reads ``path`` sees the old content or the new, never a part; a kill leaves at most a hidden temporary file.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            os.fchmod(stream.fileno(), mode)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, document: Mapping[str, Any], *, mode: int = 0o644) -> None:
    """A JSON document, atomically, with sorted keys."""
    write_atomic(path, json.dumps(document, indent=1, sort_keys=True).encode() + b"\n", mode=mode)


def replace_link(link: Path, target: str) -> None:
    """Points the symbolic link ``link`` at ``target`` with one rename (symlink(7), rename(2))."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.rename(link)


def make_dir(path: Path, mode: int = 0o755) -> None:
    """A directory with exactly ``mode``, whatever the umask is; parents get 0755."""
    if path.is_dir() and not path.is_symlink():
        return
    for part in reversed([path, *path.parents]):
        if not part.exists():
            part.mkdir(exist_ok=True)
            part.chmod(mode if part == path else 0o755)


def make_own_dir(path: Path, below: Path) -> None:
    """A directory of root's with 0755 where anybody may have put something first: made or refused, never followed.

    Every component under ``below`` is made by one mkdir(2); what is there already must be a directory that is ours.

    Raises:
        StateError: ``state-untrusted``.
    """
    for part in [*reversed(path.parents), path]:
        if below not in part.parents:
            continue
        try:
            part.mkdir(0o755)
        except FileExistsError as error:
            reason = _distrust_one(part)
            if reason or not part.is_dir():
                why = reason or f"{part} is no directory"
                raise StateError(
                    f"{part} is not used", why=why, remedy=f"ls -ld {part}", code="state-untrusted"
                ) from error
            continue
        descriptor = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, 0o755)
        finally:
            os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The checksum of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(CHUNK), b""):
            digest.update(block)
    return digest.hexdigest()


def same_content(path: Path, data: bytes) -> bool:
    """True when ``path`` is a regular file that holds exactly ``data``."""
    try:
        return path.is_file() and not path.is_symlink() and path.read_bytes() == data
    except OSError:
        return False


def distrust(path: Path, below: Path) -> str:
    """Why ``path`` must not be trusted, or an empty string.

    Every component under ``below`` is looked at: it must not be a symbolic link, must belong to root or to the caller,
    and must not be writable by group or others. ``below`` itself may be 1777 (the mount point).
    """
    for part in [*reversed(path.parents), path]:
        if below in part.parents:
            reason = _distrust_one(part)
            if reason:
                return reason
    return ""


def _distrust_one(path: Path) -> str:
    try:
        info = path.lstat()
    except FileNotFoundError:
        return ""
    if stat.S_ISLNK(info.st_mode):
        return f"{path} is a symbolic link to {path.readlink()}"
    if info.st_uid not in {0, os.geteuid()}:
        return f"{path} belongs to user {info.st_uid}, not to root"
    if info.st_mode & 0o022:
        return f"{path} has mode {stat.S_IMODE(info.st_mode):04o} and can be written by others"
    return ""


def read_json(path: Path, *, limit: int = 16 * CHUNK) -> dict[str, Any] | None:
    """A JSON object, or None where there is no such file.

    Raises:
        StateError: the file is too large, no regular file, or no JSON object.
    """
    for left in reversed(range(STALE_TRIES)):
        try:
            data = _read_regular(path, limit)
            break
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    return None if data is None else _json_object(path, data)


def _read_regular(path: Path, limit: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        if error.errno == errno.ELOOP:
            raise StateError(f"{path} is a symbolic link", remedy=f"ls -l {path}", code="state-untrusted") from error
        raise StateError(f"{path} cannot be read", why=str(error)) from error
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
            raise StateError(f"{path} is not a regular file")
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise StateError(f"{path} is larger than {limit} bytes")
    return data


def _json_object(path: Path, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} is not JSON", why=str(error), remedy=f"mv {path} {path}.bad") from error
    if not isinstance(document, dict):
        raise StateError(f"{path} holds no JSON object", remedy=f"mv {path} {path}.bad")
    return document


def remove_tree(path: Path) -> None:
    """Removes a file, link or directory tree; nothing is followed, absence is fine.

    Directories that their owner cannot write (as an unpacked package may have) are opened up first.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        path.unlink()
        return
    if not info.st_mode & stat.S_IWUSR:
        path.chmod(0o700)
    for entry in list(os.scandir(path)):
        remove_tree(Path(entry.path))
    path.rmdir()
