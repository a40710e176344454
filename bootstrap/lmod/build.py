"""The stack's own Lmod, moved by Spack from the store to the path that it has on every node's local disk.

Spack writes its new place into whatever holds the old one, as it does for packages of a build cache. That needs no
tools where nothing becomes longer: neither a package's path, nor the root of the install tree, which stands in binaries
too (libcrypto names the compiler wrapper that built it). ``/opt/petal-node`` is shorter than ``/opt/petal/store``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..cluster.targets import runnable
from ..core.errors import LmodError
from ..core.model import Role
from ..host.files import make_dir, remove_tree
from ..spack import database
from ..spack.database import Locked
from ..spack.driver import Spack
from ..spack.parallel import split
from ..spack.scope import STACK, write_scope
from ..spack.solve import ready_spack
from ..spack.workspace import adds_lmod, lockfile_of, module_tree, release_specs, site_of, specs_of, store_of
from ..state.context import Context
from .bundle import PACKAGE, carries, copy_of, is_whole, pack, settle
from .find import in_copy

LEFT = (".spack-db", "bin")  # what Spack makes at the root of an install tree


def lmod_of(ctx: Context, target: str) -> Locked | None:
    """The Lmod that the stack has for a target; None where it has none.

    Raises:
        SpackError: ``spack-lockfile``.
    """
    specs = database.locked_specs(lockfile_of(ctx, target))
    return next((spec for spec in specs if spec.name == PACKAGE and spec.explicit and not spec.external), None)


def comes_with_the_stack(ctx: Context) -> bool:
    """True on a head node whose stack is not solved yet and has Lmod: what it then has is not known before."""
    if ctx.role is not Role.HEAD or not carries(specs_of(ctx)):
        return False
    return not all(lockfile_of(ctx, target).is_file() for target in ctx.targets)


def is_left_to_nodes(ctx: Context) -> bool:
    """True for an image without a stack (``hybrid``): its nodes take Lmod from the release when they start."""
    return ctx.bakes and ctx.config.layout == "hybrid" and carries(specs_of(ctx))


def archive_of(ctx: Context, target: str, lmod: Locked) -> Path:
    """Where the release has it packed."""
    name = f"{lmod.version}-{lmod.hash[:7]}.tar.gz"
    return ctx.paths.lmod_packs(ctx.wanted_release) / module_tree(ctx, target).name / name


def pack_lmod(ctx: Context, target: str, lmod: Locked) -> None:
    """Puts the stack's Lmod for one target into the release, ready to be unpacked by its nodes.

    What is here already from another release is packed again, if it works.

    Raises:
        SpackError: ``spack-push``, ``spack-install``.
        LmodError: ``lmod-incomplete``, ``lmod-leads-away``.
        LockLost: somebody else may be doing the same.
    """
    archive = archive_of(ctx, target, lmod)
    copy = copy_of(ctx.paths, archive)
    if not is_whole(copy) or _trouble(ctx, target, copy):
        remove_tree(copy)
        _move(ctx, target, lmod, copy)
        settle(copy)
        trouble = _trouble(ctx, target, copy)
        if trouble:
            what = f"{lmod.name}@{lmod.version} does not work where it was moved to"
            raise LmodError(what, why=trouble, remedy="please report it", code="lmod-incomplete")
    pack(copy, archive, ctx.confirm)
    if archive.parent.name != ctx.tree:  # of a CPU that this node does not have
        remove_tree(copy)


def _trouble(ctx: Context, target: str, copy: Path) -> str:
    """Why a copy will not do; what is for a CPU that this node does not have is not run."""
    if target not in runnable(ctx.facts.host.target):
        return ""
    lmod = in_copy(ctx.system, copy)
    return f"no Lmod is in {copy}" if lmod is None else lmod.trouble


def _move(ctx: Context, target: str, lmod: Locked, copy: Path) -> None:
    spack = ready_spack(ctx, target)
    shutil.copyfile(lockfile_of(ctx, target), spack.lockfile)
    packed = spack.places.scratch / "lmod"
    remains = (packed, *(ctx.paths.home / name for name in LEFT))
    _remove(remains)
    try:
        host, needed = ctx.facts.host, _needed(database.locked_specs(spack.lockfile), [lmod])
        jobs = split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=False).jobs
        spack.push([spec.hash for spec in needed], packed, jobs)
        _beside(ctx, target, spack, packed, copy).unpack(lmod.hash)
    finally:
        _remove(remains)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        remove_tree(path)


def _beside(ctx: Context, target: str, spack: Spack, packed: Path, copy: Path) -> Spack:
    """The same Spack with another install tree, which takes packages from one directory alone."""
    scope = spack.scope.with_name("lmod-scope")
    make_dir(scope)
    below = copy.relative_to(ctx.paths.home)
    places = replace(spack.places, store=ctx.paths.home, projection=f"{below}/{{name}}-{{hash:7}}")
    write_scope(scope, places, replace(site_of(ctx, target), pulled=packed), spack.program.family)
    shutil.copytree(spack.scope / STACK, scope / STACK, dirs_exist_ok=True)
    return replace(spack, places=places, scope=scope)


def lacks_lmod_alone(ctx: Context) -> bool:
    """True where all that somebody asked for is there, and only the Lmod that was added to it is not.

    Raises:
        SpackError: ``spack-lockfile``, ``spack-database``.
    """
    if not adds_lmod(ctx):
        return False
    specs = release_specs(ctx)
    asked = [spec for spec in specs if spec.explicit and spec.name != PACKAGE]
    return bool(asked) and not database.missing(tuple(_needed(specs, asked)), store_of(ctx))


def _needed(specs: Iterable[Locked], tops: Iterable[Locked]) -> list[Locked]:
    """Packages and all that they link to or run with; what the system has stays there."""
    known = {spec.hash: spec for spec in specs}
    found: dict[str, Locked] = {}
    left = [top.hash for top in tops]
    while left:
        spec = known[left.pop()]
        if spec.hash not in found and not spec.external:
            found[spec.hash] = spec
            left += spec.keeps
    return list(found.values())
