"""The stack's Lmod, moved by Spack from the store to the path that it has on the local disk of every node.

Spack replaces its old path in all files, as it does for packages from a build cache. That needs no tools as long as no
path becomes longer: neither that of a package, nor that of the install tree, which binaries contain too (libcrypto
names the compiler wrapper that built it). ``/opt/petal-node`` is shorter than ``/opt/petal/store``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from ..cluster.targets import runnable
from ..config.model import LMOD
from ..core.errors import LmodError
from ..core.model import Mode, Role
from ..host.files import make_dir, remove_tree
from ..spack import database
from ..spack.lockfile import Locked, locked_specs
from ..spack.scope import STACK, write_scope
from ..spack.solve import with_lockfile
from ..spack.workspace import adds_lmod, lockfile_of, module_tree, release_specs, site_of, specs_of, store_of
from ..state.context import Context
from .bundle import SUFFIX, build, install_dir, is_complete, names_lmod, relativize
from .find import lmod_in


def stack_lmod(ctx: Context, target: str) -> Locked | None:
    """The Lmod in the stack's lockfile for a CPU target, None if the stack has none.

    Raises:
        StateError: the lockfile is damaged.
    """
    specs = locked_specs(lockfile_of(ctx, target))
    return next((spec for spec in specs if spec.name == LMOD and spec.explicit and not spec.external), None)


def is_pending(ctx: Context) -> bool:
    """True on a head node whose stack has Lmod and is not concretized yet, so its version is unknown."""
    if ctx.role is not Role.HEAD or not names_lmod(specs_of(ctx)) or is_left_to_nodes(ctx):
        return False
    return not all(lockfile_of(ctx, target).is_file() for target in ctx.targets)


def is_left_to_nodes(ctx: Context) -> bool:
    """True for an image without a stack (``hybrid``): its nodes unpack the release's Lmod when they start."""
    return ctx.mode is Mode.IMAGE and ctx.config.layout == "hybrid" and names_lmod(specs_of(ctx))


def bundle_path(ctx: Context, target: str, lmod: Locked) -> Path:
    """The path of the archive in the release."""
    name = f"{lmod.version}-{lmod.hash[:7]}{SUFFIX}"
    return ctx.paths.lmod_packs(ctx.desired_release) / module_tree(ctx, target).name / name


def build_bundle(ctx: Context, target: str, lmod: Locked) -> None:
    """Packs the stack's Lmod for one CPU target into the release.

    A copy that this node has from an earlier release is packed as it is, if it works.

    Raises:
        SpackError: ``cache-push``, ``spack-install``.
        LmodError: ``lmod-incomplete``.
        LockLost: another process may be doing the same.
    """
    bundle = bundle_path(ctx, target, lmod)
    copy = install_dir(ctx.paths, bundle)

    def copy_problem() -> str:
        if target not in runnable(ctx.facts.host.target):  # a copy for another CPU is not run
            return ""
        installed = lmod_in(ctx.system, copy)
        return f"{copy} contains no Lmod" if installed is None else installed.problem

    if not is_complete(copy) or copy_problem():
        remove_tree(copy)
        _install_copy(ctx, target, lmod, copy)
        relativize(copy)
        problem = copy_problem()
        if problem:
            what = f"{lmod.name}@{lmod.version} does not work at {copy}"
            raise LmodError(what, why=problem, remedy="please report it", code="lmod-incomplete")
    build(copy, bundle, ctx.confirm)
    if bundle.parent.name != ctx.tree:  # for another CPU than this node's
        remove_tree(copy)


def _install_copy(ctx: Context, target: str, lmod: Locked, copy: Path) -> None:
    """Installs Lmod and its dependencies at ``copy``: pushes them into a build cache, and installs them from there.

    The second install tree is ``/opt/petal-node``, so Spack's database and ``bin`` in it are removed before and after.
    """
    spack = with_lockfile(ctx, target)
    cache = spack.places.scratch / "lmod"
    temporary = (cache, ctx.paths.home / ".spack-db", ctx.paths.home / "bin")
    for path in temporary:
        remove_tree(path)
    try:
        needed = _with_dependencies(locked_specs(spack.lockfile), [lmod])
        spack.push([spec.hash for spec in needed], cache)
        scope = spack.scope.with_name("lmod-scope")
        make_dir(scope)
        projection = f"{copy.relative_to(ctx.paths.home)}/{{name}}-{{hash:7}}"
        places = replace(spack.places, store=ctx.paths.home, projection=projection)
        write_scope(scope, places, replace(site_of(ctx, target), pulled=cache), spack.program.family)
        shutil.copytree(spack.scope / STACK, scope / STACK, dirs_exist_ok=True)
        replace(spack, places=places, scope=scope).unpack(lmod.hash)
    finally:
        for path in temporary:
            remove_tree(path)


def lacks_only_lmod(ctx: Context) -> bool:
    """True if everything that the user asked for is installed, and only the Lmod that was added is missing.

    Raises:
        StateError, SpackError: the lockfile or the database is damaged.
    """
    if not adds_lmod(ctx):
        return False
    specs = release_specs(ctx)
    requested = [spec for spec in specs if spec.explicit and spec.name != LMOD]
    return bool(requested) and not database.missing(tuple(_with_dependencies(specs, requested)), store_of(ctx))


def _with_dependencies(specs: Iterable[Locked], roots: Iterable[Locked]) -> list[Locked]:
    """Packages with all that they link to or run with, without externals, which stay where the system has them."""
    by_hash = {spec.hash: spec for spec in specs}
    needed: dict[str, Locked] = {}
    pending = [root.hash for root in roots]
    while pending:
        spec = by_hash[pending.pop()]
        if spec.hash not in needed and not spec.external:
            needed[spec.hash] = spec
            pending += spec.keeps
    return list(needed.values())
