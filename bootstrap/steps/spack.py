"""The Spack stack: the program, the lockfile of the release, and everything that it names in the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..context import Context
from ..errors import SpackError
from ..files import make_dir, write_atomic
from ..log import LOG
from ..model import Probe, Scope, accepted, blocked, change, elsewhere, satisfied
from ..spack import database
from ..spack.driver import Spack
from ..spack.install import install_missing
from ..spack.parallel import split
from ..spack.program import ensure, is_ready
from ..spack.workspace import lockfile_of, open_spack, specs_of
from ..state import read_document, write_document
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
        without = _accepted(ctx, len(missing)) if missing else None
        if without is not None:
            return accepted(f"{len(specs) - len(missing)} of {len(specs)} packages are there: {without}", without)
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
        logs = ctx.paths.log.parent / "petal-node" / ctx.run_id
        try:
            install_missing(spack, parallel, ctx.progress, logs)
        except SpackError as error:
            if not _may_go_on(ctx, error):
                raise
            LOG.warning("install.partial: %s", error, extra={"step": self.name})
            write_document(_note_of(ctx), {"run_id": ctx.run_id, **error.to_dict()})


def _may_go_on(ctx: Context, error: SpackError) -> bool:
    """With ``install.partial``, when a package failed and something that was asked for is there all the same."""
    if not ctx.config.install.partial or error.code != "spack-install":
        return False
    specs = database.locked_specs(lockfile_of(ctx))
    roots = [spec for spec in specs if spec.explicit and not spec.external]
    return len(database.missing(tuple(roots), ctx.paths.store)) < len(roots)


def _accepted(ctx: Context, missing: int) -> SpackError | None:
    """What this very run has accepted to go on without; the next run tries again."""
    raw = read_document(_note_of(ctx)) if ctx.config.install.partial else None
    if raw is None or raw.get("run_id") != ctx.run_id:
        return None
    what = f"the release goes on without {missing} packages"
    return SpackError(what, why=str(raw.get("why")), remedy=raw.get("remedy", ()), code="spack-partial")


def _note_of(ctx: Context) -> Path:
    return ctx.paths.var / "spack" / ctx.wanted_release / "partial.json"


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
