"""Spack, its recipes and clingo in the machine image (layout ``hybrid``)."""

from __future__ import annotations

from ..core.model import Finding, Scope, change, elsewhere, satisfied
from ..spack.program import ensure, is_ready, locate, version_of
from ..state.context import Context
from .base import HEAD, Step
from .self_install import SelfInstall


class SpackProgram(Step):
    """Installs Spack in an image that contains no packages of Spack."""

    name = "spack-program"
    title = "Spack and its recipes are installed"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (SelfInstall,)
    runs = frozenset({"hybrid"})

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack:
            return elsewhere("the configuration has no Spack stack")
        program = locate(ctx.config, ctx.paths)
        if not is_ready(program) or version_of(program.tree) != program.version:
            return change(f"{program.tree} is missing or incomplete", f"fetch Spack {program.version} and its recipes")
        return satisfied(f"Spack {program.version} is at {program.tree}")

    def apply(self, ctx: Context) -> None:
        ensure(locate(ctx.config, ctx.paths), ctx.paths, ctx.facts.cluster.region)
