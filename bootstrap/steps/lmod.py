"""Lmod, which reads the module tree: a node has it from its machine image, else from the release that carries one."""

from __future__ import annotations

from pathlib import Path

from ..cluster.targets import runnable
from ..core.errors import LmodError, PetalError
from ..core.model import Probe, Scope, blocked, change, elsewhere, satisfied
from ..lmod.build import comes_with_the_stack, is_left_to_nodes
from ..lmod.bundle import archive_in, carries, copy_of, fetch, is_whole, take
from ..lmod.find import NONE, OLDEST, PLACES, Lmod, dotted, find
from ..spack.workspace import specs_of
from ..state.context import Context
from ..state.release import current_release, tree_name
from .base import EVERYWHERE, TOUCH_SECONDS

FETCH_SECONDS = 120.0
IN_THE_STACK = "modules: {lmod: stack} in the configuration: the stack builds Lmod for every node that has none"


class NodeLmod:
    """Use the image's Lmod if it is new enough, else unpack the one that the release carries.

    A distribution package is never installed: a node that starts later might get another version.
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
            return change(f"this node does not use {archive.name} yet", f"unpack {archive} into {ctx.paths.lmods}")
        if lmod is not None and works:
            return satisfied(f"Lmod {lmod.version}, which the stack has built, is at {lmod.place}")
        trouble = lmod.trouble if lmod is not None else NONE
        if is_left_to_nodes(ctx):
            return elsewhere("this image has no stack: its nodes take Lmod from the release when they start")
        if comes_with_the_stack(ctx):
            return change(trouble, "unpack the one that the stack builds")
        return _blocked(ctx, trouble)

    def apply(self, ctx: Context) -> None:
        archive = _archive(ctx)
        if archive is not None:
            _take(ctx, archive)
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
    trees = [tree_name(ctx.facts.host, target) for target in runnable(ctx.facts.host.target)]

    def look() -> Path | None:
        releases = (name for name in (ctx.release, current_release(ctx.paths)) if name)
        found = (archive_in(ctx.paths, release, tree) for release in releases for tree in trees)
        return next((archive for archive in found if archive is not None), None)

    try:
        return ctx.system.on_storage(look, ctx.paths.root, TOUCH_SECONDS)
    except (PetalError, OSError):
        return None


def _take(ctx: Context, archive: Path) -> None:
    ctx.note(f"unpacking Lmod {archive.name}")
    fetched = ctx.paths.scratch / archive.name
    try:
        ctx.system.on_storage(lambda: fetch(ctx.paths, archive), archive, FETCH_SECONDS)
        take(ctx.paths, archive, fetched)
    finally:
        fetched.unlink(missing_ok=True)


def _blocked(ctx: Context, problem: str) -> Probe:
    if carries(specs_of(ctx)):
        status = "petal-node status    (on the head node: whether Lmod is built; this node unpacks it afterwards)"
        return blocked(f"{problem}, and no release carries one yet that this CPU runs", status)
    in_image = (
        "or into the image: apt-get install lmod    (Debian 12, Ubuntu 24.04; it removes environment-modules)",
        "or into the image: dnf install Lmod        (EPEL)",
        f"or an Lmod of {dotted(OLDEST)} or later at {PLACES[1]} of the image",
    )
    if not ctx.config.builds:
        return blocked(problem, "name a stack in the configuration: it builds Lmod for the nodes", *in_image)
    return blocked(problem, IN_THE_STACK, *in_image)
