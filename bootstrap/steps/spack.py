"""The Spack stack: every package of the release's lockfile in the store; and Spack itself in the machine image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from ..cluster.targets import cpus_of, runs
from ..core.errors import SpackError
from ..core.model import Finding, accepted, change, elsewhere, satisfied
from ..core.text import at_most
from ..host.log import LOG
from ..lmod.build import lacks_only_lmod
from ..spack import database, sources
from ..spack.externals import find_compiler
from ..spack.lockfile import Locked, locked_specs
from ..spack.program import ensure, is_ready, locate, version_of
from ..spack.solve import preview, stack_lockfile
from ..spack.stack import build
from ..spack.workspace import adds_lmod, check_compiler, lockfile_of, release_specs, specs_of, store_of
from ..state.context import Context
from ..state.release import check_queue
from ..state.store import failure_of, save_failure
from .base import ON_NODES, ClusterStep, Question, Run
from .root import WAY_TO_STORAGE, Root
from .self_install import SelfInstall

SHOWN = 8


class SpackStack(ClusterStep):
    """Every spec of the stack is installed."""

    name = "spack"
    needs = (Root,)
    part_of = ON_NODES | {Run.AMI_IMAGE}
    in_image = True
    after = WAY_TO_STORAGE
    seconds = 30

    def lets_hook_return(self, ctx: Context) -> bool:
        """True if a Slurm job builds: no job can run during a head node's hook, and a later one may wait for nodes."""
        return ctx.build_queue is not None

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack:
            return elsewhere("the configuration has no Spack stack")
        store = store_of(ctx)
        locked = all(locked_specs(lockfile_of(ctx, target)) for target in ctx.targets)
        specs = release_specs(ctx)
        damage = database.database_problem(store)
        missing = specs if damage else database.missing(specs, store)
        if missing or not locked:
            _check_compiler(ctx)
            check_queue(ctx.config, ctx.facts.cluster.queues)
        if not locked:
            return _not_locked(ctx)
        if damage:
            return change(damage, "restore the database from its newest copy, or make it again from complete packages")
        return _compare(ctx, specs, missing)

    def inputs(self, ctx: Context) -> Mapping[str, Question]:
        """Sources, mirrors and the queue that builds."""
        return sources.questions(ctx) if ctx.config.uses_spack else {}

    def apply(self, ctx: Context) -> None:
        for note in _target_notes(ctx):
            ctx.note(note)
        build(ctx, partial(_accept_or_raise, ctx))


def _compare(ctx: Context, specs: tuple[Locked, ...], missing: tuple[Locked, ...]) -> Finding:
    """The packages of the lockfile and those of the store."""
    if not missing:
        own = [spec for spec in specs if not spec.external]
        cached = len(database.from_cache(own, store_of(ctx)))
        some = f"; from a build cache: {cached} of {len(own)}" if cached else ""
        return satisfied(f"all {len(specs)} packages of the lockfile are installed, for {_targets(ctx)}{some}")
    failure = _accepted_failure(ctx, len(missing))
    if failure is not None:
        return accepted(f"{len(specs) - len(missing)} of {len(specs)} packages are installed: {failure}", failure)
    lines = at_most(SHOWN, [f"install {spec.name}@{spec.version}" for spec in missing])
    return change(f"missing packages: {len(missing)} of {len(specs)}{_job(ctx)}", *lines, *_caches(ctx))


def _not_locked(ctx: Context) -> Finding:
    """Without a lockfile of the stack, Spack concretizes. A lockfile is checked against this node.

    If Spack is on this node, unknown names in the specs are found now; a check never starts Spack.

    Raises:
        ConfigError, FetchError: the stack cannot be read, or its lockfile does not fit this node.
    """
    specs = [*(f"install {spec}" for spec in specs_of(ctx)), *(f"({note})" for note in _target_notes(ctx))]
    lockfile = stack_lockfile(ctx)
    if lockfile is not None:
        built = sum(spec.target in ctx.targets for spec in lockfile.built())
        reason = f"the stack's lockfile fits this node: {built} packages to install for {_targets(ctx)}"
        return change(reason, *specs, *_caches(ctx))
    try:
        advice = preview(ctx) if ctx.sets_desired_state else ()
    except SpackError as error:
        advice = (f"and fail: {error}",)
    externals = (f"use {external.spec} of {external.place} if it fits" for external in ctx.externals)
    return change(
        f"the stack is not concretized yet for {_targets(ctx)}{_job(ctx)}", *specs, *_caches(ctx), *externals, *advice
    )


