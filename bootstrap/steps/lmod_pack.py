"""Packs the stack's Lmod into the release, for nodes whose image has none."""

from __future__ import annotations

from ..core.model import Finding, Scope, blocked, change, elsewhere, satisfied
from ..lmod.build import build_bundle, bundle_path, is_pending, stack_lmod
from ..lmod.bundle import SPEC, names_lmod
from ..lmod.find import OLDEST, dotted, image_lmod, numbers_of
from ..spack import database
from ..spack.lockfile import Locked
from ..spack.workspace import specs_of, store_of
from ..state.context import Context
from .base import HEAD, Step
from .spack import SpackStack


class LmodPack(Step):
    """Packs Lmod if it was added to the stack, or the configuration or the head node's image asks for it."""

    name = "lmod-pack"
    title = "the release contains Lmod for the nodes"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (SpackStack,)
    runs = frozenset({"bootstrap", "repair", "ami"})
    in_image = True

    def probe(self, ctx: Context) -> Finding:
        if not _is_needed(ctx):
            return elsewhere("the nodes use the Lmod of their image")
        if is_pending(ctx):
            return change("the stack is not concretized yet", "pack Lmod for nodes without it")
        lmods = _stack_lmods(ctx)
        missing = database.missing(tuple(lmods.values()), store_of(ctx))
        return _compare(ctx, lmods, is_built=not missing) if lmods else elsewhere("the stack has no Lmod")

    def apply(self, ctx: Context) -> None:
        for target, lmod in _stack_lmods(ctx).items():
            if not bundle_path(ctx, target, lmod).is_file():
                ctx.note(f"packing Lmod {lmod.version} for {target}")
                build_bundle(ctx, target, lmod)


def _compare(ctx: Context, lmods: dict[str, Locked], *, is_built: bool) -> Finding:
    versions = sorted({lmod.version for lmod in lmods.values()})
    old = [version for version in versions if numbers_of(version) < OLDEST]
    if old or not is_built:
        problem = f"the stack's Lmod {old[0]} is too old, {dotted(OLDEST)} is needed" if old else "Lmod is not built"
        return blocked(
            problem, "petal-node status    (whether the stack went on without it)", f"add {SPEC} to the stack"
        )
    unpacked = [target for target, lmod in lmods.items() if not bundle_path(ctx, target, lmod).is_file()]
    if unpacked:
        lines = [f"pack it for {target}" for target in unpacked]
        return change(f"Lmod is not packed yet for {' and '.join(unpacked)}", *lines)
    return satisfied(f"Lmod {' and '.join(versions)} is packed")


def _is_needed(ctx: Context) -> bool:
    """A stack may contain Lmod for users alone: then the nodes have their own."""
    specs = specs_of(ctx)
    if not ctx.config.uses_spack or not names_lmod(specs):
        return False
    if ctx.config.modules.lmod == "stack" or SPEC in specs:
        return True
    lmod = image_lmod(ctx.system)
    return lmod is None or bool(lmod.problem)


def _stack_lmods(ctx: Context) -> dict[str, Locked]:
    """The stack's Lmod for each CPU target."""
    lmods = ((target, stack_lmod(ctx, target)) for target in ctx.targets)
    return {target: lmod for target, lmod in lmods if lmod is not None}
