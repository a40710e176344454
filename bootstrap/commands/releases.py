"""``releases``, ``rollback``, ``gc``: list releases, publish an earlier one again, remove unused ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path

from ..cluster.slurm import Job, find_slurm, silent_daemon
from ..cluster.slurm import jobs as squeue
from ..core.deadlines import BULK, DOCUMENT, PROBE
from ..core.errors import PetalError, ReleaseError, StateError, UsageError
from ..core.model import Finding, Result, Role, Status
from ..core.options import Options
from ..engine.followers import not_following
from ..engine.prepare import prepare
from ..engine.run_locks import cluster_lock
from ..host.files import size_of
from ..releases import gc as collector
from ..releases.catalog import ReleaseInfo, all_releases, installed_packages, needs, previous_release
from ..releases.publish import roll_back, rollback_problem, rollback_target
from ..state.context import Context, Services
from ..state.release import current_release
from .common import require_root


@dataclass(frozen=True)
class ListedRelease:
    """One release.

    Args:
        published: when it became current the last time, None if that was not recorded.
        created: when its manifest was written, None if it is incomplete.
        problem: why a part of it cannot be read, or an empty string.
        bytes: its size with all its packages, None if it was not measured.
    """

    release: str
    published: str | None
    created: str | None
    complete: bool
    problem: str
    specs: tuple[str, ...]
    packages: int
    modules: int
    bytes: int | None


@dataclass(frozen=True)
class ReleaseList:
    """The releases below ``root``, newest first; ``before`` is the one that ``rollback`` makes current."""

    root: str
    current: str | None
    before: str | None
    releases: tuple[ListedRelease, ...]


@dataclass(frozen=True)
class Rollback:
    """The release that is current and desired now, when it was published before, and the one that was current.

    Args:
        undo: the command that makes ``left`` current again; empty if that is not possible.
        findings: a warning with the nodes that keep a part of the configuration of ``left``.
    """

    release: str
    left: str | None
    changed: bool
    published: str | None
    undo: str = ""
    findings: tuple[Finding, ...] = ()


def releases(options: Options, services: Services) -> Result[ReleaseList]:
    """The releases below /opt/petal, newest first. On every node, for every user."""
    ctx = prepare(options, services, follow=True)
    _require_storage(ctx)
    size = None if options.no_sizes else cache(size_of)
    services.note("measuring the releases" if size else "reading the releases")

    def read() -> tuple[ReleaseList, tuple[StateError, ...]]:
        found, installed = all_releases(ctx), installed_packages(ctx)
        listed = tuple(_info(ctx, release, installed, size) for release in found)
        whole = ReleaseList(str(ctx.paths.root), current_release(ctx.paths), None, listed)
        try:
            return replace(whole, before=previous_release(ctx, found)), ()
        except StateError as error:  # the times of the releases are missing, too
            return whole, (error,)

    data, errors = ctx.system.on_storage(read, ctx.paths.root, BULK if size else DOCUMENT)
    status = Status.DEGRADED if errors else Status.OK
    return Result("releases", status, data, tuple(error.to_dict() for error in errors), services.run_id)


def _info(
    ctx: Context, release: ReleaseInfo, installed: Mapping[str, Path], size: Callable[[Path], int] | None
) -> ListedRelease:
    needed, manifest = needs(ctx, release, installed), release.manifest
    directories = [ctx.paths.release(release.name), *sorted(set(needed.values()))]
    return ListedRelease(
        release=release.name,
        published=release.published,
        created=manifest.created if manifest else None,
        complete=manifest is not None,
        problem=release.problem,
        specs=tuple(manifest.specs) if manifest else (),
        packages=len(needed),
        modules=sum(len(tree.modules) for tree in manifest.trees) if manifest else 0,
        bytes=sum(size(directory) for directory in directories) if size else None,
    )


def rollback(options: Options, services: Services) -> Result[Rollback]:
    """Publishes an earlier release again and makes it the desired one.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: the release is unknown or incomplete.
        LockTimeout: an install is in progress.
    """
    ctx = _on_head(options, services)
    with cluster_lock(ctx) as inside:
        found = all_releases(inside)
        target = rollback_target(inside, found, options.release)
        left = current_release(inside.paths)
        can_return = False
        with suppress(PetalError, OSError):
            can_return = any(one.name == left and not rollback_problem(inside, one) for one in found)
        changed = roll_back(inside, target)
    now = target.desired.config if changed and target.desired else ctx.config.to_dict()
    findings = not_following(ctx, ctx.config.to_dict(), now) if ctx.paths.live else ()
    undo = f"petal-node rollback {left}" if changed and can_return else ""
    data = Rollback(target.name, left, changed, target.time, undo, findings)
    return Result("rollback", Status.CHANGED if changed else Status.OK, data, run_id=services.run_id)


def gc(options: Options, services: Services) -> Result[collector.Cleanup]:
    """Lists the releases, packages and files that are not needed any more, and removes them with ``--yes``.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: ``release-unknown``.
        LockTimeout: an install is in progress.
    """
    ctx = _on_head(options, services, reads=not options.yes)
    with cluster_lock(ctx) if options.yes else nullcontext(ctx) as inside:
        jobs, errors = _jobs(inside)
        plan = partial(collector.plan, inside, options.keep, jobs)
        data = ctx.system.on_storage(plan, ctx.paths.root, BULK)
        if options.yes:
            collector.remove(inside, data)
            data = replace(data, done=True)
    status = Status.CHANGED if data.done and not data.is_empty else Status.OK
    status = Status.DEGRADED if errors else status
    return Result("gc", status, data, tuple(error.to_dict() for error in errors), services.run_id)


def _jobs(ctx: Context) -> tuple[tuple[Job, ...] | None, tuple[ReleaseError, ...]]:
    """The jobs of the cluster; None and the reason if Slurm does not answer. A tree below --root has no jobs."""
    if not ctx.paths.live or find_slurm(ctx.system) is None:
        return (), ()
    try:
        return squeue(ctx.system), ()
    except PetalError as error:
        silent = ReleaseError(
            "Slurm does not list its jobs, so every release that was current before stays",
            why=str(error),
            remedy=("scontrol ping", f"systemctl start {silent_daemon(error)}", "petal-node gc"),
            code="slurm-silent",
        )
        return None, (silent,)


def _on_head(options: Options, services: Services, *, reads: bool = False) -> Context:
    ctx = prepare(options, services, follow=True)
    if ctx.role is not Role.HEAD:
        what = f"petal-node {options.command} runs on the head node only, because it is about shared storage"
        raise UsageError(what, why=f"this is a {ctx.role.value} node", remedy="run it on the head node")
    if not reads:
        require_root(options, services)
    _require_storage(ctx)
    return ctx


def _require_storage(ctx: Context) -> None:
    """Fails soon if shared storage hangs: the lock would wait for it without a deadline, a plan for the time of BULK.

    Raises:
        StorageError: ``storage-hangs``.
    """

    def look() -> None:
        for path in (ctx.paths.shared, ctx.paths.root):
            with suppress(FileNotFoundError):
                os.statvfs(path)  # asks the server, unlike stat(2) with a cache

    ctx.system.on_storage(look, ctx.paths.shared_mount, PROBE)