def _caches(ctx: Context) -> Iterator[str]:
    return (f"use packages of build cache {name}, {mirror.url}" for name, mirror in ctx.config.spack.caches.items())


def _accept_or_raise(ctx: Context, error: SpackError) -> None:
    """Goes on without a package if only the automatically added Lmod failed, or ``install.partial`` allows it.

    With ``install.partial`` at least one spec of the stack must be installed.
    """
    may_go_on = error.code == "spack-install" and lacks_only_lmod(ctx)
    if not may_go_on and ctx.config.install.partial and error.code == "spack-install":
        roots = tuple(spec for spec in release_specs(ctx) if spec.explicit and not spec.external)
        may_go_on = len(database.missing(roots, store_of(ctx))) < len(roots)
    if not may_go_on:
        raise error
    LOG.warning("continuing without: %s", error, extra={"step": SpackStack.name})
    save_failure(_failure_file(ctx), ctx.run_id, error)


def _accepted_failure(ctx: Context, missing: int) -> SpackError | None:
    """The failure in spite of which this run went on."""
    failure = failure_of(_failure_file(ctx), ctx.run_id) if ctx.config.install.partial or adds_lmod(ctx) else None
    if failure is None:
        return None
    what = f"the release is made without {missing} packages"
    return SpackError(what, why=failure.why, remedy=failure.remedy, code="spack-partial")


def _failure_file(ctx: Context) -> Path:
    return ctx.paths.work(ctx.desired_release) / "partial.json"


def _target_notes(ctx: Context) -> list[str]:
    """Notes about the CPU targets, before an hour of building. Instance types outside the table have no known CPUs."""
    queue = ctx.build_queue
    builder, cpus = f"queue {queue}", cpus_of(ctx.facts.cluster.queues, queue) if queue else ()
    if queue is None:
        builder, cpus = "this head node", (ctx.facts.host.target,)
    beyond = [target for target in ctx.targets if not all(runs(cpu, target) for cpu in cpus)]
    notes = list(ctx.build_targets.notes) if ctx.build_targets else []
    if beyond:
        has = f"{builder} has {' and '.join(cpus)} and builds for {' and '.join(beyond)}"
        notes.append(f"{has}: recipes that run the programs they have built may fail")
    return notes


def _job(ctx: Context) -> str:
    if ctx.build_queue is None:
        return ""
    packages = "the packages that no build cache has" if ctx.config.spack.caches else "the packages"
    return f"; a job on queue {ctx.build_queue} builds {packages}, and no hook waits for it"


def _targets(ctx: Context) -> str:
    return " and ".join(ctx.targets)


def _check_compiler(ctx: Context) -> None:
    """Refuses a compiler that cannot build for a target. Without a compiler, the build itself reports that."""
    if ctx.system.which("gcc") and ctx.system.which("g++"):
        compiler = find_compiler(ctx.system)
        for target in ctx.targets:
            check_compiler(compiler, target)


class SpackProgram(ClusterStep):
    """Installs Spack in an image that contains no packages of Spack."""

    name = "spack-program"
    needs = (SelfInstall,)
    part_of = frozenset({Run.HYBRID_IMAGE})

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack:
            return elsewhere("the configuration has no Spack stack")
        program = locate(ctx.config, ctx.paths)
        if not is_ready(program) or version_of(program.tree) != program.version:
            return change(f"{program.tree} is missing or incomplete", f"fetch Spack {program.version} and its recipes")
        return satisfied(f"Spack {program.version} is at {program.tree}")

    def apply(self, ctx: Context) -> None:
        program = locate(ctx.config, ctx.paths)
        ensure(program, ctx.paths, ctx.facts.cluster.region, ctx.config.install.fetch_timeout)
