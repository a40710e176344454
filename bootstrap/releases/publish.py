"""Publishes a release, or an earlier one again: ``current`` is switched by one rename."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..core.errors import ReleaseError, StateError
from ..core.text import at_most
from ..host.atomic import replace_link, write_atomic
from ..host.log import LOG
from ..host.times import timestamp
from ..modules import templates
from ..state.context import Context
from ..state.release import current_release
from ..state.store import ClusterState
from .catalog import ReleaseInfo, installed_packages, needs, previous_release

RESERVE = 1 << 20


def publish(ctx: Context, release: str) -> None:
    """New shells get the release from now on. The module that pins a job to it is written first.

    Raises:
        LockLost: another process may be publishing.
    """
    values = {"release": release, "path": str(ctx.paths.release(release)), "root": str(ctx.paths.root)}
    templates.write(pin_of(ctx, release), "petal.lua.j2", values)
    record_current(ctx)
    ctx.confirm()
    replace_link(ctx.paths.current, f"releases/{release}")
    record_current(ctx)
    keep_reserve(ctx)


def keep_reserve(ctx: Context) -> None:
    """Keeps 1 MiB of shared storage, which a rollback or ``gc`` frees first: both work on full storage."""
    if ctx.publishes_to_cluster and not ctx.paths.reserve.is_file():
        with suppress(OSError):  # full by now; random bytes, because a file system may compress others to nothing
            write_atomic(ctx.paths.reserve, os.urandom(RESERVE), mode=0o600)


def record_current(ctx: Context) -> None:
    """Records which release is current and since when, by the link's own time; ``gc`` needs that.

    It is called before the link is switched too, because a run that was killed after its switch recorded nothing.
    """
    release = current_release(ctx.paths)
    if release is None or not ctx.publishes_to_cluster:
        return
    try:
        ClusterState(ctx.paths).note_published(release, ctx.run_id, timestamp(ctx.paths.current.lstat().st_mtime))
    except StateError as error:  # a damaged record does not prevent publishing; ``repair`` moves it away
        LOG.warning("%s", error)


def pin_of(ctx: Context, release: str) -> Path:
    """The module ``petal/<release>``, with which jobs are pinned to a release."""
    return ctx.paths.pins / "petal" / f"{release}.lua"


def rollback_target(ctx: Context, releases: Sequence[ReleaseInfo], prefix: str | None) -> ReleaseInfo:
    """The one of all releases whose id begins with ``prefix``; without one, the release that was current before.

    Raises:
        ReleaseError: ``release-unknown``, ``release-incomplete``.
    """
    prefix = prefix or previous_release(ctx, releases)
    if prefix is None:
        current = current_release(ctx.paths)
        others = [one.name for one in releases if one.manifest is not None and one.name != current]
        why = f"the other complete releases are {', '.join(others)}" if others else "no other release is complete"
        remedy = ("petal-node releases", *(("petal-node rollback ID",) if others else ()))
        raise ReleaseError("the previous release is not recorded", why=why, remedy=remedy, code="release-unknown")
    matches = [release for release in releases if release.name.startswith(prefix)]
    matches = [release for release in matches if release.name == prefix] or matches
    if len(matches) != 1:
        names = ", ".join(release.name for release in matches or releases)
        why = f"it could be {names}" if matches else f"the releases are {names or 'none'}"
        raise ReleaseError(f"unknown release {prefix}", why=why, remedy="petal-node releases", code="release-unknown")
    problem = rollback_problem(ctx, matches[0])
    if problem:
        raise ReleaseError(
            f"release {matches[0].name} cannot be published",
            why=problem,
            remedy="petal-node bootstrap --config FILE    # with the configuration that made it",
            code="release-incomplete",
        )
    return matches[0]


def rollback_problem(ctx: Context, release: ReleaseInfo) -> str:
    """Why a release cannot be current, or an empty string. Packages that it was published without do not count.

    Raises:
        PetalError, OSError: a database cannot be read.
    """
    if release.problem:
        return release.problem
    if release.manifest is None:
        return "it is incomplete: manifest.json is missing"
    if release.desired is None:
        return "it does not hold the configuration that made it: desired.json is missing"
    if release.manifest.os != ctx.facts.host.os:
        return f"it was made on {release.manifest.os}, this node has {ctx.facts.host.os}"
    without = {spec.replace("@", "-") for spec in release.manifest.missing}
    needed = needs(ctx, release, installed_packages(ctx)).values()
    missing = sorted(prefix.name for prefix in needed if not prefix.is_dir() and prefix.name not in without)
    return f"missing packages: {', '.join(at_most(3, missing))}" if missing else ""


def roll_back(ctx: Context, release: ReleaseInfo) -> bool:
    """Makes a release the desired one, with its own configuration, and publishes it; False if it is both already.

    After a kill between the two the next convergence publishes it. The running petal-node stays the desired one. The
    current release may not be the desired one, if the run that should have published another one failed.

    Raises:
        LockLost: another process may be publishing.
    """
    assert release.desired is not None
    desired = replace(release.desired, version=ctx.tool.version, sha256=ctx.tool.sha256)
    left = current_release(ctx.paths)
    with suppress(StateError):  # a damaged record is replaced
        if left == release.name and ClusterState(ctx.paths).desired_state() == desired:
            return False
    ctx.confirm()
    ctx.paths.reserve.unlink(missing_ok=True)
    ClusterState(ctx.paths).save_desired_state(desired)
    publish(ctx, release.name)
    LOG.info("release %s is current instead of %s", release.name, left, extra={"step": "rollback"})
    return True
