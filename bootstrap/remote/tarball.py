"""Unpacks untrusted archives as root: members that could reach outside of the target are refused by name.

Refused: absolute names and ``..``, links that lead outside, members below a symbolic link of the archive itself,
devices and pipes, setuid and setgid files, sparse files, more than 64 directories in each other. Sizes are compared
before the content is read. Owners become root; files and directories are writable by root only. A tarball's compression
is gzip, bzip2 or xz.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from ..core.errors import DISK_ERRORS, PackageError, full_disk_remedy
from ..core.text import human, quoted
from ..host.files import make_dir

MAX_MEMBERS = 1_000_000
MAX_DEPTH = 64
MAX_RATIO = 200  # unpacked bytes to packed bytes: software reaches 20, gzip of zeros 1,000, bzip2 of zeros 45,000
SMALL = 1 << 30  # below it, any ratio
MAX_HEADER = 1 << 20  # bytes of all headers of one member, which tarfile keeps in memory
MAX_LINKS = 40  # Linux follows so many in one path (path_resolution(7))
OPENERS = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))
OTHERS = ((b"\x28\xb5\x2f\xfd", "zstd"), (b"PK\3\4", "zip"), (b"7z\xbc\xaf", "7z"))
# tarfile, zipfile and the decompressors raise these for damaged data.
DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, ValueError, ArithmeticError),
    *(LookupError, TypeError, AttributeError, RuntimeError, MemoryError),
)
PLAIN_TOP = frozenset({"bin", "sbin", "lib", "lib64", "libexec", "include", "share", "etc", "opt", "man", "doc"})
REMEDY = "make it again: tar -czf FILE DIRECTORY; compare the sha256 of the original and of the copy"


def unpack(archive: Path, target: Path, name: str = "") -> None:
    """Unpacks a tarball into the new directory ``target``; a single directory at the top is stripped.

    Args:
        name: where the archive came from, for errors; the default is its path.

    Raises:
        PackageError: ``package-unsafe`` with the member's name; ``package-archive``, it is not a readable tarball, or
            too large.
        OSError: the disk is full, read-only or gone.
    """
    name = name or str(archive)
    make_dir(target)
    with _reported(name, target, "tarball", REMEDY), _opened(archive) as stream:
        bounded = _Bounded(stream)
        with tarfile.TarFile(fileobj=cast("Any", bounded)) as tar:
            tree = _Tree(archive, target, name)
            while True:
                bounded.left = MAX_HEADER
                member = tar.next()
                if member is None:
                    break
                tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all
                tree.check(member)
                bounded.left = member.size if member.isreg() else 0
                tree.place(tar, member)
        if bounded.last.strip(b"\0"):  # tarfile takes a damaged header for the end
            raise tarfile.ReadError("a header is damaged")
        top = _strip_top(target)
        _refuse_escapes(target, top, name)


def unpack_wheel(wheel: Path, target: Path, name: str) -> None:
    """Unpacks a wheel next to others in ``target``.

    Args:
        name: where it came from, for errors.

    Raises:
        PackageError: ``package-archive``, ``package-unsafe``.
        OSError: the disk is full, read-only or gone.
    """
    make_dir(target)
    remedy = "python3 -m zipfile -t FILE; pip download clingo"
    with _reported(name, target, "wheel", remedy), zipfile.ZipFile(wheel) as opened:
        bounds = _Bounds(wheel, target, name)
        for member in opened.infolist():
            bounds.admit(PurePosixPath(member.filename), member.is_dir(), member.file_size)
        opened.extractall(target)  # noqa: S202 - zipfile drops absolute names and ``..``, and reads only file_size


@contextmanager
def _reported(name: str, target: Path, kind: str, remedy: str) -> Iterator[None]:
    """Within it, errors of the archive become a PackageError; those of the disk stay as they are."""
    try:
        yield
    except (OSError, *DAMAGE) as error:
        number = error.errno if isinstance(error, OSError) else None  # bz2 and gzip raise OSErrors without errno
        if number in DISK_ERRORS:
            raise
        what = f"{name} cannot be unpacked" if number else f"{name} is not a complete {kind}"
        commands = (f"df -h {quoted(target.parent)}",) if number else ()
        why = str(error)[:400] or type(error).__name__
        raise PackageError(what, why=why, remedy=(*commands, remedy), code="package-archive") from error


@contextmanager
def _opened(archive: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes. Each read is bounded, which tarfile's own mode ``r:*`` is not."""
    with archive.open("rb") as raw:
        start = raw.read(6)
        raw.seek(0)
        for magic, kind in OTHERS:
            if start.startswith(magic):
                raise tarfile.ReadError(f"it is a {kind} file; a tarball may be compressed with gzip, bzip2 or xz")
        opener = next((opener for magic, opener in OPENERS if start.startswith(magic)), None)
        if opener is None:
            yield raw
            return
        with opener(raw) as stream:
            yield cast("IO[bytes]", stream)


