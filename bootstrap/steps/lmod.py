"""Lmod, which reads the module tree: a node has it from its machine image, else from the release that carries one."""

from __future__ import annotations

from pathlib import Path

from ..cluster.targets import runnable
from ..core.errors import LmodError, PetalError
from ..core.model import Probe, Role, Scope, blocked, change, elsewhere, satisfied
from ..lmod.build import comes_with_the_stack
from ..lmod.bundle import archive_in, carries, copy_of, fetch, is_whole, take
from ..lmod.distribution import BY_HAND, install_lmod
from ..lmod.find import NONE, Lmod, find, of_machine
from ..spack.workspace import specs_of
from ..state.context import Context
from ..state.release import current_release, tree_name
from .base import EVERYWHERE, TOUCH_SECONDS

FETCH_SECONDS = 120.0
ALONE = "or on this node alone, until it is replaced: petal-node repair --yes"
IN_THE_STACK = "modules: {lmod: stack} in the configuration: the stack builds one for every node"


class NodeLmod:
    """What the image has is taken, and else the stack's; no package of the distribution's is installed on a node.

    What one node got so at boot the next one might not get. An image build installs it, and ``repair --yes`` does:
    whoever types that means this node.
    """

    name = "lmod"
    title = "Lmod is here, and new enough"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("root",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        lmod = find(ctx)
        works = lmod is not None and not lmod.trouble
        if lmod is not None and works and ctx.paths.lmods not in lmod.place.parents:
            return satisfied(f"Lmod {lmod.version} is at {lmod.place}")
        archive = _archive(ctx)
        if archive is not None and not _is_taken(ctx, archive, lmod):
            return change(f"this node uses no {archive.name} yet", f"unpack {archive} into {ctx.paths.lmods}")
        if lmod is not None and works:
            return satisfied(f"Lmod {lmod.version}, which the stack has built, is at {lmod.place}")
        trouble = lmod.trouble if lmod is not None else NONE
        if comes_with_the_stack(ctx) and not _may_install(ctx):
            return change(trouble, "unpack the one that the stack builds")
        return _without(ctx, trouble)

    def apply(self, ctx: Context) -> None:
        archive = _archive(ctx)
        if archive is not None:
            _take(ctx, archive)
        elif _may_install(ctx):
            _install(ctx)
        else:
            what, remedy = "no release carries an Lmod that can be read now", "petal-node bootstrap"
            raise LmodError(what, remedy=remedy, code="lmod-unreadable")


def _is_taken(ctx: Context, archive: Path, lmod: Lmod | None) -> bool:
    """Its copy is whole, answers, and is what new shells get."""
    copy = copy_of(ctx.paths, archive)
    return lmod is not None and not lmod.trouble and copy in lmod.place.parents and is_whole(copy)


def _archive(ctx: Context) -> Path | None:
    """The Lmod of the wanted release, else of the current one, for a target that this CPU runs.

    None also where the root cannot be read now.
    """
    if ctx.config.modules.lmod == "node":
        return None
    trees = [tree_name(ctx.facts.host, target) for target in runnable(ctx.facts.host.target)]

    def look() -> Path | None:
        releases = (name for name in (ctx.release, current_release(ctx.paths)) if name)
        found = (archive_in(ctx.paths, release, tree) for release in releases for tree in trees)
        return next((archive for archive in found if archive is not None), None)

    try:
        return ctx.system.guarded(look, timeout=TOUCH_SECONDS, what=str(ctx.paths.root))
    except (PetalError, OSError):
        return None


def _take(ctx: Context, archive: Path) -> None:
    ctx.note(f"unpacking Lmod {archive.name}")
    fetched = ctx.paths.scratch / archive.name
    try:
        ctx.system.guarded(lambda: fetch(ctx.paths, archive), timeout=FETCH_SECONDS, what=str(archive))
        take(ctx.paths, archive, fetched)
    finally:
        fetched.unlink(missing_ok=True)


def _may_install(ctx: Context) -> bool:
    """An image build, and whoever repairs a node of a cluster whose stack brings none, or not to this node."""
    is_builder = ctx.role is Role.HEAD and carries(specs_of(ctx))
    meant = ctx.bakes or (ctx.may_destroy and not is_builder)
    return ctx.paths.live and meant and ctx.config.modules.lmod != "stack"


def _install(ctx: Context) -> None:
    ctx.note("installing Lmod")
    install_lmod(ctx.system, ctx.paths.scratch)
    lmod = of_machine(ctx.system)
    trouble = lmod.trouble if lmod is not None else NONE
    if trouble:
        what = "the distribution's Lmod was installed and will not do"
        raise LmodError(what, why=trouble, remedy=BY_HAND, code="lmod-too-old")


def _without(ctx: Context, trouble: str) -> Probe:
    which = ctx.config.modules.lmod
    if which == "stack" and ctx.bakes and ctx.config.layout == "hybrid":
        return elsewhere("the stack brings Lmod, and this image has no stack")
    if _may_install(ctx):
        return change(trouble, "install the distribution's Lmod; environment-modules stays")
    if which != "node" and carries(specs_of(ctx)):
        return blocked(
            f"{trouble}, and no release carries one yet that this CPU runs",
            "petal-node status    (on the head node: how far that is; the other nodes take it by themselves then)",
            "petal-node lock      (where a lockfile is the stack: one of a machine with Lmod brings none)",
            *(["or build the image with Lmod: docs/layouts.md"] if which == "auto" else []),
            *([ALONE] if which == "auto" and ctx.role is not Role.HEAD else []),
        )
    return blocked(
        trouble,
        "build the image with petal-node bootstrap --layout hybrid, or ami: it installs Lmod",
        "or into the image: apt-get install lmod    (Debian 12, Ubuntu 24.04; it removes environment-modules)",
        "or into the image: dnf install Lmod        (EPEL)",
        BY_HAND,
        *([f"or {IN_THE_STACK}"] if ctx.config.builds and which != "node" else []),
        ALONE,
    )
