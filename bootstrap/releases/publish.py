"""Publishes a release, and the way back to one that was published before: one rename each."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import ReleaseError, StateError
from ..host.atomic import replace_link, write_atomic
from ..host.files import make_dir
from ..host.log import LOG
from ..modules import templates
from ..state.context import Context
from ..state.store import Shared, save_wanted_of, wanted_of
from .catalog import Known, before_this, known_releases, needs

PIN = "petal"
NOT_KEPT = "an older petal-node made it, which did not keep its configuration"
NOT_COMPLETE = "it has no manifest: it was never complete"


def keep_what_made_it(ctx: Context) -> None:
    """Kept in the release before it is published, so that it can be wanted again."""
    if wanted_of(ctx.paths, ctx.wanted_release) != ctx.wanted:
        save_wanted_of(ctx.paths, ctx.wanted)


def publish(ctx: Context, release: str) -> None:
    """New shells get it from now on. The module that pins to it is there before, the note of it comes behind.

    Raises:
        LockLost: somebody else may be publishing.
    """
    write_pin(ctx, release)
    ctx.confirm()
    replace_link(ctx.paths.current, f"releases/{release}")
    if ctx.config.bound and not ctx.bakes:
        try:
            Shared(ctx.paths).note_published(release, ctx.run_id)
        except StateError as error:  # it is published all the same; ``repair`` puts a damaged note aside
            LOG.warning("%s", error)


def has_pin(ctx: Context, release: str) -> bool:
    """Whether jobs can be pinned to it: ``module load petal/<release>``."""
    return (ctx.paths.pins / PIN / f"{release}.lua").is_file()


def write_pin(ctx: Context, release: str) -> None:
    """Writes the module ``petal/<release>``."""
    make_dir(ctx.paths.pins / PIN)
    values = {"release": release, "path": str(ctx.paths.release(release)), "root": str(ctx.paths.root)}
    text = templates.render("petal.lua.j2", values)
    write_atomic(ctx.paths.pins / PIN / f"{release}.lua", text.encode())


def to_roll_back(ctx: Context, asked: str | None) -> Known:
    """The release that a rollback leads to.

    Args:
        asked: an id, or the beginning of one; None for the one that was current before.

    Raises:
        ReleaseError: ``release-unknown``, ``release-incomplete``.
    """
    known = known_releases(ctx)
    name = asked or before_this(ctx)
    if name is None:
        what = "no other release was published here before"
        raise ReleaseError(what, remedy="petal-node releases", code="release-unknown")
    chosen = [one for one in known if one.name.startswith(name)]
    if len(chosen) != 1:
        why = f"it could be {', '.join(one.name for one in chosen)}" if chosen else _which(known)
        raise ReleaseError(f"no release is {name}", why=why, remedy="petal-node releases", code="release-unknown")
    trouble = _trouble(ctx, chosen[0])
    if trouble:
        raise ReleaseError(
            f"release {chosen[0].name} cannot be published",
            why=trouble,
            remedy="petal-node bootstrap --config FILE    (with the configuration that made it)",
            code="release-incomplete",
        )
    return chosen[0]


def _which(known: tuple[Known, ...]) -> str:
    return "there are " + ", ".join(one.name for one in known) if known else "there is none"


def _trouble(ctx: Context, one: Known) -> str:
    """Why it cannot be current, or an empty string; what it was published without does not count."""
    if one.trouble:
        return one.trouble
    if one.manifest is None:
        return NOT_COMPLETE
    if one.wanted is None:
        return NOT_KEPT
    without = {spec.replace("@", "-") for spec in one.manifest.missing}
    gone = sorted(
        prefix.name for prefix in needs(ctx, one).prefixes if not prefix.is_dir() and prefix.name not in without
    )
    return f"{len(gone)} of its packages are gone: {', '.join(gone[:3])}" if gone else ""


def roll_back(ctx: Context, to: Known) -> None:
    """Wants it, with its own configuration, and publishes it. After a kill between the two a convergence publishes.

    The petal-node that runs stays the wanted one: it serves what an older one has made.

    Raises:
        LockLost: somebody else may be publishing.
    """
    assert to.wanted is not None
    wanted = replace(to.wanted, version=ctx.tool.version, sha256=ctx.tool.sha256)
    ctx.confirm()
    Shared(ctx.paths).save_wanted(wanted)
    publish(ctx, to.name)
