"""The first start of an archive: unpacks its tree into a cache, once for all processes that start at the same time.

The tree is unpacked and compiled in a private directory, flushed to disk, and only then renamed to its final name.
After a kill, a power cut or on a full disk the final name is missing or leads to a complete tree. Nothing writes to it
afterwards. ``.files`` lists its files with their sizes; the loader compares them at each start.
Runs on Python >= 3.9 from inside the archive (as ``petal_unpack``), with the standard library only.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import shlex
import shutil
import tempfile
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

Stop = Callable[[str, str, str], NoReturn]
Distrust = Callable[[str, int], "str | None"]
Damage = Callable[[str], "str | None"]

PRIVATE = ".new-"
KEPT_TREES = 2  # of earlier versions
ABANDONED_SECONDS = 3600  # age at which a private directory counts as left by a killed process


def make_tree(archive: str, base: str, key: str, machine: str, stop: Stop, distrust: Distrust, damage: Damage) -> str:
    """Unpacks the archive to ``base/key`` and returns that path.

    Args:
        archive: absolute path of the archive.
        base: the cache directory of the user who runs this.
        key: content hash, version of Python and machine, the name of the tree.
        machine: ``x86_64`` or ``aarch64``.
        stop: the loader's error exit: what, why, remedy; exits 69.
        distrust: the loader's check of owner and mode.
        damage: the loader's check of the files.
    """
    tree = Path(base, key)
    umask = os.umask(0o022)
    try:
        _make_base(archive, Path(base), stop, distrust)
        with zipfile.ZipFile(archive) as source:
            _make(source, tree, machine, lambda: distrust(str(tree), os.geteuid()) or damage(str(tree)))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        stop(f"the archive is damaged: {archive}", str(error), "fetch it again and compare it with its .sha256 file")
    except OSError as error:
        stop(f"cannot unpack into {base}", str(error), _remedy(archive))
    finally:
        os.umask(umask)
    return str(tree)


def _remedy(archive: str) -> str:
    if os.geteuid() == 0:
        return "make room in /var/cache and make it writable (df -h /var/cache; mount | grep /var)"
    command = f"sudo {shlex.quote(archive)} version"
    return f"run `{command}` once (all users share its cache), or set XDG_CACHE_HOME to your own directory"


def _make_base(archive: str, base: Path, stop: Stop, distrust: Distrust) -> None:
    """Makes the cache directory, or refuses one in which other users could have put something."""
    base.mkdir(mode=0o755, parents=True, exist_ok=True)
    problem, quoted = distrust(str(base), os.geteuid()), shlex.quote
    if problem:
        remove = f"remove it (rm -rf {quoted(str(base))}); the next start makes it again"
        stop("its cache cannot be trusted", problem, remove)
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        remount = f"mount -o remount,exec $(findmnt -nT {quoted(str(base))} -o TARGET), and in /etc/fstab"
        stop(
            f"its cache {base} is on a file system mounted noexec",
            "psutil's compiled part cannot be loaded from there",
            _remedy(archive) if os.geteuid() else remount,
        )


def _make(source: zipfile.ZipFile, tree: Path, machine: str, problem: Callable[[], str | None]) -> None:
    for entry in tree.parent.glob(f"{PRIVATE}*"):
        with suppress(FileNotFoundError):  # another process removes it at the same time
            if time.time() - entry.lstat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)
    private = Path(tempfile.mkdtemp(prefix=PRIVATE, dir=tree.parent))
    try:
        copy = private / tree.name
        _write_files(source, copy, machine)
        _flush(copy)
        if os.path.lexists(tree) and problem():
            with suppress(FileNotFoundError):  # another process replaces it at the same time
                tree.rename(private / "replaced")
        try:
            copy.rename(tree)
        except OSError:  # ENOTEMPTY: another process was faster, and its tree is used
            if problem():
                raise
        for old in _others(tree, machine)[KEPT_TREES:]:
            with suppress(FileNotFoundError):  # another process removes it at the same time
                old.rename(private / old.name)
        _fsync(tree.parent)
    finally:
        shutil.rmtree(private, ignore_errors=True)


def _others(tree: Path, machine: str) -> list[Path]:
    """The trees of other versions, newest first, without those of the last day, from which a run may be working."""
    times = {path: path.stat().st_mtime for path in tree.parent.glob(f"*-{machine}") if path.is_dir() and path != tree}
    return sorted((path for path in times if time.time() - times[path] > 86_400), key=times.__getitem__, reverse=True)


def _write_files(source: zipfile.ZipFile, copy: Path, machine: str) -> None:
    """Writes each file, the byte code of each module, and the list of all with their sizes.

    Python's own writers of byte code ignore a full disk, and older ones leave the part that did fit (importlib:
    _write_atomic).
    """
    sizes = {}

    def write(name: str, data: bytes) -> None:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(data)
        sizes[name] = len(data)

    for member in source.infolist():
        top = next((part for part in ("tree/", f"arch/{machine}/") if member.filename.startswith(part)), None)
        if top is not None:
            name, data = member.filename[len(top) :], source.read(member)
            write(name, data)
            if name.endswith(".py"):
                with suppress(SyntaxError):  # a module that this Python cannot import
                    write(importlib.util.cache_from_source(name), _byte_code(name, data))
    lines = "".join(f"{size} {name}\n" for name, size in sizes.items())
    (copy / ".files").write_text(f"{lines}\n", encoding="utf-8")


def _byte_code(name: str, source: bytes) -> bytes:
    """The content of a .pyc file that Python uses without a look at its source (PEP 552, unchecked)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        code = compile(source, name, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + b"\1\0\0\0" + importlib.util.source_hash(source) + marshal.dumps(code)


def _flush(tree: Path) -> None:
    """Writes a tree to disk with one syncfs(2): 0.1 s instead of 4 s for fsync(2) of 600 files on a busy disk."""
    import ctypes

    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(tree))
    finally:
        os.close(descriptor)


def _fsync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
