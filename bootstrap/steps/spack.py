"""The Spack stack: the program, the lockfile of the release, and everything that it names in the store."""

from __future__ import annotations

import shutil
from pathlib import Path

from ..context import Context
from ..errors import ConfigError, FetchError, SpackError
from ..files import make_dir, remove_tree, write_atomic
from ..lockfile import Lockfile
from ..log import LOG
from ..model import Probe, Scope, accepted, blocked, change, elsewhere, refused, satisfied
from ..release import check_queue
from ..spack import database, recovery
from ..spack.compiler import find_compiler
from ..spack.driver import Spack
from ..spack.entries import LAYOUTS
from ..spack.foreman import build_in_job
from ..spack.install import install_missing
from ..spack.parallel import Parallel, split
from ..spack.preflight import check_memory, vet
from ..spack.program import ensure, is_ready, locate
from ..spack.pull import Pulled, pull
from ..spack.slices import EFS_LOCKS, MARGIN
from ..spack.solve import fits, solve, stack_lockfile, take, write_stack
from ..spack.workspace import check_compiler, locked_specs, lockfile_of, open_spack, pulled_of, specs_of, store_of
from ..state import read_document, write_document
from ..targets import cpus_of, runs
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
            damage = recovery.trouble(store_of(ctx))
            missing = specs if damage else database.missing(specs, store_of(ctx))
            if missing or not locked:
                _check_compiler(ctx)
                check_queue(ctx.config, ctx.facts.cluster.queues)
        except (ConfigError, SpackError) as error:
            return refused(error) if isinstance(error, ConfigError) else blocked(str(error), *error.remedy)
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
        if ctx.build_queue is not None:
            _build_on(ctx, ctx.build_queue)
            return
        for target in ctx.targets:
            _build(ctx, target)


def _to_install(ctx: Context, damage: str, missing: tuple[database.Locked, ...], total: int) -> Probe:
    if damage:
        return change(damage, "restore it from its newest copy, or make it anew from whole packages")
    names = [f"install {spec.name}@{spec.version}" for spec in missing]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return change(f"{len(missing)} of {total} packages are missing{_by(ctx)}", *names[:SHOWN], *more)


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
    who, cpus = _builder(ctx)
    beyond = [target for target in ctx.targets if not all(runs(cpu, target) for cpu in cpus)]
    what = f"{' and '.join(cpus)} and builds for {' and '.join(beyond)}: recipes that run what they built may fail"
    return [*(ctx.choice.notes if ctx.choice else ()), *([f"{who} is {what}"] if beyond else [])]


def _builder(ctx: Context) -> tuple[str, tuple[str, ...]]:
    """Who builds, and the CPUs that it may have; none are known of types that the table does not have."""
    queue = ctx.build_queue
    if queue is None:
        return "this head node", (ctx.facts.host.target,)
    return f"queue {queue}", cpus_of(ctx.facts.cluster.queues, queue)


def _by(ctx: Context) -> str:
    return f"; a job on queue {ctx.build_queue} builds it, and no hook waits for that" if ctx.build_queue else ""


def _targets(ctx: Context) -> str:
    return " and ".join(ctx.targets)


def _check_compiler(ctx: Context) -> None:
    """A node without one is told so when it builds."""
    if ctx.system.which("gcc") and ctx.system.which("g++"):
        compiler = find_compiler(ctx.system)
        for target in ctx.targets:
            check_compiler(compiler, target)


def _build_on(ctx: Context, queue: str) -> None:
    """Solved here, for all targets, and built in one job."""
    spacks = {target: _solved(ctx, target) for target in ctx.targets}
    for spack in spacks.values():
        _mend(spack)
    try:
        failed = build_in_job(ctx, spacks, queue, _locks(ctx), lambda: _pull(ctx, *spacks.values()))
    finally:
        _keep_copy(store_of(ctx))
    for error in failed:
        _go_on_or_raise(ctx, error)


def _build(ctx: Context, target: str) -> None:
    spack = _solved(ctx, target)
    host = ctx.facts.host
    parallel = split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=spack.program.family.parallel)
    _mend(spack)
    try:
        _install(ctx, spack, parallel)
    except SpackError as error:
        _go_on_or_raise(ctx, error)
    finally:
        _keep_copy(spack.places.store)


def _mend(spack: Spack) -> None:
    """Nothing of an earlier install's end stands in the way of the next one."""
    recovery.recover(spack, {spec.hash for spec in database.locked_specs(spack.lockfile) if spec.explicit})
    recovery.keep_copy(spack.places.store)


def _keep_copy(store: Path) -> None:
    """After an install nothing depends on it, and how that ended must be told: the copy from before it stays."""
    try:
        recovery.keep_copy(store)
    except OSError as error:
        LOG.warning("no copy of %s was kept: %s", database.index_of(store), error, extra={"step": SpackStack.name})


