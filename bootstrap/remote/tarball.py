"""Unpacks an untrusted tarball as root: members that could reach outside of the target are refused.

Refused: absolute names and ``..``, links that lead outside, members below a symbolic link of the archive itself,
devices and pipes, setuid and setgid files. Owners become root; files and directories are writable by root only. The
compression is gzip, bzip2 or xz.
"""

from __future__ import annotations

import errno
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from ..core.errors import DISK_ERRORS, PackageError
from ..host.files import make_dir

MAX_MEMBERS = 2_000_000
MAX_RATIO = 100_000  # unpacked bytes to packed bytes; bzip2 reaches 45,000 with zeros
MAX_LINKS = 40  # Linux follows so many in one path (path_resolution(7))
# tarfile and the decompressors raise these for damaged data: RecursionError for a chain of headers, MemoryError for a
# name of a terabyte.
DAMAGE = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, ValueError, ArithmeticError),
    *(LookupError, TypeError, AttributeError, RecursionError, MemoryError),
)
PLAIN_TOP = frozenset({"bin", "sbin", "lib", "lib64", "libexec", "include", "share", "etc", "opt", "man", "doc"})


def unpack(archive: Path, target: Path, name: str = "") -> None:
    """Unpacks ``archive`` into the new directory ``target``; a single directory at the top is stripped.

    Args:
        name: where the archive came from, for errors; the default is its path.

    Raises:
        PackageError: ``package-unsafe`` with the member's name; ``package-archive``, it is not a readable tarball.
        OSError: the disk is full, read-only or gone.
    """
    name = name or str(archive)
    make_dir(target)
    try:
        with tarfile.open(archive, "r:*") as tar:
            members: list[tarfile.TarInfo] = []
            for member in tar:
                if len(members) >= MAX_MEMBERS:
                    what, remedy = f"{name} has more than {MAX_MEMBERS} members", f"tar -tf {name} | wc -l"
                    raise PackageError(what, remedy=remedy, code="package-archive")
                members.append(member)
            _refuse_without_room(members, archive, target, name)
            top = _top_to_strip(PurePosixPath(member.name) for member in members)
            links = {PurePosixPath(member.name) for member in members if member.issym()}
            for member in members:
                danger = _danger(member, links)
                if danger:
                    raise _unsafe(member.name, name, danger)
            for member in members:
                _place(tar, member, target, top, name)
    except OSError as error:
        if error.errno is None:  # bz2 raises an OSError without errno for damaged data
            raise _damaged(name, error) from error
        if error.errno in DISK_ERRORS:
            raise
        raise PackageError(
            f"{name} cannot be unpacked",
            why=str(error),
            remedy=(f"tar -tvf {name}", f"df -h {target.parent}"),
            code="package-archive",
        ) from error
    except DAMAGE as error:
        raise _damaged(name, error) from error
    _refuse_escapes(target, top or "", name)


def _damaged(name: str, error: Exception) -> PackageError:
    return PackageError(
        f"{name} is not a complete tarball",
        why=str(error) or type(error).__name__,
        remedy="make it again: tar -czf FILE DIRECTORY; compare the sha256 of the original and of the copy",
        code="package-archive",
    )


def _refuse_without_room(members: list[tarfile.TarInfo], archive: Path, target: Path, name: str) -> None:
    """The headers state the sizes: a sparse file of a few bytes may claim exabytes, which is not a full disk."""
    needed, free = sum(member.size for member in members if member.isreg()), shutil.disk_usage(target).free
    if needed <= free:
        return
    if needed <= archive.stat().st_size * MAX_RATIO:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    raise PackageError(
        f"{name} does not fit",
        why=f"its files have {needed} bytes, {free} are free in {target.parent}",
        remedy=(f"tar -tvf {name}", f"df -h {target.parent}"),
        code="package-archive",
    )


