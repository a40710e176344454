"""An Lmod that the stack has built is in the release, packed for the nodes whose image has none."""

from __future__ import annotations

from ..core.errors import SpackError
from ..core.model import Probe, Scope, blocked, change, elsewhere, refused, satisfied
from ..lmod.build import archive_of, comes_with_the_stack, lmod_of, pack_lmod
from ..lmod.bundle import SPEC, carries
from ..lmod.find import OLDEST, dotted, numbers_of, of_machine
from ..spack import database
from ..spack.database import Locked
from ..spack.workspace import specs_of, store_of
from ..state.context import Context
from .base import HEAD


class LmodPack:
    """``modules.lmod: auto`` adds Lmod to the stack where the head node has none, ``stack`` does so anywhere."""

    name = "lmod-pack"
    title = "the release carries Lmod"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("spack",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not _is_asked_for(ctx):
            return elsewhere("the nodes' own Lmod is used")
        if comes_with_the_stack(ctx):
            return change("the stack is not solved yet", "pack Lmod for the nodes that have none")
        try:
            found = _found(ctx)
            absent = database.missing(tuple(found.values()), store_of(ctx))
        except SpackError as error:
            return refused(error)
        return _of_found(ctx, found, is_built=not absent)

    def apply(self, ctx: Context) -> None:
        for target, lmod in _found(ctx).items():
            if not archive_of(ctx, target, lmod).is_file():
                ctx.note(f"packing Lmod {lmod.version} for {target}")
                pack_lmod(ctx, target, lmod)


def _of_found(ctx: Context, found: dict[str, Locked], *, is_built: bool) -> Probe:
    if not found:
        return elsewhere("the stack has no Lmod")
    versions = sorted({lmod.version for lmod in found.values()})
    old = [version for version in versions if numbers_of(version) < OLDEST]
    if old or not is_built:
        reason = f"the stack's Lmod {old[0]} is too old, {dotted(OLDEST)} is needed" if old else "Lmod is not built"
        return blocked(reason, "petal-node status    (whether the stack went on without it)", f"name {SPEC} in it")
    left = [target for target, lmod in found.items() if not archive_of(ctx, target, lmod).is_file()]
    if left:
        return change(f"Lmod is not packed yet for {' and '.join(left)}", *(f"pack it for {one}" for one in left))
    return satisfied(f"Lmod {' and '.join(versions)} is packed")


def _is_asked_for(ctx: Context) -> bool:
    """A stack that names Lmod itself may do so for its modules, where the head node has one."""
    specs = specs_of(ctx)
    if not ctx.config.builds or not carries(specs):
        return False
    if ctx.config.modules.lmod == "stack" or SPEC in specs:
        return True
    own = of_machine(ctx.system)
    return own is None or bool(own.trouble)


def _found(ctx: Context) -> dict[str, Locked]:
    found = ((target, lmod_of(ctx, target)) for target in ctx.targets)
    return {target: lmod for target, lmod in found if lmod is not None}
