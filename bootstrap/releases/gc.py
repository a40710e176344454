"""Garbage collection: which releases can be removed, and which packages and files only they need.

A release stays if it is current or desired, if it is one of the newest, if a document of it cannot be read (all stay if
it is the record of published releases), or if a job in squeue may use it: the script of the job names it, or it was
current in the time ``EXPIRY`` before the oldest job was submitted, or later. A job has the environment of the shell
that submitted it, which may be days old and keeps the release that was current when it started. Slurm does not give the
environment of a job to other programs.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..cluster.slurm import Job, batch_script
from ..config.load import from_mapping
from ..config.model import SPACK_VERSIONS
from ..core.deadlines import DOCUMENT, EXPIRY
from ..core.errors import ProcessFailed, ProcessTimeout, ReleaseError, StateError
from ..core.text import count
from ..host.atomic import abandoned, move_aside
from ..host.files import remove_tree, size_of
from ..host.log import LOG
from ..host.times import timestamp
from ..spack import database, program
from ..spack.families import FAMILIES
from ..spack.workspace import open_spack, store_of
from ..state.context import Context
from ..state.desired import DesiredState, Published
from ..state.release import RECEIPT, current_release
from ..state.store import ClusterState
from .catalog import ReleaseInfo, all_releases, history, installed_packages, needs, stores
from .publish import keep_reserve, pin_of

GONE = ".gone"
UNKNOWN = "may need them, and a document of it is missing or damaged"
SCRIPTS = 30.0  # seconds for the scripts of all jobs; gc may hold the cluster lock


@dataclass(frozen=True)
class Unused:
    """A package, file or directory that is not needed, with its size in bytes; ``hash`` is that of a Spack package.

    A file is an archive of petal-node, a tree of Spack, recipes or clingo, the report of a node that is gone, Spack's
    environment of a removed release, a source or a stage of an ended build, or what a killed process or a repair left.
    """

    path: Path
    size: int
    hash: str = ""


@dataclass(frozen=True)
class Cleanup:
    """What ``gc`` removes, or has removed if ``done``.

    Args:
        keep: each release that stays, with the reason.
        drop: each release that is removed, with the size of its own directory in bytes.
        packages: the packages that only those releases need.
        files: other files that are not needed.
        left: what else is not removed, with the reason: packages that are not needed, releases that may be.
        newest: how many of the newest releases stay.
        bytes: the size of all that is removed.
    """

    keep: Mapping[str, str]
    drop: Mapping[str, int]
    packages: tuple[Unused, ...]
    files: tuple[Unused, ...]
    left: tuple[str, ...]
    newest: int
    bytes: int
    done: bool = False

    @property
    def is_empty(self) -> bool:
        return not (self.drop or self.packages or self.files)


def plan(ctx: Context, newest: int, jobs: Sequence[Job] | None) -> Cleanup:
    """Which releases, packages and files can be removed.

    Args:
        newest: how many of the newest complete releases stay.
        jobs: the jobs in squeue; None if Slurm does not answer, then every release stays that may have been current.

    Raises:
        ReleaseError: ``release-unknown``.
        ConfigError, SpackError, StateError: the desired state, or a database of Spack, cannot be read.
    """
    releases = all_releases(ctx)
    desired = ClusterState(ctx.paths).desired_state() if ctx.publishes_to_cluster else None
    unread: list[Job] = []
    keep = _reasons(ctx, releases, newest, jobs, desired, unread)
    kept = _kept(releases, keep, desired)
    drop = {release.name: size_of(ctx.paths.release(release.name)) for release in releases if release.name not in keep}
    packages, left = _unused_packages(ctx, kept)
    if unread:
        scripts = count(len(unread), "job")
        left = (*left, f"releases that the scripts of {scripts} name: only root can read those of other users")
    files = tuple(Unused(path, size_of(path)) for path in sorted(set(_unused_files(ctx, kept))))
    size = sum(drop.values()) + sum(unused.size for unused in (*packages, *files))
    return Cleanup(keep, drop, packages, files, left, newest, size)


def _reasons(
    ctx: Context,
    releases: Sequence[ReleaseInfo],
    newest: int,
    jobs: Sequence[Job] | None,
    desired: DesiredState | None,
    unread: list[Job],
) -> dict[str, str]:
    """Why each kept release stays. Of several reasons the strongest is given, which is the last one below.

    Args:
        unread: gets the jobs whose scripts this user may not read.
    """
    current = current_release(ctx.paths)
    if current is None:
        what = "no release is current, so it is unknown which releases are needed"
        raise ReleaseError(what, remedy="petal-node status", code="release-unknown")
    try:
        entries = history(ctx)
    except StateError as error:
        return {release.name: "current" if release.name == current else str(error) for release in releases}
    complete = [release for release in releases if release.manifest is not None]
    used: set[str] | None = None if jobs is None else set()
    why = "it was current, and Slurm does not list the jobs that may use it"
    waiting = sorted((job for job in jobs or () if not job.ended), key=lambda job: job.submitted)
    if waiting:
        used = current_since(entries, waiting[0].submitted - EXPIRY)
        oldest = f"job {waiting[0].id} of {waiting[0].user} was submitted"
        why = f"was current after {oldest}, or in the {EXPIRY / 86_400:.0f} days before"
        why += "" if used is not None else ", as far as is recorded"
    if used is None:
        used = {release.name for release in releases if release.published is not None or release in complete}
    reasons = {release.name: f"one of the newest {newest}" for release in complete[:newest]}
    reasons.update({release.name: release.problem for release in releases if release.problem})
    reasons.update(dict.fromkeys(used, why))
    reasons.update(_named(ctx, waiting, {release.name for release in releases} - {*reasons, current}, unread))
    if desired is not None:
        reasons[desired.release] = "desired"
    reasons[current] = "current"
    return {release.name: reasons[release.name] for release in releases if release.name in reasons}


def _named(ctx: Context, jobs: Sequence[Job], names: Collection[str], unread: list[Job]) -> dict[str, str]:
    """The releases of ``names`` that the script of a job has, as in ``module load petal/<id>``, with the reason.

    All of them if Slurm does not give a script, or not all in time, as with 10,000 jobs.
    """
    found: dict[str, str] = {}
    arrays = {job.number: job for job in jobs} if names else {}
    deadline = time.monotonic() + SCRIPTS
    for asked, (number, job) in enumerate(arrays.items()):  # the jobs of an array have one script
        rest = f"the scripts of {count(len(arrays) - asked, 'job')} may name it"
        if time.monotonic() > deadline:
            return dict.fromkeys(names, f"{rest}: Slurm gave {asked} in {SCRIPTS:.0f} s")
        try:
            script = batch_script(ctx.system, job)
        except (ProcessFailed, ProcessTimeout) as error:
            return dict.fromkeys(names, f"{rest}: {error}")
        if script is None:
            unread.append(job)
            continue
        found.update({name: f"the script of job {number} of {job.user} names it" for name in names if name in script})
    return found


def current_since(entries: Sequence[Published], seconds: float) -> set[str] | None:
    """The releases that were current at a time, in seconds since the epoch, or later; None if that is not recorded."""
    moment = timestamp(seconds)
    before = [entry.release for entry in entries if entry.time < moment]
    return {before[-1], *(entry.release for entry in entries if entry.time >= moment)} if before else None


def _kept(releases: Sequence[ReleaseInfo], keep: Mapping[str, str], desired: DesiredState | None) -> list[ReleaseInfo]:
    """The releases that stay, also the desired one before it is complete: its first packages may be installed."""
    kept = [release for release in releases if release.name in keep]
    if desired is None:
        return kept
    if desired.release not in keep:
        kept.append(ReleaseInfo(desired.release, None, None, "", None))
    return [
        replace(release, desired=desired) if release.name == desired.release and release.desired is None else release
        for release in kept
    ]


def _unused_packages(ctx: Context, kept: Sequence[ReleaseInfo]) -> tuple[tuple[Unused, ...], tuple[str, ...]]:
    """The packages that no kept release needs; and sentences about those that are not removed."""
    installed = installed_packages(ctx)
    needed = {key: prefix for release in kept for key, prefix in needs(ctx, release, installed).items()}
    prefixes = set(needed.values())
    own_store = store_of(ctx) if ctx.config.uses_spack else None
    unlocked = [release.name for release in kept if release.locked is None]
    unused, left = [], []
    for store in stores(ctx):
        free = [
            (digest, prefix)
            for digest, prefix in database.installed(store).items()
            if digest not in needed and prefix.is_relative_to(store)  # externals are elsewhere
        ]
        if free and unlocked:
            left.append(f"{count(len(free), 'package')} in {store}: {', '.join(unlocked)} {UNKNOWN}")
        elif store == own_store:
            unused += [Unused(prefix, size_of(prefix), digest) for digest, prefix in free]
        elif free:
            has = f"has Spack {ctx.config.spack.version}" if ctx.config.uses_spack else "uses no Spack"
            versions = [v for v, family in SPACK_VERSIONS.items() if ctx.paths.root / FAMILIES[family].store == store]
            why = f"only Spack {' or '.join(versions)} removes them, and the configuration {has}"
            left.append(f"{count(len(free), 'package')} in {store}: {why}; apply one with that Spack, then gc again")
    unknown = [release.name for release in kept if release.desired is None]
    binaries = [path.parents[1] for path in sorted(ctx.paths.store.glob(f"*/[!.]*/{RECEIPT}"))]
    binaries = [path for path in binaries if path not in prefixes]
    if unknown and binaries:
        left.append(f"{count(len(binaries), 'binary package')}: {', '.join(unknown)} {UNKNOWN}")
    else:
        unused += [Unused(path, size_of(path)) for path in binaries]
    return tuple(sorted(unused, key=lambda package: str(package.path))), tuple(left)


def _unused_files(ctx: Context, kept: Sequence[ReleaseInfo]) -> Iterator[Path]:
    """Files that no kept release needs. Trees of Spack and archives stay if the configuration of one is unknown."""
    paths = ctx.paths
    if all(release.desired is not None for release in kept):
        states = [release.desired for release in kept if release.desired is not None]
        desired = ClusterState(paths).desired_state()  # also of a cluster whose root is in the image
        archives = {ctx.tool.sha256, desired and desired.sha256, *(state.sha256 for state in states)}
        yield from (path for path in paths.archives.glob("[!.]*") if path.name not in archives)
        configs = [ctx.config, *(from_mapping(state.config, state.release) for state in states)]
        installs = (install for config in configs if config.uses_spack for install in program.anywhere(config, paths))
        sources = [source for install in installs for source in install.sources]
        trees = {source.directory for source in sources}
        # A tree from a local file without a checksum is named after the time of the file, which may be replaced.
        unnamed = {
            tuple(origin.source for origin in source.origins)
            for source in sources
            if not all(origin.sha256 for origin in source.origins)
        }
        for top in (paths.root, paths.home):
            unpacked = (receipt.parent for receipt in top.glob(f"spack/[!.]*/{program.RECEIPT}"))
            yield from (path for path in unpacked if path not in trees and program.sources_at(path) not in unnamed)
    if ctx.system.is_root() and not ctx.system.other_runs(ctx.run_id):  # nothing is built, as far as root can see
        yield from (path for name in ("sources", "stage") for path in (paths.scratch / "spack" / name).glob("*"))
    names = {ctx.release, *(release.name for release in kept)}
    yield from (path for path in paths.work("").glob("*") if path.name not in names)
    yield from ClusterState(paths).reports(DOCUMENT).expired
    for directory in (paths.state, paths.state / "nodes", paths.archives, *paths.releases.glob("[!.]*")):
        yield from abandoned(directory)
        yield from (path for path in directory.glob("*.bad") if time.time() - path.lstat().st_mtime > EXPIRY)
    for directory in (paths.root, paths.pins / "petal", paths.locks):  # links, modules, the holder of the lock
        yield from abandoned(directory)
    for directory in (paths.root / "spack", paths.home / "spack", paths.releases, *paths.store.glob("[!.]*")):
        yield from (*abandoned(directory), *directory.glob(f".*{GONE}"))


def remove(ctx: Context, plan: Cleanup) -> None:
    """Carries out a plan, and logs what it removes. If it is killed, the next ``gc`` removes the rest.

    A release is renamed first, so that a half-removed one is never in use, also after a power cut; its packages are
    removed after it. Spack writes its database, which on full storage needs the space of the removed prefixes first.

    Raises:
        LockLost: another process may be installing.
        SpackError: ``spack-failed``.
    """
    ctx.paths.reserve.unlink(missing_ok=True)
    for release, size in plan.drop.items():
        ctx.confirm()
        ctx.note(f"removing release {release}")
        pin_of(ctx, release).unlink(missing_ok=True)
        _remove(ctx.paths.release(release), size)
    for unused in (*plan.files, *plan.packages):
        ctx.confirm()
        _remove(unused.path, unused.size)
    built = [package.hash for package in plan.packages if package.hash]
    if built:
        ctx.confirm()
        ctx.note(f"removing {len(built)} packages from Spack's database")
        open_spack(ctx, ctx.targets[0]).uninstall(built)
    keep_reserve(ctx)


def _remove(path: Path, size: int) -> None:
    """Removes a file or directory. A directory gets a hidden name next to it first, so that none is in use half."""
    gone = path
    if path.is_dir() and not path.name.startswith("."):
        gone = path.with_name(f".{path.name}{GONE}")
        remove_tree(gone)
        move_aside(path, gone)
    remove_tree(gone)
    LOG.info("removed %s, %d bytes", path, size, extra={"step": "gc"})
