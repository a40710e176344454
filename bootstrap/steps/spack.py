"""The Spack stack: the program, the lockfile of the release, and everything that it names in the store."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..cluster.targets import cpus_of, runs
from ..core.errors import ConfigError, FetchError, SpackError
from ..core.model import Finding, Scope, accepted, change, elsewhere, refused, satisfied
from ..host.log import LOG
from ..lmod.build import lacks_only_lmod
from ..spack import database, recovery
from ..spack.compiler import find_compiler
from ..spack.lockfile import Locked, Lockfile, locked_specs
from ..spack.solve import check_lockfile, preview, stack_lockfile
from ..spack.stack import build
from ..spack.workspace import adds_lmod, check_compiler, lockfile_of, release_specs, specs_of, store_of
from ..state.context import Context
from ..state.release import check_queue
from ..state.store import read_document, write_document
from .base import HEAD, Step
from .root import WAY_TO_STORAGE, Root

SHOWN = 8


class SpackStack(Step):
    """Every spec of the stack is installed."""

    name = "spack"
    title = "the Spack stack is in the store"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (Root,)
    image_layouts = frozenset({"ami"})
    in_image = True
    after = WAY_TO_STORAGE
    seconds = 30

    def lets_hook_return(self, ctx: Context) -> bool:
        """True if a Slurm job builds: no job can run during a head node's hook, and a later one may wait for nodes."""
        return ctx.build_queue is not None

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.builds:
            return elsewhere("the configuration asks for no Spack stack")
        try:
            locked = all(locked_specs(lockfile_of(ctx, target)) for target in ctx.targets)
            specs = release_specs(ctx)
            damage = recovery.database_problem(store_of(ctx))
            missing = specs if damage else database.missing(specs, store_of(ctx))
            if missing or not locked:
                _check_compiler(ctx)
                check_queue(ctx.config, ctx.facts.cluster.queues)
        except (ConfigError, SpackError) as error:
            return refused(error)
        if not locked:
            return _unsolved(ctx)
        without = _accepted(ctx, len(missing)) if missing and not damage else None
        if without is not None:
            return accepted(f"{len(specs) - len(missing)} of {len(specs)} packages are there: {without}", without)
        if missing:
            return _to_install(ctx, damage, missing, len(specs))
        own = [spec for spec in specs if not spec.external]
        cached = len(database.from_cache(own, store_of(ctx)))
        some = f"; from a build cache: {cached} of {len(own)}" if cached else ""
        return satisfied(f"all {len(specs)} packages of the lockfile are there, for {_targets(ctx)}{some}")

    def apply(self, ctx: Context) -> None:
        for note in _notes(ctx):
            ctx.note(note)
        build(ctx, partial(_go_on_or_raise, ctx))


def _to_install(ctx: Context, damage: str, missing: tuple[Locked, ...], total: int) -> Finding:
    if damage:
        return change(damage, "restore it from its newest copy, or make it anew from whole packages")
    names = [f"install {spec.name}@{spec.version}" for spec in missing]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return change(f"{len(missing)} of {total} packages are missing{_by(ctx)}", *names[:SHOWN], *more)


def _may_go_on(ctx: Context, error: SpackError) -> bool:
    """With ``install.partial``, when a package failed and something that was asked for is there all the same.

    And where only Lmod could not be built, which nobody has asked for.
    """
    if error.code == "spack-install" and lacks_only_lmod(ctx):
        return True
    if not ctx.config.install.partial or error.code != "spack-install":
        return False
    roots = [spec for spec in release_specs(ctx) if spec.explicit and not spec.external]
    return len(database.missing(tuple(roots), store_of(ctx))) < len(roots)


def _accepted(ctx: Context, missing: int) -> SpackError | None:
    """What this very run has accepted to go on without; the next run tries again."""
    raw = read_document(_note_of(ctx)) if ctx.config.install.partial or adds_lmod(ctx) else None
    if raw is None or raw.get("run_id") != ctx.run_id:
        return None
    what = f"the release goes on without {missing} packages"
    return SpackError(what, why=str(raw.get("why")), remedy=raw.get("remedy", ()), code="spack-partial")


