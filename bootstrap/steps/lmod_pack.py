"""An Lmod that the stack has built is in the release, packed for the nodes whose image has none."""

from __future__ import annotations

from ..context import Context
from ..errors import SpackError
from ..model import Probe, Scope, blocked, change, elsewhere, refused, satisfied
from ..spack import database
from ..spack.database import Locked
from ..spack.lmod import archive_of, lmod_of, pack_lmod
from ..spack.workspace import store_of
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
        try:
            found = _found(ctx)
        except SpackError as error:
            return refused(error)
        if not found:
            return elsewhere("the stack has no Lmod, and the nodes' own is used")
        absent = database.missing(tuple(found.values()), store_of(ctx))
        if absent:
            return blocked("Lmod itself is not installed", "petal-node status    (install.partial went on without it)")
        left = [target for target, lmod in found.items() if not archive_of(ctx, target, lmod).is_file()]
        if left:
            return change(f"Lmod is not packed yet for {' and '.join(left)}", *(f"pack it for {one}" for one in left))
        return satisfied(f"Lmod {' and '.join(sorted({lmod.version for lmod in found.values()}))} is packed")

    def apply(self, ctx: Context) -> None:
        for target, lmod in _found(ctx).items():
            if not archive_of(ctx, target, lmod).is_file():
                ctx.note(f"packing Lmod {lmod.version} for {target}")
                pack_lmod(ctx, target, lmod)


def _found(ctx: Context) -> dict[str, Locked]:
    if not ctx.config.builds or ctx.config.modules.lmod == "node":
        return {}
    found = ((target, lmod_of(ctx, target)) for target in ctx.targets)
    return {target: lmod for target, lmod in found if lmod is not None}
