"""Lmod on a node: the machine image's, else the one that the head node packs into the release."""

from __future__ import annotations

from pathlib import Path

from ..cluster.targets import runnable
from ..config.model import LMOD_SPEC
from ..core.deadlines import PROBE
from ..core.errors import LmodError
from ..core.model import Finding, Severity, blocked, change, elsewhere, satisfied
from ..lmod import bundle
from ..lmod.build import build_bundle, bundle_path, is_left_to_nodes, is_pending, stack_lmod
from ..lmod.find import CHECK_NAME, NONE, OLDEST, PLACES, PROGRAM, find_lmod, image_lmod, is_old
from ..spack import database
from ..spack.environments import LOCK
from ..spack.lockfile import Locked
from ..spack.workspace import specs_of, store_of
from ..state.context import Context
from ..state.release import current_release, tree_name
from .base import IMAGE_BUILDS, ON_NODES, ClusterStep, Run, Step
from .root import Root
from .spack import SpackStack

IN_THE_IMAGE = (
    "or into the image: apt-get install lmod    # Debian 12, Ubuntu 24.04; it removes environment-modules",
    "or into the image: dnf install Lmod    # EPEL",
    f"or an Lmod of {OLDEST} or later at {PLACES[1]} of the image",
)


class NodeLmod(Step):
    """Use the image's Lmod if it is new enough, else unpack the one that the release carries.

    A distribution package is never installed: a node that starts later might get another version.
    """

    name = CHECK_NAME
    needs = (Root,)
    part_of = ON_NODES | IMAGE_BUILDS
    seconds = None

    def severity_on(self, ctx: Context) -> Severity:
        """A node whose own Lmod works can be used, also if the release carries a newer one."""
        lmod = find_lmod(ctx)
        return Severity.FAIL if lmod is None or lmod.problem else Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        lmod = find_lmod(ctx)
        problem = NONE if lmod is None else lmod.problem
        place = None if lmod is None or problem else lmod.place
        if lmod is not None and place is not None and ctx.paths.lmods not in place.parents:
            return satisfied(f"Lmod {lmod.version} is at {place}")
        archive = _bundle(ctx)
        if archive is not None:
            copy = bundle.install_dir(ctx.paths, archive)
            if place is None or copy not in place.parents or not bundle.is_complete(copy):
                return change(f"this node does not use {archive.name} yet", f"unpack {archive} into {ctx.paths.lmods}")
        if lmod is not None and place is not None:
            return satisfied(f"Lmod {lmod.version} of the release is at {place}")
        if lmod is not None and not lmod.version:
            look = f"{lmod.place / PROGRAM} bash --version"
            return blocked(problem, look, "install Lua and its package luaposix again")
        return _without_lmod(ctx, problem)

    def apply(self, ctx: Context) -> None:
        archive = _bundle(ctx)
        if archive is None:
            what, remedy = "no release carries an Lmod that can be read now", "petal-node bootstrap"
            raise LmodError(what, remedy=remedy, code="lmod-incomplete")
        ctx.note(f"unpacking Lmod {archive.name}")
        bundle.install(ctx.system, ctx.paths, archive)


def _without_lmod(ctx: Context, problem: str) -> Finding:
    if is_left_to_nodes(ctx):
        return elsewhere("this image has no stack: its nodes take Lmod from the release when they start")
    if is_pending(ctx):
        return change(problem, "unpack the one that the stack builds")
    if bundle.names_lmod(specs_of(ctx)):
        status = "on the head node: petal-node status    # whether Lmod is built; this node unpacks it afterwards"
        return blocked(f"{problem}, and no release carries one yet that this CPU runs", status)
    if LOCK in ctx.environment:
        setting = "on a machine without Lmod: petal-node lockfile    # the new lockfile contains Lmod"
    elif ctx.config.uses_spack:
        setting = "modules: {lmod: stack} in the configuration: the stack builds Lmod for every node that has none"
    else:
        setting = "name a stack in the configuration: it builds Lmod for the nodes"
    return blocked(problem, setting, *IN_THE_IMAGE)


def _bundle(ctx: Context) -> Path | None:
    """The archive of the desired release, else of the current one, for a target that this CPU runs.

    None also if the root cannot be read now.
    """
    trees = [tree_name(ctx.facts.host, target) for target in runnable(ctx.facts.host.target)]

    def find() -> Path | None:
        releases = [name for name in (ctx.release, current_release(ctx.paths)) if name]
        archives = (bundle.bundle_in(ctx.paths, release, tree) for release in releases for tree in trees)
        return next((archive for archive in archives if archive is not None), None)

    return ctx.system.try_storage(find, ctx.paths.root, PROBE)


class LmodPack(ClusterStep):
    """Packs Lmod if it was added to the stack, or the configuration or the head node's image asks for it."""

    name = "lmod-pack"
    needs = (SpackStack,)
    part_of = frozenset({Run.BOOTSTRAP, Run.REPAIR, Run.AMI_IMAGE})
    in_image = True

    def probe(self, ctx: Context) -> Finding:
        if not _needs_pack(ctx):
            return elsewhere("the nodes use the Lmod of their image")
        if is_pending(ctx):
            return change("the stack is not concretized yet", "pack Lmod for nodes without it")
        lmods = _stack_lmods(ctx)
        missing = database.missing(tuple(lmods.values()), store_of(ctx))
        return _compare_packs(ctx, lmods, is_built=not missing) if lmods else elsewhere("the stack has no Lmod")

    def apply(self, ctx: Context) -> None:
        for target, lmod in _stack_lmods(ctx).items():
            if not bundle_path(ctx, target, lmod).is_file():
                ctx.note(f"packing Lmod {lmod.version} for {target}")
                build_bundle(ctx, target, lmod)


def _compare_packs(ctx: Context, lmods: dict[str, Locked], *, is_built: bool) -> Finding:
    versions = sorted({lmod.version for lmod in lmods.values()})
    old = [version for version in versions if is_old(version)]
    if old or not is_built:
        problem = f"the stack's Lmod {old[0]} is too old, {OLDEST} is needed" if old else "Lmod is not built"
        return blocked(
            problem, "petal-node status    # whether the stack went on without it", f"add {LMOD_SPEC} to the stack"
        )
    unpacked = [target for target, lmod in lmods.items() if not bundle_path(ctx, target, lmod).is_file()]
    if unpacked:
        lines = [f"pack it for {target}" for target in unpacked]
        return change(f"Lmod is not packed yet for {' and '.join(unpacked)}", *lines)
    return satisfied(f"Lmod {' and '.join(versions)} is packed")


def _needs_pack(ctx: Context) -> bool:
    """A stack may contain Lmod for users alone: then the nodes have their own."""
    specs = specs_of(ctx)
    if not ctx.config.uses_spack or not bundle.names_lmod(specs):
        return False
    if ctx.config.modules.lmod == "stack" or LMOD_SPEC in specs:
        return True
    lmod = image_lmod(ctx.system)
    return lmod is None or bool(lmod.problem)


def _stack_lmods(ctx: Context) -> dict[str, Locked]:
    """The stack's Lmod for each CPU target."""
    lmods = ((target, stack_lmod(ctx, target)) for target in ctx.targets)
    return {target: lmod for target, lmod in lmods if lmod is not None}
