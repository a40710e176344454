"""Directories of root, trusted reads, checksums; ``atomic`` has the writes.

The mount point of shared storage is 1777 on ParallelCluster, so any user may have made a directory there first. Files
below it are read only if they belong to root (or to the caller) and others cannot write them. No symbolic link on the
way is followed (open(2), O_NOFOLLOW).
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shlex
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..core.errors import NotRoot, StateError, StorageError
from ..core.text import quoted
from .threads import results

CHUNK = 1 << 20
MAX_DEPTH = 50
# On NFS a file that another node replaces between open and read is stale; the next open finds the new one.
STALE_TRIES = 5
READERS = 16  # threads that wait for the server of shared storage


def make_dir(path: Path, mode: int = 0o755) -> None:
    """Makes a directory with exactly ``mode``, independent of the umask; parents get 0755."""
    if path.is_dir() and not path.is_symlink():
        return
    for part in reversed([path, *path.parents]):
        if not part.exists():
            part.mkdir(exist_ok=True)
            part.chmod(mode if part == path else 0o755)


def make_own_dir(path: Path, below: Path) -> None:
    """Makes a directory of mode 0755 below a directory in which any user could have made it before.

    Every component under ``below`` is made by one mkdir(2). An existing one must be a directory of root, or of the
    caller, that others cannot write; symbolic links are not followed.

    Raises:
        StateError: ``untrusted``.
        NotRoot: the caller is another user, who may not write there.
        StorageError: ``storage-squashed``, the server maps root to another user.
    """
    for part in [*reversed(path.parents), path]:
        if below not in part.parents:
            continue
        try:
            part.mkdir(0o755)
        except FileExistsError as error:
            problem = path_problem(part, below)
            if problem or not part.is_dir():
                why = str(problem or f"{part} is not a directory")
                raise StateError(
                    f"{part} is not used", why=why, remedy=f"ls -ld {quoted(part)}", code="untrusted"
                ) from error
            continue
        except PermissionError as error:
            if os.geteuid():
                raise not_writable(part.parent) from error
            raise _squashed(below, f"root may not make {part}: {os.strerror(error.errno or 0)}") from error
        _claim(part, below)


def not_writable(directory: Path) -> NotRoot:
    """The error of a user who may not write to a directory."""
    remedy = (shlex.join(["ls", "-ld", str(directory)]), "run the command as root or as the owner of that directory")
    return NotRoot(f"this user may not write to {directory}", remedy=remedy)


def _claim(directory: Path, below: Path) -> None:
    """Sets the mode of a new directory; removes it again if the server gave it to another user."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        owner = os.fstat(descriptor).st_uid
        if owner != os.geteuid():
            directory.rmdir()
            raise _squashed(below, f"a directory that root made there belongs to user {owner}")
        os.fchmod(descriptor, 0o755)
    finally:
        os.close(descriptor)


def _squashed(mount: Path, why: str) -> StorageError:
    return StorageError(
        f"root is not root on {mount}",
        why=f"{why}; its server squashes root",
        remedy=(
            f"findmnt {quoted(mount)}",
            "export it with no_root_squash (FSx for ONTAP: superuser sys; EFS: an access point for user 0, or none)",
        ),
        code="storage-squashed",
    )