def _note_of(ctx: Context) -> Path:
    return ctx.paths.work(ctx.desired_release) / "partial.json"


def _used(ctx: Context) -> list[str]:
    caches = [f"take from {name}, {mirror.url}, what it has" for name, mirror in ctx.config.spack.caches.items()]
    return [*caches, *_externals(ctx)]


def _externals(ctx: Context) -> list[str]:
    return [f"use {external.spec} of {external.place} where it fits" for external in ctx.externals]


def _wanted(ctx: Context) -> list[str]:
    return [*(f"install {spec}" for spec in specs_of(ctx)), *(f"({note})" for note in _notes(ctx))]


def _notes(ctx: Context) -> list[str]:
    """What an administrator should know of the targets before an hour of building."""
    who, cpus = _builder(ctx)
    beyond = [target for target in ctx.targets if not all(runs(cpu, target) for cpu in cpus)]
    what = f"{' and '.join(cpus)} and builds for {' and '.join(beyond)}: recipes that run what they built may fail"
    return [*(ctx.build_targets.notes if ctx.build_targets else ()), *([f"{who} is {what}"] if beyond else [])]


def _builder(ctx: Context) -> tuple[str, tuple[str, ...]]:
    """Who builds, and the CPUs that it may have; none are known of types that the table does not have."""
    queue = ctx.build_queue
    if queue is None:
        return "this head node", (ctx.facts.host.target,)
    return f"queue {queue}", cpus_of(ctx.facts.cluster.queues, queue)


def _by(ctx: Context) -> str:
    if ctx.build_queue is None:
        return ""
    what = "what no build cache has" if ctx.config.spack.caches else "it"
    return f"; a job on queue {ctx.build_queue} builds {what}, and no hook waits for that"


def _targets(ctx: Context) -> str:
    return " and ".join(ctx.targets)


def _check_compiler(ctx: Context) -> None:
    """A node without one is told so when it builds."""
    if ctx.system.which("gcc") and ctx.system.which("g++"):
        compiler = find_compiler(ctx.system)
        for target in ctx.targets:
            check_compiler(compiler, target)


def _go_on_or_raise(ctx: Context, error: SpackError) -> None:
    if not _may_go_on(ctx, error):
        raise error
    LOG.warning("goes on without: %s", error, extra={"step": SpackStack.name})
    write_document(_note_of(ctx), {"run_id": ctx.run_id, **error.to_dict()})


def _to_take(ctx: Context, lock: Lockfile) -> Finding:
    """A lockfile is the stack: nothing has to be solved, and whether it fits is known now."""
    try:
        check_lockfile(ctx, lock)
    except ConfigError as error:
        return refused(error)
    built = sum(spec.target in ctx.targets for spec in lock.built())
    what = f"its lockfile fits this node and is to be installed for {_targets(ctx)}: {built} packages"
    return change(what, *(f"install {spec}" for spec in specs_of(ctx)), *(f"({note})" for note in _notes(ctx)))


def _unsolved(ctx: Context) -> Finding:
    try:
        lock = stack_lockfile(ctx)
    except (ConfigError, FetchError) as error:
        return refused(error)
    return _to_concretize(ctx) if lock is None else _to_take(ctx, lock)


def _to_concretize(ctx: Context) -> Finding:
    """If Spack is on this node, unknown names in the specs are found now; a check never starts Spack."""
    advice: tuple[str, ...] = ()
    try:
        advice = preview(ctx) if ctx.sets_desired_state else ()
    except ConfigError as error:
        return refused(error)
    except SpackError as error:
        advice = (f"and fail: {error}",)
    return change(f"it is not concretized yet for {_targets(ctx)}{_by(ctx)}", *_wanted(ctx), *_used(ctx), *advice)
