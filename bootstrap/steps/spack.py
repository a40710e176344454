"""The Spack stack: the program, the lockfile of the release, and everything that it names in the store."""

from __future__ import annotations

import shutil
from typing import Any

from ..context import Context
from ..errors import SpackError
from ..files import make_dir, write_atomic
from ..model import Probe, Scope, blocked, change, elsewhere, satisfied
from ..spack import database
from ..spack.driver import Spack
from ..spack.install import install_missing
from ..spack.parallel import split
from ..spack.program import ensure, is_ready
from ..spack.workspace import lockfile_of, open_spack, specs_of
from .base import HEAD

SHOWN = 8


class SpackStack:
    """Every spec of the stack is installed."""

    name = "spack"
    title = "the Spack stack is in the store"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("root",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.config.builds:
            return elsewhere("the configuration asks for no Spack stack")
        try:
            specs = database.locked_specs(lockfile_of(ctx))
            missing = database.missing(specs, ctx.paths.store)
        except SpackError as error:
            return blocked(str(error), *error.remedy)
        if not specs:
            return change("it is not concretized yet", *(f"install {spec}" for spec in specs_of(ctx)))
        if missing:
            names = [f"install {spec.name}@{spec.version}" for spec in missing]
            more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
            return change(f"{len(missing)} of {len(specs)} packages are missing", *names[:SHOWN], *more)
        return satisfied(f"all {len(specs)} packages of the lockfile are there")

    def apply(self, ctx: Context) -> None:
        spack = open_spack(ctx)
        if not is_ready(ctx.config, spack.program):
            ctx.note(f"Spack {spack.program.version} and its recipes")
            ensure(ctx.config, spack.program, ctx.paths, ctx.facts.cluster.region)
        _lock(ctx, spack)
        host = ctx.facts.host
        parallel = split(host.cpus, host.memory, ctx.config.install.jobs)
        install_missing(spack, parallel, ctx.progress, ctx.paths.log.parent / "petal-node" / ctx.run_id)


def _lock(ctx: Context, spack: Spack) -> None:
    """The release's lockfile decides; it is made once and kept, so that a run after a kill builds the same."""
    kept = lockfile_of(ctx)
    spack.write_environment(specs_of(ctx), _sections(ctx))
    if kept.is_file():
        shutil.copyfile(kept, spack.lockfile)
        return
    ctx.note(f"concretizing {', '.join(specs_of(ctx))}")
    spack.lockfile.unlink(missing_ok=True)
    spack.concretize()
    make_dir(kept.parent)
    write_atomic(kept, spack.lockfile.read_bytes())


def _sections(ctx: Context) -> dict[str, Any]:
    return {key: value for key, value in ctx.environment.items() if key != "specs"}