def _locks(ctx: Context) -> int | None:
    """How many locks the store's file system allows on one file."""
    return EFS_LOCKS - MARGIN if ctx.config.bound and ctx.facts.is_efs(ctx.paths.mount) else None


def _go_on_or_raise(ctx: Context, error: SpackError) -> None:
    if not _may_go_on(ctx, error):
        raise error
    LOG.warning("install.partial: %s", error, extra={"step": SpackStack.name})
    write_document(_note_of(ctx), {"run_id": ctx.run_id, **error.to_dict()})


def _solved(ctx: Context, target: str) -> Spack:
    """Spack with the lockfile of the release."""
    spack = open_spack(ctx, target)
    if not is_ready(ctx.config, spack.program, ctx.paths):
        ctx.note(f"Spack {spack.program.version} and its recipes")
    ensure(ctx.config, spack.program, ctx.paths, ctx.facts.cluster.region)  # which also judges what is there already
    _lock(ctx, spack, target)
    return spack


def _install(ctx: Context, spack: Spack, parallel: Parallel) -> None:
    """From build caches what they have, the rest from source; so is what was taken and could not be unpacked."""
    logs, locks = ctx.paths.log.parent / "petal-node" / ctx.run_id, _locks(ctx)
    pulled = _pull(ctx, spack)
    try:
        install_missing(spack, parallel, ctx.progress, logs, locks)
    except SpackError as error:
        bad = pulled.withdraw(database.missing(locked_specs(ctx), spack.places.store))
        if not bad:
            raise
        _tell(ctx, f"what a build cache had of {', '.join(spec.name for spec in bad)} is built instead: {error.why}")
        install_missing(spack, parallel, ctx.progress, logs, locks)
    finally:
        remove_tree(pulled_of(ctx))


def _pull(ctx: Context, *spacks: Spack) -> Pulled:
    """Takes what is missing from the build caches that have it; what one cannot give is told and built."""
    locked = {spec.hash: spec for spack in spacks for spec in database.locked_specs(spack.lockfile)}
    missing = database.missing(tuple(locked.values()), store_of(ctx))
    region, layout = ctx.facts.cluster.region, LAYOUTS[spacks[0].program.family_name]
    pulled = pull(missing, ctx.config.spack.caches, layout, pulled_of(ctx), ctx.system, region, ctx.progress)
    for trouble in pulled.troubles:
        _tell(ctx, str(trouble), *trouble.remedy)
    return pulled


def _tell(ctx: Context, text: str, *remedy: str) -> None:
    LOG.warning("%s", text, extra={"step": SpackStack.name})
    for line in (text, *(f"try: {line}" for line in remedy)):
        ctx.note(line)


def _lock(ctx: Context, spack: Spack, target: str) -> None:
    """The release's lockfile decides; it is made once and kept, so that a run after a kill builds the same."""
    kept = lockfile_of(ctx, target)
    write_stack(ctx, spack)
    if kept.is_file():
        shutil.copyfile(kept, spack.lockfile)
        return
    lock = stack_lockfile(ctx)
    if lock is None:
        solve(ctx, spack)
    else:
        take(ctx, spack, target, lock)
    make_dir(kept.parent)
    write_atomic(kept, spack.lockfile.read_bytes())


def _to_take(ctx: Context, lock: Lockfile) -> Probe:
    """A lockfile is the stack: nothing has to be solved, and whether it fits is known now."""
    try:
        fits(ctx, lock)
    except ConfigError as error:
        return refused(error)
    built = sum(spec.target in ctx.targets for spec in lock.built())
    what = f"its lockfile fits this node and is to be installed for {_targets(ctx)}: {built} packages"
    return change(what, *(f"install {spec}" for spec in specs_of(ctx)), *(f"({note})" for note in _notes(ctx)))


def _unsolved(ctx: Context) -> Probe:
    try:
        lock = stack_lockfile(ctx)
    except ConfigError as error:
        return refused(error)
    except FetchError as error:
        return blocked(str(error), *error.remedy)
    return _to_concretize(ctx) if lock is None else _to_take(ctx, lock)


def _to_concretize(ctx: Context) -> Probe:
    """What is wrong with the specs is known without Spack, wherever the recipes lie here already."""
    advice: tuple[str, ...] = ()
    try:
        program = locate(ctx.config, ctx.paths)
        if is_ready(ctx.config, program, ctx.paths) and (program.recipes / "repo.yaml").is_file():
            verdict = vet(ctx, program.recipes)
            verdict.refuse()
            advice = verdict.advice
            check_memory(ctx, program.recipes)
    except ConfigError as error:
        return refused(error)
    except SpackError as error:
        advice = (*advice, f"and fail: {error}")
    return change(f"it is not concretized yet for {_targets(ctx)}{_by(ctx)}", *_wanted(ctx), *_used(ctx), *advice)