def sha256_of(path: Path) -> str:
    """The checksum of a file's content in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(CHUNK), b""):
            digest.update(block)
    return digest.hexdigest()


def has_sha256(path: Path, sha256: str | None) -> bool:
    """True if the file exists with this checksum."""
    return path.is_file() and sha256_of(path) == sha256


def same_content(path: Path, data: bytes) -> bool:
    """True if ``path`` is a regular file with exactly this content."""
    try:
        return path.is_file() and not path.is_symlink() and path.read_bytes() == data
    except OSError:
        return False


@dataclass(frozen=True)
class PathProblem:
    """A path that other users could change, the reason, and a command that corrects it.

    ``owner`` is the user that a directory belongs to, if that is the reason.
    """

    path: Path
    why: str
    remedy: str
    owner: int | None = None

    def __str__(self) -> str:
        return f"{self.path} {self.why}"


# Results of lstat(2) by path, None for a missing one.
Lstats = dict[Path, Optional[os.stat_result]]


def path_problem(path: Path, below: Path, lstats: Lstats | None = None) -> PathProblem | None:
    """The first component of ``path`` under ``below`` that other users could change or replace, or None.

    Each component must belong to root or to the caller, must not be writable by group or others, and must not be a
    symbolic link. A missing one is fine. ``below`` itself is not checked: a mount point may be 1777. Then no other file
    system may be mounted directly below it, because a user could have made the directory, and FUSE shows any owner.

    Args:
        lstats: results that are used and added, so that one look at several paths reads each component once.
    """
    lstats = {} if lstats is None else lstats
    for part in [*reversed(path.parents), path]:
        if below not in part.parents:
            continue
        if part not in lstats:
            lstats[part] = _lstat(part)
        info = lstats[part]
        problem = info and _component_problem(part, info)
        if info and not problem and part.parent == below:
            if below not in lstats:
                lstats[below] = below.stat()  # it may be a link
            problem = _covered(part, info, lstats[below])
        if problem:
            return problem
    return None


def real_path_problem(path: Path) -> PathProblem | None:
    """The first directory on the resolved path that other users could change, or ``path`` itself, or None.

    Directories on the way may be writable by all users if they are sticky, as /tmp is.
    """
    real = path.resolve()
    for part in [*reversed(real.parents), real]:
        problem = mode_problem(part, part.lstat(), sticky=part != real)
        if problem:
            return problem
    return None


def mode_problem(path: Path, info: os.stat_result, *, sticky: bool = False) -> PathProblem | None:
    """The reason why users other than root and the caller could change ``path``, or rename its entries; else None.

    Args:
        info: the result of stat(2) or lstat(2).
        sticky: all users may write to the directory if it is sticky, as a mount point or /tmp.
    """
    if info.st_uid not in {0, os.geteuid()}:
        why = f"belongs to user {info.st_uid}, not to root"
        remedy = f"chown root {quoted(path)}" if sticky else f"mv {quoted(path)} {quoted(path)}.foreign"
        return PathProblem(path, why, remedy, None if sticky else info.st_uid)
    if not info.st_mode & 0o022 or (sticky and info.st_mode & stat.S_ISVTX):
        return None
    if sticky:
        return PathProblem(path, "can be written by others and is not sticky", f"chmod 1777 {quoted(path)}")
    why, remedy = (
        f"has mode {stat.S_IMODE(info.st_mode):04o} and can be written by others",
        f"chmod go-w {quoted(path)}",
    )
    if has_default_acl(path.parent):
        why += f", from the default ACL of {path.parent}"
        remedy = f"setfacl -k {quoted(path.parent)}; {remedy}"
    return PathProblem(path, why, remedy)


def has_default_acl(directory: Path | str) -> bool:
    """True if new entries of a directory get their mode from an ACL, not from the process that makes them (acl(5))."""
    try:
        return bool(os.getxattr(directory, "system.posix_acl_default"))
    except OSError:
        return False


def _covered(path: Path, info: os.stat_result, above: os.stat_result | None) -> PathProblem | None:
    """The reason not to use the entry ``path`` of a directory: it is a mount point that a user could have made."""
    if above is None or above.st_dev == info.st_dev or not above.st_mode & 0o022 or not stat.S_ISDIR(info.st_mode):
        return None
    return PathProblem(path, f"is a mount point, and any user can make one in {path.parent}", f"umount {quoted(path)}")


def _component_problem(path: Path, info: os.stat_result) -> PathProblem | None:
    if stat.S_ISLNK(info.st_mode):
        return PathProblem(path, f"is a symbolic link to {path.readlink()}", f"rm {quoted(path)}")
    return mode_problem(path, info)


def _lstat(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except FileNotFoundError:
        return None


def text_or_empty(path: Path) -> str:
    """The first MiB of a text file; an empty string if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(CHUNK).decode(errors="replace")
    except OSError:
        return ""


