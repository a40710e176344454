"""Builds the stack of a release: solved, or taken from a lockfile; from build caches and source; here or in a job."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..core.errors import SpackError
from ..host.atomic import write_atomic
from ..host.files import make_dir, remove_tree
from ..host.log import LOG
from ..state.context import Context
from . import database, recovery
from .cache.pull import Pulled, pull
from .driver import Spack
from .install import install_missing, install_or_build, withdrawn
from .job.submit import build_in_job, job_directory
from .lockfile import Locked, locked_specs
from .parallel import Parallel, split
from .slices import EFS_LOCKS, MARGIN
from .solve import ready_spack, solve, stack_lockfile, take
from .workspace import lockfile_of, pulled_of, store_of


def build(ctx: Context, accept: Callable[[SpackError], None]) -> None:
    """Installs what the stack names, for every target of this run.

    Args:
        accept: gets what could not be installed for one target; raises it where the others are not to be tried.

    Raises:
        ConfigError, FetchError, PackageError, SpackError: as ``solve`` and ``ready_spack``.
        JobError: the job on the build queue did not come to its end.
    """
    if ctx.build_queue is not None:
        _build_in_job(ctx, ctx.build_queue, accept)
        return
    for target in ctx.targets:
        _build_here(ctx, target, accept)


def _build_in_job(ctx: Context, queue: str, accept: Callable[[SpackError], None]) -> None:
    """Solved here, for all targets, and built in one job; no node is asked for where build caches have all of it."""
    spacks = {target: _solved(ctx, target) for target in ctx.targets}
    for spack in spacks.values():
        _mend(spack)
    failed: tuple[SpackError, ...] = ()
    try:
        with job_directory(ctx) as directory:
            pulled = _pull(ctx, *spacks.values())
            if not _unpacked_here(ctx, spacks, pulled):
                failed = build_in_job(ctx, directory, spacks, queue, _locks(ctx), partial(_tell, ctx))
    finally:
        _keep_copy(store_of(ctx))
    for error in failed:
        accept(error)


def _unpacked_here(ctx: Context, spacks: Mapping[str, Spack], pulled: Pulled) -> bool:
    """Installs what build caches gave where that is all that is missing; False where something is left to build."""
    taken = {spec.hash for spec in pulled.specs}
    if any(spec.hash not in taken for spec in _missing(ctx, *spacks.values())):
        return False
    for spack in spacks.values():
        try:
            install_missing(spack, _parallel(ctx, spack), ctx.progress, ctx.paths.run_logs(ctx.run_id), _locks(ctx))
        except SpackError as error:
            if error.code != "spack-install":
                raise
            if not withdrawn(spack, error, pulled, partial(_tell, ctx)):
                LOG.warning("a job tries it: %s", error, extra={"step": "spack"})
            return False
    return True


def _build_here(ctx: Context, target: str, accept: Callable[[SpackError], None]) -> None:
    spack = _solved(ctx, target)
    _mend(spack)
    try:
        _install(ctx, spack)
    except SpackError as error:
        accept(error)
    finally:
        _keep_copy(spack.places.store)


def _solved(ctx: Context, target: str) -> Spack:
    """Spack with the release's lockfile, which is made once and kept: a run after a kill builds the same."""
    spack, kept = ready_spack(ctx, target), lockfile_of(ctx, target)
    if kept.is_file():
        shutil.copyfile(kept, spack.lockfile)
        return spack
    lock = stack_lockfile(ctx)
    if lock is None:
        solve(ctx, spack)
    else:
        take(ctx, spack, target, lock)
    make_dir(kept.parent)
    write_atomic(kept, spack.lockfile.read_bytes())
    return spack


def _mend(spack: Spack) -> None:
    """Nothing of an earlier install's end stands in the way of the next one."""
    recovery.recover(spack, {spec.hash for spec in locked_specs(spack.lockfile) if spec.explicit})
    recovery.keep_copy(spack.places.store)


def _keep_copy(store: Path) -> None:
    """After an install nothing depends on it, and how that ended must be told: the copy from before it stays."""
    try:
        recovery.keep_copy(store)
    except OSError as error:
        LOG.warning("no copy of %s was kept: %s", database.index_of(store), error, extra={"step": "spack"})


def _locks(ctx: Context) -> int | None:
    """How many locks the store's file system allows on one file."""
    return EFS_LOCKS - MARGIN if ctx.config.bound and ctx.facts.is_efs(ctx.paths.mount) else None


def _install(ctx: Context, spack: Spack) -> None:
    """From build caches what they have, the rest from source."""
    pulled, logs = _pull(ctx, spack), ctx.paths.run_logs(ctx.run_id)
    try:
        parallel = _parallel(ctx, spack)
        install_or_build(spack, parallel, ctx.progress, logs, _locks(ctx), pulled, partial(_tell, ctx))
    finally:
        remove_tree(pulled_of(ctx))


def _parallel(ctx: Context, spack: Spack) -> Parallel:
    host = ctx.facts.host
    return split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=spack.program.family.parallel)


def _missing(ctx: Context, *spacks: Spack) -> tuple[Locked, ...]:
    locked = {spec.hash: spec for spack in spacks for spec in locked_specs(spack.lockfile)}
    return database.missing(tuple(locked.values()), store_of(ctx))


def _pull(ctx: Context, *spacks: Spack) -> Pulled:
    """Takes what is missing from the build caches that have it; what one cannot give is told and built."""
    missing = _missing(ctx, *spacks)
    region, layout = ctx.facts.cluster.region, spacks[0].program.family.cache_layout
    pulled = pull(missing, ctx.config.spack.caches, layout, pulled_of(ctx), ctx.system, region, ctx.progress)
    for trouble in pulled.troubles:
        _tell(ctx, str(trouble), *trouble.remedy)
    return pulled


def _tell(ctx: Context, text: str, *remedy: str) -> None:
    LOG.warning("%s", text, extra={"step": "spack"})
    for line in (text, *(f"try: {line}" for line in remedy)):
        ctx.note(line)
