"""Builds the stack of a release: solves it or takes a lockfile, and installs it here or in a Slurm job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial

from ..core.errors import CacheError, PetalError, SpackError
from ..host.files import remove_tree
from ..host.log import LOG
from ..state.context import Context
from . import database
from .cache.pull import Pulled, pull
from .cache.record import CacheRecord
from .driver import Spack
from .install import discard_damaged, install_missing, install_or_build
from .job.worker import build_in_job, job_directory
from .lockfile import Locked, locked_specs
from .solve import with_lockfile
from .workspace import pulled_of, store_of


def build(ctx: Context, accept: Callable[[SpackError], None]) -> None:
    """Installs the stack for every target of this run.

    Args:
        accept: gets the error of a target whose packages could not all be installed. Raises it, or returns if the run
            continues with the next target.

    Raises:
        ConfigError, FetchError, PackageError, SpackError: as ``with_lockfile``.
        JobError: as ``build_in_job``.
    """
    if ctx.build_queue is not None:
        _build_in_job(ctx, ctx.build_queue, accept)
        return
    for target in ctx.targets:
        spack = with_lockfile(ctx, target)
        _recover(spack)
        try:
            _install(ctx, spack)
        except SpackError as error:
            accept(error)


def _install(ctx: Context, spack: Spack) -> None:
    """Installs from build caches what they have, and builds the rest."""
    pulled, logs = _pull(ctx, [spack]), ctx.paths.logs / ctx.run_id
    try:
        install_or_build(spack, ctx.progress, logs, pulled, partial(_warn, ctx))
        _record_refused(ctx, pulled)
    finally:
        remove_tree(pulled_of(ctx))


def _build_in_job(ctx: Context, queue: str, accept: Callable[[SpackError], None]) -> None:
    """Solves all targets here and builds them in one job; no job is submitted if build caches have everything."""
    spacks = {target: with_lockfile(ctx, target) for target in ctx.targets}
    for spack in spacks.values():
        _recover(spack)
    failed: tuple[SpackError, ...] = ()
    with job_directory(ctx) as directory:
        pulled = _pull(ctx, spacks.values())
        if not _install_pulled(ctx, spacks, pulled):
            failed = build_in_job(ctx, directory, spacks, queue, partial(_warn, ctx))
        _record_refused(ctx, pulled)
    for error in failed:
        accept(error)


def _install_pulled(ctx: Context, spacks: Mapping[str, Spack], pulled: Pulled) -> bool:
    """Installs the packages of build caches if nothing else is missing; False if something is left to build."""
    if not set(_missing(ctx, spacks.values())) <= set(pulled.specs):
        return False
    logs = ctx.paths.logs / ctx.run_id
    for spack in spacks.values():
        try:
            install_missing(spack, ctx.progress, logs)
        except SpackError as error:
            if error.code != "spack-install":
                raise
            if not discard_damaged(spack, error, pulled, partial(_warn, ctx)):
                LOG.warning("a job tries it: %s", error, extra={"step": "spack"})
            return False
    return True


def _recover(spack: Spack) -> None:
    database.recover(spack, {spec.hash for spec in locked_specs(spack.lockfile) if spec.explicit})
    database.keep_copy(spack.places.store, spack.system.flush)


def _missing(ctx: Context, spacks: Iterable[Spack]) -> tuple[Locked, ...]:
    specs = {spec.hash: spec for spack in spacks for spec in locked_specs(spack.lockfile)}
    return database.missing(tuple(specs.values()), store_of(ctx))


def _pull(ctx: Context, spacks: Iterable[Spack]) -> Pulled:
    """Fetches the missing packages that build caches have; a package that a cache cannot give is built."""
    spacks = list(spacks)
    region, layout = ctx.facts.cluster.region, spacks[0].program.family.cache_layout
    missing, caches = _missing(ctx, spacks), ctx.config.spack.caches
    pulled = pull(
        missing, caches, layout, pulled_of(ctx), ctx.system, region, ctx.progress, ctx.config.install.fetch_timeout
    )
    for trouble in pulled.troubles:
        _warn(ctx, trouble)
    _record_refused(ctx, pulled)
    return pulled


def _record_refused(ctx: Context, pulled: Pulled) -> None:
    """Records the entries that could not be used, so that the packages that are built instead replace them."""
    store = store_of(ctx)
    unpacked = database.from_cache(pulled.specs, store) | {spec.hash for spec in database.missing(pulled.specs, store)}
    refused = {url: dict(reasons) for url, reasons in pulled.refused.items()}
    for spec, url in pulled.origins.items():
        if spec.hash not in unpacked:
            refused.setdefault(url, {})[spec.hash] = "Spack could not unpack it"
    if any(refused.values()):
        work = ctx.paths.work(ctx.desired_release)
        CacheRecord.load(work).with_refused(refused).save(work)


def _warn(ctx: Context, problem: PetalError | str) -> None:
    """Shows a problem of a build cache, in spite of which the packages are built."""
    error = CacheError(problem, code="cache-corrupt") if isinstance(problem, str) else problem
    ctx.warn(error)
    for line in (str(error), *(f"try: {line}" for line in error.remedy)):
        ctx.note(line)