def read_json(path: Path, *, limit: int = 16 * CHUNK) -> dict[str, Any] | None:
    """A JSON object, or None if the file does not exist.

    Raises:
        StateError: the file is too large, not a regular file, or not a JSON object.
    """
    for left in reversed(range(STALE_TRIES)):
        try:
            data = _read_regular(path, limit)
            break
        except OSError as error:
            if error.errno != errno.ESTALE or not left:
                raise
    if data is None:
        return None
    try:
        document = json.loads(data, parse_constant=_not_a_number, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise StateError(
            f"{path} is not JSON", why=str(error), remedy=f"mv {quoted(path)} {quoted(path)}.bad"
        ) from error
    if not isinstance(document, dict):
        raise StateError(f"{path} is not a JSON object", remedy=f"mv {quoted(path)} {quoted(path)}.bad")
    return document


def _read_regular(path: Path, limit: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ESTALE:
            raise
        if error.errno == errno.ELOOP:
            raise StateError(f"{path} is a symbolic link", remedy=f"ls -l {quoted(path)}", code="untrusted") from error
        raise StateError(f"{path} cannot be read", why=error.strerror or "", remedy=f"ls -ld {quoted(path)}") from error
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise StateError(f"{path} is not a regular file", remedy=f"mv {quoted(path)} {quoted(path)}.bad")
        size, data = min(info.st_size, limit + 1), b""
        while len(data) < size:  # no read at the end, which would be one more request to a server
            block = os.read(descriptor, size - len(data))
            if not block:
                break
            data += block
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise StateError(f"{path} is larger than {limit} bytes", remedy=f"mv {quoted(path)} {quoted(path)}.bad")
    return data


def is_deep(document: Any, limit: int = MAX_DEPTH) -> bool:
    """True if lists and mappings are nested more than ``limit`` times: Python's recursion limit is near."""
    if not isinstance(document, (dict, list)):
        return False
    inner = document.values() if isinstance(document, dict) else document
    return limit == 0 or any(is_deep(value, limit - 1) for value in inner)


def _not_a_number(name: str) -> float:
    raise ValueError(f"{name} is not a number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_a_number(text)


def size_of(path: Path) -> int:
    """Bytes that a file or a directory tree takes on its disk, as far as it can be read.

    A file with several names counts once. Files that vanish during the scan do not count.
    """
    blocks: dict[tuple[int, int], int] = {}

    def count(info: os.stat_result) -> bool:
        blocks[info.st_dev, info.st_ino] = info.st_blocks
        return False

    with suppress(OSError):
        scan(path, count, math.inf)
    return 512 * sum(blocks.values())


class Scan(NamedTuple):
    """Paths with their lstat(2), parents first; and the directories that were not read to their end, in that order."""

    found: list[tuple[str, os.stat_result]]
    unreached: list[str]


def scan(top: Path, keep: Callable[[os.stat_result], bool], seconds: float) -> Scan:
    """The paths of a tree whose lstat(2) is one to ``keep``, read in parallel: a server may need milliseconds for each.

    Paths that vanish during the scan are left out. A directory that this user may not read counts as not reached.

    Args:
        seconds: directories that are not reached by then are only named.
    """
    deadline = time.monotonic() + seconds
    result = Scan([], [])

    def read(directory: str) -> tuple[list[tuple[str, os.stat_result]], list[str], bool]:
        found: list[tuple[str, os.stat_result]] = []
        below: list[str] = []
        try:
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            return found, below, True
        except PermissionError:
            return found, below, False
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    if time.monotonic() > deadline:
                        return found, below, False
                    with suppress(FileNotFoundError):
                        info = entry.stat(follow_symlinks=False)
                        path = f"{directory}/{entry.name}"
                        found += [(path, info)] if keep(info) else []
                        below += [path] if stat.S_ISDIR(info.st_mode) else []
        finally:
            os.close(descriptor)
        return found, below, True

    info = top.lstat()
    result.found.extend([(str(top), info)] if keep(info) else [])
    level = [str(top)]
    with ThreadPoolExecutor(READERS) as pool:
        while level:
            read_now = list(zip(level, results(pool, read, level)))
            level = []
            for directory, (found, below, is_whole) in read_now:
                result.found.extend(found)
                result.unreached.extend([] if is_whole else [directory])
                level += below
    return result


def remove_tree(path: Path) -> None:
    """Removes a file, link or directory tree of any depth if it exists; symbolic links are not followed.

    Directories that their owner cannot write (as an unpacked package may have) are opened up first. A deep one is moved
    to the top: the kernel takes no path of 4,096 bytes (configure scripts make such trees), Python no deep recursion.
    """
    try:
        info = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(info.st_mode):
        path.unlink()
        return
    directories = [path]
    for directory in directories:
        if not directory.lstat().st_mode & stat.S_IWUSR:
            directory.chmod(0o700)
        for entry in list(os.scandir(directory)):
            inner = Path(entry.path)
            if not entry.is_dir(follow_symlinks=False):
                inner.unlink()
                continue
            if len(inner.parts) - len(path.parts) > MAX_DEPTH:
                inner = inner.rename(path / f".{os.urandom(8).hex()}")
            directories.append(inner)
    for directory in reversed(directories):
        directory.rmdir()
