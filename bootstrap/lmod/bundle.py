"""The release's Lmod on its way to a node: an archive in the release, unpacked on local disk, activated by one rename.

All shells run it at login, root's too: nothing in it may be on shared storage or point there.
"""

from __future__ import annotations

import os
import re
import shutil
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ..config.model import LMOD
from ..core.deadlines import DOCUMENT
from ..core.errors import LmodError, PackageError
from ..core.paths import Paths
from ..core.text import quoted
from ..host.atomic import flush_filesystem, replace_link, staged_dir, staged_file, write_atomic
from ..host.files import make_dir, path_problem, remove_tree
from ..host.system import System
from ..remote.tarball import unpack

COMPLETE = ".complete"  # the last file that is written into a copy
SUFFIX = ".tar.gz"
IS_LMOD = re.compile(rf"\s*{LMOD}(?![\w-])")


def names_lmod(specs: Iterable[str]) -> bool:
    """True if one of the specs is Lmod."""
    return any(IS_LMOD.match(spec) for spec in specs)


def bundle_in(paths: Paths, release: str, tree: str) -> Path | None:
    """The archive of a release for the nodes that use one of its module trees, None if the release has none."""
    return min((paths.lmod_packs(release) / tree).glob(f"*{SUFFIX}"), default=None)


def install_dir(paths: Paths, bundle: Path) -> Path:
    """The directory on a node for an archive's content; the files contain this path."""
    return paths.lmods / bundle.name[: -len(SUFFIX)]


def is_complete(copy: Path) -> bool:
    """True unless the making of the copy was interrupted."""
    return (copy / COMPLETE).is_file()


def build(copy: Path, bundle: Path, confirm: Callable[[], None]) -> None:
    """Packs a complete copy into the release; the archive gets its name after it has reached the disk.

    Args:
        confirm: called before the rename; raises LockLost if this process has lost the cluster lock.
    """

    def owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid, member.gid, member.uname, member.gname = 0, 0, "root", "root"
        member.mode &= 0o755  # Spack's sbang is setgid if the store's directory is
        return member

    with staged_file(bundle, confirm=confirm) as part, tarfile.open(part, "w:gz", compresslevel=6) as tar:
        tar.add(copy, arcname=copy.name, filter=owned_by_root)
    for other in bundle.parent.glob(f"*{SUFFIX}"):
        if other != bundle:  # of an earlier lockfile of this release
            other.unlink()


def install(system: System, paths: Paths, bundle: Path) -> None:
    """Unpacks an archive, unless that was done before, and makes new shells use it. Earlier copies stay in use.

    If shells use this copy already, the caller found it damaged, so it is unpacked again.

    Raises:
        LmodError: ``lmod-incomplete``, the archive is damaged; ``untrusted``, users could have changed it.
        OSError, DeadlineExceeded: it cannot be read now.
    """
    copy, fetched = install_dir(paths, bundle), paths.scratch / bundle.name
    if not is_complete(copy) or paths.lmod_in_use.resolve() == copy.resolve():
        try:
            system.on_storage(lambda: _fetch(paths, bundle, fetched), bundle, DOCUMENT)
            with staged_dir(copy) as part:
                _unpack(bundle, fetched, part)
        finally:
            fetched.unlink(missing_ok=True)
    replace_link(paths.lmod_in_use, copy.name)


def _fetch(paths: Paths, bundle: Path, fetched: Path) -> None:
    distrusted = path_problem(bundle, paths.root)
    if distrusted:
        raise LmodError(
            f"{bundle} is not unpacked, because root's shells would run its content",
            why=str(distrusted),
            remedy=(distrusted.remedy, "petal-node repair"),
            code="untrusted",
        )
    make_dir(fetched.parent)
    shutil.copyfile(bundle, fetched)


def _unpack(bundle: Path, fetched: Path, part: Path) -> None:
    try:
        unpack(fetched, part, bundle.name)
        why = "" if is_complete(part) else f"it does not contain {COMPLETE}"
    except PackageError as error:
        why = str(error)
    if why:
        remedy = (f"rm {quoted(bundle)}", "on the head node, afterwards: petal-node bootstrap")
        raise LmodError(f"{bundle} cannot be used", why=why, remedy=remedy, code="lmod-incomplete")


def relativize(copy: Path) -> None:
    """Turns an install tree of Spack's into a complete copy: no files for Spack alone, no absolute links.

    Raises:
        LmodError: ``lmod-incomplete``, a link points out of the copy.
    """
    for metadata in copy.glob("*/.spack"):
        remove_tree(metadata)
    for directory, names, files in os.walk(copy):
        for link in (Path(directory, name) for name in (*names, *files)):
            if not link.is_symlink() or not link.readlink().is_absolute():
                continue
            target = link.readlink()
            if copy not in target.parents:
                raise LmodError(f"{link} points to {target}", remedy="please report it", code="lmod-incomplete")
            link.unlink()
            link.symlink_to(os.path.relpath(target, directory))
    flush_filesystem(copy)  # Spack flushes nothing
    write_atomic(copy / COMPLETE, b"")
