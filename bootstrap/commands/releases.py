"""``releases``, ``rollback``, ``gc``: what was published, the way back, and what nobody needs any more."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from ..cluster.jobs import Job, jobs
from ..cluster.slurm import find_slurm
from ..core.errors import PetalError, ReleaseError, UsageError
from ..core.model import Result, Role, Status, plain
from ..core.options import Options
from ..engine import converge as engine
from ..engine.prepare import prepare
from ..host import systemd
from ..host.files import size_of
from ..releases import gc as unused
from ..releases.catalog import Known, before_this, known_releases, needs
from ..releases.publish import roll_back, to_roll_back
from ..state.context import Context
from ..state.release import current_release
from .common import Services, request_of, require_root

LOOK_SECONDS = 20.0
MEASURE_SECONDS = 1800.0  # millions of files on EFS


def releases(options: Options, services: Services) -> Result:
    """What stands below /opt/petal, the newest first. On every node, for every user."""
    sizes = not options.no_sizes
    ctx = _prepared(options, services)
    services.note("measuring what each release needs" if sizes else "looking at the releases")
    seconds = MEASURE_SECONDS if sizes else LOOK_SECONDS
    data = ctx.system.on_storage(lambda: _listed(ctx, sizes=sizes), ctx.paths.root, seconds)
    return Result("releases", "releases", Status.OK, data, run_id=services.run_id)


def _listed(ctx: Context, *, sizes: bool) -> dict[str, Any]:
    size = cache(size_of) if sizes else None
    told = [_told(ctx, one, size) for one in known_releases(ctx)]
    current, before = current_release(ctx.paths), before_this(ctx)
    return {"root": str(ctx.paths.root), "current": current, "before": before, "releases": told}


def _told(ctx: Context, one: Known, size: Callable[[Path], int] | None) -> dict[str, Any]:
    needed = needs(ctx, one)
    places = [ctx.paths.release(one.name), *sorted(needed.prefixes)]
    return {
        "release": one.name,
        "published": one.published,
        "created": one.manifest.created if one.manifest else None,
        "complete": one.manifest is not None,
        "trouble": one.trouble,
        "specs": list(one.manifest.specs) if one.manifest else [],
        "packages": len(needed.prefixes),
        "modules": sum(len(tree.modules) for tree in one.manifest.trees) if one.manifest else 0,
        "bytes": sum(size(place) for place in places) if size else None,
    }


def rollback(options: Options, services: Services) -> Result:
    """New shells get a release that was published before, and the cluster wants it from now on.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: there is none, or it is not whole.
        LockTimeout: an install goes on.
    """
    ctx = _on_head(options, services)
    with engine.alone(ctx, options.command, options.lock_wait, services.listen) as inside:
        to = to_roll_back(inside, options.release)
        left = current_release(inside.paths)
        if to.name != left:
            roll_back(inside, to)
    changed = to.name != left
    data = {"release": to.name, "left": left, "changed": changed, "published": to.time}
    return Result("rollback", "rollback", Status.CHANGED if changed else Status.OK, data, run_id=services.run_id)


def gc(options: Options, services: Services) -> Result:
    """Says what nobody needs any more, and with ``--yes`` removes it.

    Raises:
        UsageError: this is not the head node.
        ReleaseError: nobody can say what is needed (``release-no-current``, ``release-jobs``).
        LockTimeout: an install goes on.
    """
    ctx = _on_head(options, services)
    if not options.yes:
        plan = unused.plan(ctx, options.keep, _jobs(ctx))
        return _result(options, services, plan, done=False)
    with engine.alone(ctx, options.command, options.lock_wait, services.listen) as inside:
        plan = unused.plan(inside, options.keep, _jobs(inside))
        unused.remove(inside, plan)
    return _result(options, services, plan, done=True)


def _result(options: Options, services: Services, plan: unused.Plan, *, done: bool) -> Result:
    data = {**plain(plan), "newest": options.keep, "bytes": plan.size, "done": done}
    changed = bool(plan.drop or plan.packages) and done
    return Result("gc", "gc", Status.CHANGED if changed else Status.OK, data, run_id=services.run_id)


def _jobs(ctx: Context) -> tuple[Job, ...]:
    """Those of the cluster; a tree below --root has none."""
    if not ctx.paths.live or find_slurm(ctx.system) is None:
        return ()
    try:
        return jobs(ctx.system)
    except (PetalError, OSError) as error:
        raise ReleaseError(
            "Slurm does not say which jobs run, so nobody knows which releases they use",
            why=str(error),
            remedy=("scontrol ping", "systemctl start slurmctld"),
            code="release-jobs",
        ) from error


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
