"""What releases there are, when each was published, and what each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config.load import from_mapping
from ..core.errors import StateError
from ..spack import database
from ..spack.families import FAMILIES
from ..state.context import Context
from ..state.desired import Published, Wanted
from ..state.release import Manifest, current_release, package_prefix, read_manifest
from ..state.store import Shared, wanted_of

LOCKFILES = "spack*.lock"


@dataclass(frozen=True)
class Known:
    """One directory of ``releases/``.

    Args:
        manifest: None while it is not complete, or where that cannot be read.
        wanted: what made it; None in releases of an older petal-node.
        trouble: what of it cannot be read, and why.
        published: when it became the current one, the last time; None where nobody noted it.
    """

    name: str
    manifest: Manifest | None
    wanted: Wanted | None
    trouble: str
    published: str | None

    @property
    def time(self) -> str:
        """When it was published the last time, else when it was made."""
        return self.published or (self.manifest.created if self.manifest else "")


def known_releases(ctx: Context) -> tuple[Known, ...]:
    """All of them: the last published first, then those of which nobody noted that, by the time they were made."""
    notes = published(ctx)
    times = {one.release: one.time for one in notes}
    order = {one.release: number for number, one in enumerate(notes)}
    directories = (path for path in ctx.paths.releases.glob("*") if path.is_dir() and not path.name.startswith("."))
    found = [Known(path.name, *_read(ctx, path.name), times.get(path.name)) for path in directories]
    return tuple(sorted(found, key=lambda one: (order.get(one.name, -1), one.time, one.name), reverse=True))


def published(ctx: Context) -> tuple[Published, ...]:
    """What ``current`` has led to, the newest last; a machine image has no such record."""
    return Shared(ctx.paths).published() if ctx.config.bound and not ctx.bakes else ()


def _read(ctx: Context, release: str) -> tuple[Manifest | None, Wanted | None, str]:
    try:
        return read_manifest(ctx.paths, release), wanted_of(ctx.paths, release), ""
    except StateError as error:
        return None, None, str(error)


def before_this(ctx: Context) -> str | None:
    """The release that was current before the one that is; None where none is noted that is still there."""
    current = current_release(ctx.paths)
    names = [one.release for one in published(ctx)]
    if current in names:
        names = names[: len(names) - 1 - names[::-1].index(current)]
    there = {one.name for one in known_releases(ctx) if one.manifest is not None}
    return next((name for name in reversed(names) if name != current and name in there), None)


@dataclass(frozen=True)
class Needs:
    """What lies in the stores for one release: of Spack by hash, and the prefixes of tarballs."""

    spack: dict[str, Path]
    tarballs: frozenset[Path]

    @property
    def prefixes(self) -> frozenset[Path]:
        return self.tarballs | frozenset(self.spack.values())


def needs(ctx: Context, one: Known) -> Needs:
    """What a release needs; what Spack does not have any more has an empty path.

    Raises:
        SpackError: a lockfile or a database cannot be read.
    """
    stores = installed(ctx)
    lockfiles = sorted(ctx.paths.release(one.name).glob(LOCKFILES))
    specs = (spec for lockfile in lockfiles for spec in database.locked_specs(lockfile) if not spec.external)
    packages = from_mapping(one.wanted.config, one.name).packages if one.wanted else ()
    return Needs(
        {spec.hash: stores.get(spec.hash, Path(f"{spec.name}-{spec.version}")) for spec in specs},
        frozenset(package_prefix(each, ctx.paths, ctx.facts.host) for each in packages if each.origin),
    )


def installed(ctx: Context) -> dict[str, Path]:
    """Hash and prefix of everything that Spack has installed, of both families."""
    return {digest: prefix for store in stores(ctx) for digest, prefix in database.installed(store).items()}


def stores(ctx: Context) -> Iterator[Path]:
    """The stores that have a database."""
    places = dict.fromkeys(ctx.paths.root / family.store for family in FAMILIES.values())
    return (store for store in places if database.index_of(store).is_file())
