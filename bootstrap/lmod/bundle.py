"""The stack's own Lmod on its way to a node: packed in the release, unpacked on local disk, then taken by one rename.

Shells run it at each login, root's among them: nothing of it may lie on shared storage or lead there.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ..core.errors import LmodError, PackageError
from ..core.paths import Paths
from ..host.atomic import replace_link, staged_dir, staged_file
from ..host.files import first_distrusted, make_dir, remove_tree
from ..remote.tarball import unpack

SPEC = "lmod@8.5:"
PACKAGE = "lmod"
WHOLE = ".whole"  # in a copy that lacks nothing, written last
ENDING = ".tar.gz"
NAME = re.compile(rf"\s*{PACKAGE}(?![\w-])")


def carries(specs: Iterable[str]) -> bool:
    """True where Lmod is among the specs already."""
    return any(NAME.match(spec) for spec in specs)


def archive_in(paths: Paths, release: str, tree: str) -> Path | None:
    """The Lmod that a release has packed for the nodes that take one of its module trees; None where it has none."""
    found = sorted((paths.lmod_packs(release) / tree).glob(f"*{ENDING}"))
    return found[0] if found else None


def copy_of(paths: Paths, archive: Path) -> Path:
    """Where an archive's content lies on a node: the path that is written into its files."""
    return paths.lmods / archive.name[: -len(ENDING)]


def is_whole(copy: Path) -> bool:
    """True where nothing was interrupted that made it."""
    return (copy / WHOLE).is_file()


def pack(copy: Path, archive: Path, confirm: Callable[[], None]) -> None:
    """Packs a copy that is whole; the archive gets its name when all of it is on the disk.

    Raises:
        LockLost: what ``confirm`` raises.
    """
    with staged_file(archive, confirm=confirm) as part, tarfile.open(part, "w:gz", compresslevel=6) as tar:
        tar.add(copy, arcname=copy.name, filter=_of_root)
    for other in archive.parent.glob(f"*{ENDING}"):
        if other != archive:  # of a lockfile that was solved anew
            other.unlink()


def _of_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Spack's sbang is setgid where the store's directory is."""
    member.uid, member.gid, member.uname, member.gname = 0, 0, "root", "root"
    member.mode &= 0o755
    return member


def fetch(paths: Paths, archive: Path) -> Path:
    """Copies an archive to local disk, and returns the copy. May hang: to be called with a deadline.

    Raises:
        LmodError: ``lmod-untrusted``, others than root could have put it there.
        OSError: it cannot be read now.
    """
    found = first_distrusted(archive, paths.root)
    if found:
        what = f"{archive} is not unpacked, since root's shells would run it"
        raise LmodError(what, why=str(found), remedy=(found.remedy, "petal-node repair"), code="lmod-untrusted")
    make_dir(paths.scratch)
    fetched = paths.scratch / archive.name
    shutil.copyfile(archive, fetched)
    return fetched


def take(paths: Paths, archive: Path, fetched: Path) -> None:
    """Unpacks it here if that was not done, and lets new shells use it. Copies of before stay: shells run them.

    A copy that is in use already and is to be taken again has something wrong, and is made anew.

    Args:
        archive: where the release has it.
        fetched: the same on local disk.

    Raises:
        LmodError: ``lmod-incomplete``, it is damaged.
    """
    copy = copy_of(paths, archive)
    if not is_whole(copy) or paths.lmod_in_use.resolve() == copy.resolve():
        with staged_dir(copy) as part:
            _unpack(archive, fetched, part)
    replace_link(paths.lmod_in_use, copy.name)


def _unpack(archive: Path, fetched: Path, part: Path) -> None:
    try:
        unpack(fetched, part)
        why = "" if is_whole(part) else f"it has no {WHOLE}"
    except PackageError as error:
        why = f"{error}: {error.why}"
    if why:
        remedy = f"rm {archive}; then on the head node: petal-node bootstrap"
        raise LmodError(f"{archive} cannot be used", why=why, remedy=remedy, code="lmod-incomplete")


def settle(copy: Path) -> None:
    """Makes of an install tree of Spack's a copy: what only Spack reads goes, and links within it become relative.

    Raises:
        LmodError: ``lmod-leads-away``, something in it would be looked for elsewhere.
    """
    for spacks in copy.glob("*/.spack"):
        remove_tree(spacks)
    for directory, names, files in os.walk(copy):
        for name in (*names, *files):
            path = Path(directory, name)
            if path.is_symlink() and path.readlink().is_absolute():
                _relink(path, copy)
    (copy / WHOLE).write_text("", encoding="utf-8")


def _relink(link: Path, copy: Path) -> None:
    target = link.readlink()
    if copy not in target.parents:
        raise LmodError(f"{link} leads to {target}", remedy="please report it", code="lmod-leads-away")
    link.unlink()
    link.symlink_to(os.path.relpath(target, link.parent))
