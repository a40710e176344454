"""The Spack stack: the program, the lockfile of the release, and everything that it names in the store."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..context import Context
from ..errors import ConfigError, SpackError
from ..files import make_dir, remove_tree, write_atomic
from ..log import LOG
from ..model import Probe, Scope, accepted, blocked, change, elsewhere, refused, satisfied
from ..spack import database
from ..spack.compiler import find_compiler
from ..spack.driver import Spack
from ..spack.entries import LAYOUTS
from ..spack.install import install_missing
from ..spack.parallel import Parallel, split
from ..spack.preflight import check_memory, vet
from ..spack.program import ensure, is_ready, locate
from ..spack.pull import pull
from ..spack.workspace import check_compiler, locked_specs, lockfile_of, open_spack, specs_of, store_of
from ..state import read_document, write_document
from ..targets import runs
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
            locked = all(database.locked_specs(lockfile_of(ctx, target)) for target in ctx.targets)
            specs = locked_specs(ctx)
            missing = database.missing(specs, store_of(ctx))
            if missing or not locked:
                _check_compiler(ctx)
        except SpackError as error:
            return blocked(str(error), *error.remedy)
        if not locked:
            return _to_concretize(ctx)
        without = _accepted(ctx, len(missing)) if missing else None
        if without is not None:
            return accepted(f"{len(specs) - len(missing)} of {len(specs)} packages are there: {without}", without)
        if missing:
            names = [f"install {spec.name}@{spec.version}" for spec in missing]
            more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
            return change(f"{len(missing)} of {len(specs)} packages are missing", *names[:SHOWN], *more)
        own = [spec for spec in specs if not spec.external]
        cached = len(database.from_cache(own, store_of(ctx)))
        some = f"; from a build cache: {cached} of {len(own)}" if cached else ""
        return satisfied(f"all {len(specs)} packages of the lockfile are there, for {_targets(ctx)}{some}")

    def apply(self, ctx: Context) -> None:
        for note in _notes(ctx):
            ctx.note(note)
        for target in ctx.targets:
            _build(ctx, target)


def _may_go_on(ctx: Context, error: SpackError) -> bool:
    """With ``install.partial``, when a package failed and something that was asked for is there all the same."""
    if not ctx.config.install.partial or error.code != "spack-install":
        return False
    roots = [spec for spec in locked_specs(ctx) if spec.explicit and not spec.external]
    return len(database.missing(tuple(roots), store_of(ctx))) < len(roots)


def _accepted(ctx: Context, missing: int) -> SpackError | None:
    """What this very run has accepted to go on without; the next run tries again."""
    raw = read_document(_note_of(ctx)) if ctx.config.install.partial else None
    if raw is None or raw.get("run_id") != ctx.run_id:
        return None
    what = f"the release goes on without {missing} packages"
    return SpackError(what, why=str(raw.get("why")), remedy=raw.get("remedy", ()), code="spack-partial")


def _note_of(ctx: Context) -> Path:
    return ctx.paths.var / "spack" / ctx.wanted_release / "partial.json"


def _used(ctx: Context) -> list[str]:
    caches = [f"take from {name}, {mirror.url}, what it has" for name, mirror in ctx.config.spack.caches.items()]
    return [*caches, *_externals(ctx)]


def _externals(ctx: Context) -> list[str]:
    return [f"use {external.spec} of {external.place} where it fits" for external in ctx.externals]


def _wanted(ctx: Context) -> list[str]:
    return [*(f"install {spec}" for spec in specs_of(ctx)), *(f"({note})" for note in _notes(ctx))]


def _notes(ctx: Context) -> list[str]:
    """What an administrator should know of the targets before an hour of building."""
    cpu = ctx.facts.host.target
    beyond = [target for target in ctx.targets if not runs(cpu, target)]
    own = f"this head node is {cpu} and builds for {' and '.join(beyond)}: recipes that run what they built may fail"
    return [*(ctx.choice.notes if ctx.choice else ()), *([own] if beyond else [])]


def _targets(ctx: Context) -> str:
    return " and ".join(ctx.targets)


def _check_compiler(ctx: Context) -> None:
    """A node without one is told so when it builds."""
    if ctx.system.which("gcc") and ctx.system.which("g++"):
        compiler = find_compiler(ctx.system)
        for target in ctx.targets:
            check_compiler(compiler, target)


def _build(ctx: Context, target: str) -> None:
    spack = open_spack(ctx, target)
    if not is_ready(ctx.config, spack.program, ctx.paths):
        ctx.note(f"Spack {spack.program.version} and its recipes")
        ensure(ctx.config, spack.program, ctx.paths, ctx.facts.cluster.region)
    _lock(ctx, spack, lockfile_of(ctx, target))
    host = ctx.facts.host
    parallel = split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=spack.program.family.parallel)
    try:
        _install(ctx, spack, parallel)
    except SpackError as error:
        if not _may_go_on(ctx, error):
            raise
        LOG.warning("install.partial: %s", error, extra={"step": SpackStack.name})
        write_document(_note_of(ctx), {"run_id": ctx.run_id, **error.to_dict()})


def _install(ctx: Context, spack: Spack, parallel: Parallel) -> None:
    """From build caches what they have, the rest from source; so is what was taken and could not be unpacked."""
    logs = ctx.paths.log.parent / "petal-node" / ctx.run_id
    missing = database.missing(database.locked_specs(spack.lockfile), spack.places.store)
    region, layout = ctx.facts.cluster.region, LAYOUTS[spack.program.family_name]
    pulled = pull(missing, ctx.config.spack.caches, layout, spack.places.pulled, ctx.system, region, ctx.progress)
    for trouble in pulled.troubles:
        _tell(ctx, str(trouble), *trouble.remedy)
    try:
        install_missing(spack, parallel, ctx.progress, logs)
    except SpackError as error:
        bad = pulled.withdraw(database.missing(missing, spack.places.store))
        if not bad:
            raise
        _tell(ctx, f"what a build cache had of {', '.join(spec.name for spec in bad)} is built instead: {error.why}")
        install_missing(spack, parallel, ctx.progress, logs)
    finally:
        remove_tree(spack.places.pulled)


def _tell(ctx: Context, text: str, *remedy: str) -> None:
    LOG.warning("%s", text, extra={"step": SpackStack.name})
    for line in (text, *(f"try: {line}" for line in remedy)):
        ctx.note(line)


def _lock(ctx: Context, spack: Spack, kept: Path) -> None:
    """The release's lockfile decides; it is made once and kept, so that a run after a kill builds the same."""
    spack.write_environment(specs_of(ctx), _sections(ctx))
    if kept.is_file():
        shutil.copyfile(kept, spack.lockfile)
        return
    verdict = vet(ctx, spack.program.recipes)
    verdict.refuse()
    for line in verdict.advice:
        ctx.note(line)
    check_memory(ctx, spack.program.recipes)
    ctx.note(f"concretizing {', '.join(specs_of(ctx))}")
    spack.lockfile.unlink(missing_ok=True)
    spack.concretize()
    make_dir(kept.parent)
    write_atomic(kept, spack.lockfile.read_bytes())


def _to_concretize(ctx: Context) -> Probe:
    """What is wrong with the specs is known without Spack, wherever the recipes lie here already."""
    advice: tuple[str, ...] = ()
    try:
        program = locate(ctx.config, ctx.paths)
        if is_ready(ctx.config, program, ctx.paths) and (program.recipes / "repo.yaml").is_file():
            verdict = vet(ctx, program.recipes)
            verdict.refuse()
            advice = verdict.advice
    except ConfigError as error:
        return refused(error)
    except SpackError as error:
        advice = (f"and fail: {error}",)
    return change(f"it is not concretized yet for {_targets(ctx)}", *_wanted(ctx), *_used(ctx), *advice)


def _sections(ctx: Context) -> dict[str, Any]:
    return {key: value for key, value in ctx.environment.items() if key != "specs"}
