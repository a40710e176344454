"""``releases``, ``rollback``, ``gc``: list releases, publish an earlier one again, remove those that are not needed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..cluster.slurm import Job, find_slurm
from ..cluster.slurm import jobs as squeue
from ..core.errors import PetalError, ReleaseError, UsageError
from ..core.model import Result, Role, Status, plain
from ..core.options import Options
from ..engine import converge as engine
from ..engine.prepare import prepare
from ..host import systemd
from ..host.files import size_of
from ..releases import gc as collector
from ..releases.catalog import ReleaseInfo, all_releases, needs, previous_release
from ..releases.publish import roll_back, rollback_target
from ..state.context import Context
from ..state.release import current_release
from .common import Services, request_of, require_root

LOOK_SECONDS = 20.0
MEASURE_SECONDS = 1800.0  # millions of files on EFS


def releases(options: Options, services: Services) -> Result:
    """The releases below /opt/petal, the newest first; on every node, for every user."""
    sizes = not options.no_sizes
    ctx = _prepared(options, services)
    services.note("measuring what each release needs" if sizes else "looking at the releases")
    seconds = MEASURE_SECONDS if sizes else LOOK_SECONDS
    data = ctx.system.on_storage(lambda: _listed(ctx, sizes=sizes), ctx.paths.root, seconds)
    return Result("releases", "releases", Status.OK, data, run_id=services.run_id)


def _listed(ctx: Context, *, sizes: bool) -> dict[str, Any]:
    size = cache(size_of) if sizes else None
    listed = [_listed_release(ctx, release, size) for release in all_releases(ctx)]
    current, before = current_release(ctx.paths), previous_release(ctx)
    return {"root": str(ctx.paths.root), "current": current, "before": before, "releases": listed}


def _listed_release(ctx: Context, release: ReleaseInfo, size: Callable[[Path], int] | None) -> dict[str, Any]:
    prefixes, manifest = needs(ctx, release).prefixes, release.manifest
    directories = [ctx.paths.release(release.name), *sorted(prefixes)]
    return {
        "release": release.name,
        "published": release.published,
        "created": manifest.created if manifest else None,
        "complete": manifest is not None,
        "problem": release.problem,
        "specs": list(manifest.specs) if manifest else [],
        "packages": len(prefixes),
        "modules": sum(len(tree.modules) for tree in manifest.trees) if manifest else 0,
        "bytes": sum(size(directory) for directory in directories) if size else None,
    }


def rollback(options: Options, services: Services) -> Result:
    """Publishes an earlier release again and makes it the desired one.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: the release is unknown or incomplete.
        LockTimeout: an install goes on.
    """
    ctx = _on_head(options, services)
    with engine.alone(ctx, options.command, options.lock_wait, services.listen) as inside:
        target = rollback_target(inside, options.release)
        former = current_release(inside.paths)
        if target.name != former:
            roll_back(inside, target)
    changed = target.name != former
    data = {"release": target.name, "left": former, "changed": changed, "published": target.time}
    return Result("rollback", "rollback", Status.CHANGED if changed else Status.OK, data, run_id=services.run_id)


def gc(options: Options, services: Services) -> Result:
    """Lists the releases and packages that are not needed any more, and removes them with ``--yes``.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: ``release-no-current``.
        LockTimeout: an install goes on.
    """
    ctx = _on_head(options, services)
    if not options.yes:
        jobs, errors = _jobs(ctx)
        plan = collector.plan(ctx, options.keep, jobs)
    else:
        with engine.alone(ctx, options.command, options.lock_wait, services.listen) as inside:
            jobs, errors = _jobs(inside)
            plan = collector.plan(inside, options.keep, jobs)
            collector.remove(inside, plan)
    data = {**plain(plan), "newest": options.keep, "bytes": plan.size, "done": options.yes}
    status = Status.CHANGED if options.yes and (plan.drop or plan.packages) else Status.OK
    status = Status.DEGRADED if errors else status
    return Result("gc", "gc", status, data, tuple(error.to_dict() for error in errors), services.run_id)


def _jobs(ctx: Context) -> tuple[tuple[Job, ...] | None, tuple[ReleaseError, ...]]:
    """The jobs of the cluster; None and the reason if Slurm cannot be asked. A tree below --root has no jobs."""
    if not ctx.paths.live or find_slurm(ctx.system) is None:
        return (), ()
    try:
        return squeue(ctx.system), ()
    except PetalError as error:
        silent = ReleaseError(
            "Slurm does not say which jobs it has, so every release stays that was current before",
            why=str(error),
            remedy=("scontrol ping", "systemctl start slurmctld", "petal-node gc"),
            code="release-jobs",
        )
        return None, (silent,)


def _prepared(options: Options, services: Services) -> Context:
    if options.config is not None:
        what = f"petal-node {options.command} takes no --config"
        raise UsageError(what, why="it is about what stands here", remedy=f"petal-node {options.command}")
    return prepare(request_of(options, services, decides=False), services.system, services.note)


def _on_head(options: Options, services: Services) -> Context:
    require_root(options, services)
    if options.paths.live:
        systemd.take_environment()
    ctx = _prepared(options, services)
    if ctx.role is not Role.HEAD:
        what = f"petal-node {options.command} changes what all nodes share"
        raise UsageError(what, why=f"this is a {ctx.role.value} node", remedy="type it on the head node")
    return ctx