class _Bounded:
    """The part of a stream that tarfile may read next: ``left`` bytes, forward only.

    tarfile reads a header of any length into memory, and follows a negative size backwards.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.tell = stream.tell
        self.left = MAX_HEADER
        self.last = b""

    def seek(self, position: int) -> None:
        self._take(position - self.tell())
        self._stream.seek(position)

    def read(self, size: int) -> bytes:
        self._take(size)
        self.last = self._stream.read(size)
        return self.last

    def _take(self, size: int) -> None:
        if not 0 <= size <= self.left:
            raise tarfile.ReadError(f"the header of a member is longer than {MAX_HEADER} bytes, or has a wrong length")
        self.left -= size


class _Bounds:
    """Limits of what an archive unpacks to. The headers state the sizes, and no more is read than they state."""

    def __init__(self, archive: Path, target: Path, name: str) -> None:
        self._name = name
        self._target = target
        self._free = shutil.disk_usage(target).free
        self._most = max(SMALL, archive.stat().st_size * MAX_RATIO)
        self._members = self._size = 0

    def admit(self, member: PurePosixPath, is_dir: bool, size: int) -> None:
        """Raises PackageError if the archive exceeds a limit, or the space of the disk, with this member."""
        self._members += 1
        self._size += size
        if len(member.parts) - (not is_dir) > MAX_DEPTH:
            raise _unsafe(str(member), self._name, f"it lies more than {MAX_DEPTH} directories deep")
        why = ""
        if self._members > MAX_MEMBERS:
            why = f"it has more than {MAX_MEMBERS:,} members"
        elif self._size > self._most:
            why = f"up to {str(member)!r} its files have {self._size:,} bytes, more than {MAX_RATIO} times its own size"
        if why:
            what, command = f"{self._name} is too large to unpack", f"df -h {quoted(self._target.parent)}"
            raise PackageError(what, why=why, remedy=(command, REMEDY), code="package-archive")
        if self._size > self._free:
            what = f"{self._name} does not fit on the disk of {self._target.parent}"
            why = f"up to {str(member)!r} its files have {human(self._size)}, and {human(self._free)} are free"
            command = full_disk_remedy("file-no-space", self._target.parent)
            raise PackageError(what, why=why, remedy=command, code="file-no-space")


def _unsafe(member: str, name: str, why: str) -> PackageError:
    short = member if len(member) <= 200 else f"{member[:200]}..."
    remedy = "make the tarball again without it"
    return PackageError(f"the member {short!r} of {name} is refused", why=why, remedy=remedy, code="package-unsafe")


class _Tree:
    """The directory to which the members of one tarball are unpacked."""

    def __init__(self, archive: Path, target: Path, name: str) -> None:
        self._target = Path(os.path.realpath(target))
        self._name = name
        self._bounds = _Bounds(archive, target, name)
        self._directories = {self._target}  # those that no link leads to

    def check(self, member: tarfile.TarInfo) -> None:
        """Raises PackageError for a member that is refused, OSError if its file does not fit on the disk."""
        danger = _danger(member) or self._filtered(member)
        if danger:
            raise _unsafe(member.name, self._name, danger)
        self._bounds.admit(PurePosixPath(member.name), member.isdir(), member.size if member.isreg() else 0)

    def _filtered(self, member: tarfile.TarInfo) -> str:
        """Why Python's own filter refuses a member, a second wall; it came with 3.9.17, 3.10.12 and 3.11.4."""
        if not hasattr(tarfile, "data_filter"):
            return ""
        try:
            tarfile.data_filter(member, str(self._target))
        except tarfile.FilterError as error:
            return str(error)
        return ""

    def place(self, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Unpacks one member that was checked. The disk shows links on the way, also if it ignores case."""
        path = self._target / member.name
        if member.isdir():
            self._make(path, member)
            return
        self._make(path.parent, member)
        if path.is_dir() and not path.is_symlink():
            raise _unsafe(member.name, self._name, "a directory has the same name")
        path.unlink(missing_ok=True)
        if member.issym():
            path.symlink_to(member.linkname)
        elif member.islnk():
            source = self._target / member.linkname
            if os.path.realpath(source) != str(source):
                why = f"it is a hard link to {member.linkname}, which is reached through a symbolic link"
                raise _unsafe(member.name, self._name, why)
            os.link(source, path, follow_symlinks=False)
        else:
            stream = tar.extractfile(member)
            assert stream is not None
            with stream:
                _write_file(stream, member, path)

    def _make(self, directory: Path, member: tarfile.TarInfo) -> None:
        if directory in self._directories:
            return
        real, top = os.path.realpath(directory), str(self._target)
        if real != str(directory) or os.path.commonpath((real, top)) != top:
            raise _unsafe(member.name, self._name, "it lies below a symbolic link of the archive, or outside")
        make_dir(directory)
        self._directories.add(directory)


def _danger(member: tarfile.TarInfo) -> str:
    """Why a member is refused, or an empty string."""
    name, link = PurePosixPath(member.name), PurePosixPath(member.linkname)
    leads_out = link.is_absolute() or ".." in link.parts
    dangers = {
        "its name contains a NUL": "\0" in member.name + member.linkname,
        "its name is absolute": name.is_absolute(),
        "its name leads upwards": ".." in name.parts,
        "it has no name": not name.parts and not member.isdir(),
        "it is a device or a pipe": not (member.isreg() or member.isdir() or member.issym() or member.islnk()),
        "it is a sparse file (tar -S; bsdtar without --no-read-sparse)": member.issparse(),
        "it is setuid or setgid": bool(member.mode & 0o6000) and not member.issym(),
        f"it is a link to {link}, outside of the package": member.issym() and link.is_absolute(),
        f"it is a hard link to {link}, outside of the package": member.islnk() and leads_out,
    }
    return next((why for why, applies in dangers.items() if applies), "")


def _strip_top(target: Path) -> str:
    """Removes the single directory at the top, unless it is a part of a package itself; returns its name."""
    tops = list(target.iterdir())
    top = tops[0] if len(tops) == 1 else target
    if top == target or top.name in PLAIN_TOP or top.is_symlink() or not top.is_dir() or not any(top.iterdir()):
        return ""
    aside = target / f".{os.urandom(8).hex()}"  # a member may have the name of its directory
    top.rename(aside)
    for entry in list(aside.iterdir()):
        entry.rename(target / entry.name)
    aside.rmdir()
    return top.name


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
