"""The first start of an archive: unpacks its tree into a cache, once for all who start at the same time.

Runs on Python >= 3.9 from inside the archive (as ``petal_unpack``), with the standard library only.
"""

from __future__ import annotations

import compileall
import contextlib
import os
import re
import shutil
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

Stop = Callable[[str, str, str], NoReturn]
Distrust = Callable[[str, int], "str | None"]

TREE = "tree/"
BOOT = ".boot"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KEPT_SECONDS = 30 * 24 * 3600  # a tree that its owner did not start for so long is removed
LEFTOVER_SECONDS = 3600  # a copy that a killed start left behind
LEFTOVERS = (".new-", ".gone-")
KEY = re.compile(r"[0-9a-f]{32}-[a-z0-9_]+")


def make_tree(archive: str, base: str, key: str, machine: str, stop: Stop, distrust: Distrust) -> str:
    """Makes, or repairs, the tree ``base/key`` and gives its path.

    Args:
        archive: absolute path of the archive.
        base: the cache directory of the user who runs this.
        key: content hash and machine, the name of the tree.
        machine: ``x86_64`` or ``aarch64``.
        stop: the loader's way out: what, why, remedy; ends with 69.
        distrust: the loader's check of owner and mode.
    """
    try:
        _make_base(Path(base), stop, distrust)
        with zipfile.ZipFile(archive) as source:
            return _make(source, Path(base) / key, machine, distrust)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        stop(f"the archive is damaged: {archive}", str(error), "fetch it again and compare it with its .sha256 file")
    except OSError as error:
        stop(f"cannot unpack into {base}", str(error), _remedy())


def _remedy() -> str:
    if os.geteuid() == 0:
        return "make room in /var/cache and make it writable (df -h /var/cache; mount | grep /var)"
    return "run `sudo petal-node version` once (all users share its cache), or set XDG_CACHE_HOME to your own directory"


def _make_base(base: Path, stop: Stop, distrust: Distrust) -> None:
    """The cache directory itself: made 0755, refused if others could have put something there."""
    with _umask(0o022):
        base.mkdir(mode=0o755, parents=True, exist_ok=True)
    problem = distrust(str(base), os.geteuid())
    if problem:
        stop("its cache cannot be trusted", problem, f"remove it (rm -rf {base}); it is made anew")
    if os.statvfs(base).f_flag & os.ST_NOEXEC:
        stop(
            f"its cache {base} is on a file system mounted noexec",
            "psutil's compiled part cannot be loaded from there",
            _remedy() if os.geteuid() else f"mount -o remount,exec $(findmnt -nT {base} -o TARGET), and in /etc/fstab",
        )


def _make(source: zipfile.ZipFile, tree: Path, machine: str, distrust: Distrust) -> str:
    if tree.is_symlink() or tree.exists():
        if not distrust(str(tree), os.geteuid()) and _complete(source, tree, machine):
            _mark(tree)
            return str(tree)
        _remove(tree)
    _prune(tree.parent, tree.name)
    with _umask(0o022):
        copy = Path(tempfile.mkdtemp(prefix=LEFTOVERS[0], dir=tree.parent))
        try:
            _unpack(source, copy, tree, machine)
            _publish(copy, tree)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
    return str(tree)


def _members(source: zipfile.ZipFile, machine: str) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Each file of the archive that belongs to this machine's tree, with its path there."""
    native = f"arch/{machine}/"
    for member in source.infolist():
        for start in (TREE, native):
            if member.filename.startswith(start):
                yield member, member.filename[len(start) :]


def _unpack(source: zipfile.ZipFile, copy: Path, tree: Path, machine: str) -> None:
    made = set()
    for member, name in _members(source, machine):
        target = copy / name
        if target.parent not in made:
            target.parent.mkdir(parents=True, exist_ok=True)
            made.add(target.parent)
        target.write_bytes(source.read(member))
    # The tool's own modules only: 40 ms once, which users who cannot write here would pay at each start.
    compileall.compile_dir(str(copy / "bootstrap"), quiet=2, stripdir=str(copy), prependdir=str(tree))
    _mark(copy)
    copy.chmod(0o755)


def _publish(copy: Path, tree: Path) -> None:
    """Renames the copy into place. Of many who start together one wins; the others use what it made."""
    try:
        copy.rename(tree)
    except OSError:
        if not tree.is_dir():
            raise


def _complete(source: zipfile.ZipFile, tree: Path, machine: str) -> bool:
    """True if every file is there in its full size (an empty .pyc Python itself makes anew)."""
    with contextlib.suppress(OSError):
        return all((tree / name).stat().st_size == member.file_size for member, name in _members(source, machine))
    return False


def _mark(tree: Path) -> None:
    """Notes the boot in which the tree was seen to be complete. The mark's time says when it was last used."""
    with contextlib.suppress(OSError):
        (tree / BOOT).write_text(BOOT_ID.read_text())


def _remove(tree: Path) -> None:
    """Takes a tree out of sight in one step, then deletes it."""
    gone = Path(tempfile.mkdtemp(prefix=LEFTOVERS[1], dir=tree.parent))
    with contextlib.suppress(OSError):
        tree.rename(gone / tree.name)
    shutil.rmtree(gone, ignore_errors=True)


def _prune(base: Path, key: str) -> None:
    """Removes trees of other archives that were not used for long, and what killed starts left."""
    for entry in base.iterdir():
        with contextlib.suppress(OSError):
            if KEY.fullmatch(entry.name):
                if entry.name != key and _age(entry / BOOT, entry) > KEPT_SECONDS:
                    _remove(entry)
            elif entry.name.startswith(LEFTOVERS) and _age(entry) > LEFTOVER_SECONDS:
                shutil.rmtree(entry, ignore_errors=True)


def _age(*paths: Path) -> float:
    """Seconds since the first of the paths that is there was changed."""
    there = next(path for path in (*paths, Path("/")) if path.exists())
    return time.time() - there.lstat().st_mtime


@contextlib.contextmanager
def _umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
