"""Lmod, which reads the module tree: a node has it from its machine image, and an image build puts it there."""

from __future__ import annotations

from ..context import Context
from ..errors import LmodError
from ..lmod import BY_HAND, dotted, find_lmod, install_lmod, lmod_version, trouble_with
from ..model import Probe, Scope, blocked, change, satisfied
from .base import EVERYWHERE


class Lmod:
    """A node of a cluster is left as its image is: what one node got at boot, the next one might not get.

    ``repair --yes`` puts it there all the same: whoever types that means this node.
    """

    name = "lmod"
    title = "Lmod is here, and new enough"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ()
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        lmod = find_lmod()
        version = lmod_version(ctx.system, lmod)
        trouble = trouble_with(lmod, version)
        if not trouble:
            return satisfied(f"Lmod {dotted(version)} is at {lmod}")
        if ctx.paths.live and (ctx.bakes or ctx.may_destroy):
            return change(trouble, "install the distribution's Lmod; environment-modules stays")
        return blocked(
            trouble,
            "build the image with petal-node bootstrap --layout hybrid, or ami: it installs Lmod",
            "or into the image: apt-get install lmod    (Debian 12, Ubuntu 24.04; it removes environment-modules)",
            "or into the image: dnf install Lmod        (EPEL)",
            BY_HAND,
            "or on this node alone, until it is replaced: petal-node repair --yes",
        )

    def apply(self, ctx: Context) -> None:
        ctx.note("installing Lmod")
        install_lmod(ctx.system, ctx.paths.scratch)
        lmod = find_lmod()
        trouble = trouble_with(lmod, lmod_version(ctx.system, lmod))
        if trouble:
            raise LmodError(
                "the distribution's Lmod was installed and will not do",
                why=trouble,
                remedy=BY_HAND,
                code="lmod-too-old",
            )
