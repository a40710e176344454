"""What nobody needs any more: which releases may go, and which packages only they need.

Never what is current or wanted, what one of the newest releases has, or what a job that is not over uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..cluster.jobs import Job
from ..core.errors import ReleaseError
from ..host.files import remove_tree, size_of
from ..host.log import LOG
from ..spack import database
from ..spack.workspace import open_spack, store_of
from ..state.context import Context
from ..state.release import current_release
from ..state.store import Shared
from .catalog import Known, known_releases, needs, stores
from .publish import PIN

RECEIPT = Path(".petal", "package.json")
GONE = ".gone"


@dataclass(frozen=True)
class Unused:
    """One package that no release needs which stays; ``hash`` is Spack's, empty for a tarball."""

    prefix: Path
    hash: str
    size: int


@dataclass(frozen=True)
class Plan:
    """What ``gc`` would do.

    Args:
        keep: each release that stays, with the reason.
        drop: those that go, with the size of their own directory in bytes.
        packages: what goes from the stores with them.
        left: in words, what could go and does not, with the reason.
    """

    keep: Mapping[str, str]
    drop: Mapping[str, int]
    packages: tuple[Unused, ...]
    left: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes that become free."""
        return sum(self.drop.values()) + sum(package.size for package in self.packages)


def plan(ctx: Context, number: int, jobs: Sequence[Job]) -> Plan:
    """What may go.

    Args:
        number: how many of the newest complete releases stay.
        jobs: those that are not over.

    Raises:
        ReleaseError: ``release-no-current``: nobody knows what is needed.
        SpackError, StateError: what the releases need cannot be read.
    """
    known = known_releases(ctx)
    keep = _reasons(ctx, known, number, jobs)
    stay, go = [one for one in known if one.name in keep], [one for one in known if one.name not in keep]
    packages, left = _unused(ctx, stay)
    return Plan(keep, {one.name: size_of(ctx.paths.release(one.name)) for one in go}, packages, left)


def _reasons(ctx: Context, known: Sequence[Known], number: int, jobs: Sequence[Job]) -> dict[str, str]:
    """Why a release stays. The first reason is told; the newest are told last, since the number is a choice."""
    current = current_release(ctx.paths)
    if current is None:
        what = "no release is current, so nobody can say what is needed"
        raise ReleaseError(what, remedy="petal-node status", code="release-no-current")
    wanted = Shared(ctx.paths).wanted() if ctx.config.bound and not ctx.bakes else None
    reasons = {current: "current"}
    if wanted is not None:
        reasons.setdefault(wanted.release, "wanted")
    for job in jobs:
        for one in known:
            if not job.known or one.name in job.releases:
                reasons.setdefault(one.name, f"{job} {'uses it' if job.known else 'may use it'}")
    for one in known:
        if one.trouble:
            reasons.setdefault(one.name, one.trouble)
    complete = [one for one in known if one.manifest is not None]
    for one in complete[:number]:
        reasons.setdefault(one.name, f"one of the newest {number}")
    return {one.name: reasons[one.name] for one in known if one.name in reasons}


def _unused(ctx: Context, stay: Sequence[Known]) -> tuple[tuple[Unused, ...], tuple[str, ...]]:
    needed = [needs(ctx, one) for one in stay]
    hashes = {digest for each in needed for digest in each.spack}
    prefixes = {prefix for each in needed for prefix in each.prefixes}
    mine = store_of(ctx) if ctx.config.builds else None
    found, left = [], []
    for store in stores(ctx):
        free = [(digest, prefix) for digest, prefix in database.installed(store).items() if digest not in hashes]
        free = [(digest, prefix) for digest, prefix in free if prefix.is_relative_to(store)]  # no externals
        if store == mine:
            found += [Unused(prefix, digest, size_of(prefix)) for digest, prefix in free]
        elif free:
            left.append(f"{len(free)} packages in {store}: another Spack than the wanted one has installed them")
    unknown = [one.name for one in stay if one.wanted is None]
    tarballs = [path for path in _tarballs(ctx) if path not in prefixes]
    if unknown and tarballs:
        left.append(f"{len(tarballs)} tarballs: {', '.join(unknown)} of an older petal-node may need them")
    else:
        found += [Unused(path, "", size_of(path)) for path in tarballs]
    return tuple(sorted(found, key=lambda one: str(one.prefix))), tuple(left)


def _tarballs(ctx: Context) -> list[Path]:
    """The binary packages that lie in the store."""
    return [path.parents[1] for path in sorted(ctx.paths.store.glob(f"*/[!.]*/{RECEIPT}"))]


def remove(ctx: Context, plan: Plan) -> None:
    """Does what a plan says. Each step can be ended at any time; what is left then goes with the next ``gc``.

    A release loses its name first, so that nobody finds half of one, and its packages go after it.

    Raises:
        LockLost: somebody else may be installing.
        SpackError: ``spack-uninstall``.
    """
    for release in plan.drop:
        ctx.confirm()
        ctx.note(f"removing release {release}")
        (ctx.paths.pins / PIN / f"{release}.lua").unlink(missing_ok=True)
        gone = ctx.paths.releases / f".{release}{GONE}"
        remove_tree(gone)
        ctx.paths.release(release).rename(gone)
    for gone in ctx.paths.releases.glob(f".*{GONE}"):
        remove_tree(gone)
    built = [package for package in plan.packages if package.hash]
    if built:
        ctx.confirm()
        ctx.note(f"removing {len(built)} packages of Spack")
        open_spack(ctx, ctx.targets[0]).uninstall([package.hash for package in built])
    for package in plan.packages:
        if not package.hash:
            ctx.confirm()
            LOG.info("removing %s", package.prefix)
            gone = package.prefix.with_name(f".{package.prefix.name}{GONE}")
            remove_tree(gone)
            package.prefix.rename(gone)
            remove_tree(gone)
