"""The stack's own Lmod, moved by Spack from the store to the path that it has on every node's local disk.

Spack writes its new place into whatever holds the old one, as it does for packages of a build cache. The new path is
the shorter one, so that this needs no tools.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..context import Context
from ..errors import LmodError
from ..files import make_dir, remove_tree
from ..lmod.carried import PACKAGE, copy_of, is_whole, pack, settle
from ..lmod.found import has_lmod
from . import database
from .database import Locked
from .driver import Spack
from .parallel import split
from .scope import write_scope
from .solve import ready_spack
from .workspace import lockfile_of, module_tree, site_of

SHORT = "{name}-{hash:7}"
LMOD = "lmod-*/lmod/lmod"


def lmod_of(ctx: Context, target: str) -> Locked | None:
    """The Lmod that the stack has for a target; None where it has none.

    Raises:
        SpackError: ``spack-lockfile``.
    """
    specs = database.locked_specs(lockfile_of(ctx, target))
    return next((spec for spec in specs if spec.name == PACKAGE and spec.explicit and not spec.external), None)


def archive_of(ctx: Context, target: str, lmod: Locked) -> Path:
    """Where the release has it packed."""
    name = f"{lmod.version}-{lmod.hash[:7]}.tar.gz"
    return ctx.paths.lmod_packs(ctx.wanted_release) / module_tree(ctx, target).name / name


def pack_lmod(ctx: Context, target: str, lmod: Locked) -> None:
    """Puts the stack's Lmod for one target into the release, ready to be unpacked by its nodes.

    Raises:
        SpackError: ``spack-push``, ``spack-install``.
        LmodError: ``lmod-incomplete``, ``lmod-leads-away``.
        LockLost: somebody else may be doing the same.
    """
    archive = archive_of(ctx, target, lmod)
    copy = copy_of(ctx.paths, archive)
    if not is_whole(copy):
        remove_tree(copy)
        _move(ctx, target, lmod, copy)
        if not any(has_lmod(place) for place in copy.glob(LMOD)):
            what = f"{lmod.name}@{lmod.version} of Spack's has another shape than petal-node knows"
            raise LmodError(
                what, why=f"no {copy}/{LMOD}/libexec/lmod", remedy="please report it", code="lmod-incomplete"
            )
        settle(copy)
    pack(copy, archive, ctx.confirm)
    if archive.parent.name != ctx.tree:  # of a CPU that this node does not have
        remove_tree(copy)


def _move(ctx: Context, target: str, lmod: Locked, copy: Path) -> None:
    spack = ready_spack(ctx, target)
    shutil.copyfile(lockfile_of(ctx, target), spack.lockfile)
    packed = spack.places.scratch / "lmod"
    remove_tree(packed)
    try:
        host, needed = ctx.facts.host, _needed(database.locked_specs(spack.lockfile), lmod)
        jobs = split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=False).jobs
        spack.push([spec.hash for spec in needed], packed, jobs)
        _beside(ctx, target, spack, packed, copy).unpack(lmod.hash)
    finally:
        remove_tree(packed)


def _beside(ctx: Context, target: str, spack: Spack, packed: Path, copy: Path) -> Spack:
    """The same Spack with another install tree, which takes packages from one directory alone."""
    scope = spack.scope.with_name("lmod-scope")
    make_dir(scope)
    places = replace(spack.places, store=copy, projection=SHORT)
    write_scope(scope, places, replace(site_of(ctx, target), pulled=packed), spack.program.family)
    shutil.copytree(spack.scope / "stack", scope / "stack", dirs_exist_ok=True)
    return replace(spack, places=places, scope=scope)


def _needed(specs: Iterable[Locked], top: Locked) -> list[Locked]:
    """A package and all that it links to or runs with; what the system has stays there."""
    known = {spec.hash: spec for spec in specs}
    found: dict[str, Locked] = {}
    left = [top.hash]
    while left:
        spec = known[left.pop()]
        if spec.hash not in found and not spec.external:
            found[spec.hash] = spec
            left += spec.keeps
    return list(found.values())