def _unsafe(member: str, name: str, why: str) -> PackageError:
    what = f"the member {member!r} of {name} is refused"
    return PackageError(what, why=why, remedy="make the tarball again without it", code="package-unsafe")


def _danger(member: tarfile.TarInfo, links: set[PurePosixPath]) -> str | None:
    """Why a member is refused, or None. ``links`` are the symbolic links of the archive."""
    name, link = PurePosixPath(member.name), PurePosixPath(member.linkname)
    leads_out = link.is_absolute() or ".." in link.parts
    by_link = not links.isdisjoint((link, *link.parents))
    dangers = {
        "its name contains a NUL": "\0" in member.name + member.linkname,
        "its name is absolute": name.is_absolute(),
        "its name leads upwards": ".." in name.parts,
        "it is a device or a pipe": not (member.isreg() or member.isdir() or member.issym() or member.islnk()),
        "it is setuid or setgid": bool(member.mode & 0o6000) and not member.issym(),
        "it lies below a symbolic link of the archive": not links.isdisjoint(name.parents),
        f"it is a link to {link}, outside of the package": member.issym() and link.is_absolute(),
        f"it is a hard link to {link}, outside of the package": member.islnk() and leads_out,
        f"it is a hard link to {link}, which is reached through a symbolic link": member.islnk() and by_link,
    }
    return next((why for why, applies in dangers.items() if applies), None)


def _top_to_strip(names: Iterable[PurePosixPath]) -> str | None:
    """The single top directory of all members, unless it is part of a package itself (bin, lib, ...)."""
    parts = [name.parts for name in names if name.parts]
    tops = {part[0] for part in parts}
    is_nested = any(len(part) > 1 for part in parts)
    return tops.pop() if len(tops) == 1 and is_nested and not tops & PLAIN_TOP else None


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path, top: str | None, name: str) -> None:
    """Unpacks one member that was checked; ``top`` is stripped from its name."""
    skipped = 0 if top is None else 1
    path = target.joinpath(*PurePosixPath(member.name).parts[skipped:])
    if path == target:
        return
    make_dir(path.parent)
    if member.isdir():
        make_dir(path)
        return
    stream = tar.extractfile(member) if member.isreg() else None
    if member.isreg() and stream is None:
        raise _unsafe(member.name, name, "it has no content")
    path.unlink(missing_ok=True)
    if member.issym():
        path.symlink_to(member.linkname)
    elif stream is None:
        source = target.joinpath(*PurePosixPath(member.linkname).parts[skipped:])
        os.link(source, path, follow_symlinks=False)
    else:
        with stream:
            _write_file(stream, member, path)


def _write_file(stream: IO[bytes], member: tarfile.TarInfo, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as out:
        shutil.copyfileobj(stream, out, 1 << 20)
        os.fchmod(out.fileno(), 0o755 if member.mode & 0o111 else 0o644)
    moment = min(max(0, int(member.mtime)), 1 << 33)
    os.utime(path, (moment, moment))


def _refuse_escapes(target: Path, top: str, name: str) -> None:
    """Refuses links that lead outside, in the unpacked tree: the text of a chain of links does not tell."""
    for directory, names, files in os.walk(target):
        for entry in names + files:
            path = Path(directory, entry)
            if path.is_symlink() and not _stays_below(target, path):
                member = PurePosixPath(top) / path.relative_to(target)
                raise _unsafe(str(member), name, "it is a link that leads outside of the package, or in a circle")


def _stays_below(target: Path, link: Path) -> bool:
    """True if no step of following ``link`` leaves ``target``, even if a later step returns to it."""
    here, steps, links = link.parent, list(PurePosixPath(link.readlink()).parts), 1
    while steps and links <= MAX_LINKS:
        step = steps.pop(0)
        if step == "/" or (step == ".." and here == target):
            return False
        here = here.parent if step == ".." else here / step
        if here.is_symlink():
            links += 1
            steps = [*PurePosixPath(here.readlink()).parts, *steps]
            here = here.parent
    return links <= MAX_LINKS
