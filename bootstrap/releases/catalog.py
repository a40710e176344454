"""The releases below ``releases/``: when each was current, and which packages each needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..cluster.targets import machine_of
from ..config.load import from_mapping
from ..core.errors import ConfigError, StateError, from_error
from ..host.log import LOG
from ..spack import database
from ..spack.families import FAMILIES
from ..spack.lockfile import Locked, locked_specs, lockfile_name, restoring
from ..state.context import Context
from ..state.desired import DesiredState, Published
from ..state.release import Manifest, current_release, package_prefix, read_manifest
from ..state.store import ClusterState, desired_state_of

LOCKFILES = "spack*.lock"


@dataclass(frozen=True)
class ReleaseInfo:
    """One directory of ``releases/``.

    Args:
        manifest: None if the release is incomplete, or if the manifest cannot be read.
        desired: the desired state that made the release; None if the release does not hold it.
        problem: why a document of the release cannot be read, or an empty string.
        published: when the release last became current; None if that is not recorded.
        locked: the specs of its lockfiles; None if a document of the release cannot be read.
    """

    name: str
    manifest: Manifest | None
    desired: DesiredState | None
    problem: str
    published: str | None
    locked: tuple[Locked, ...] | None = ()

    @property
    def time(self) -> str:
        """When the release last became current, else when it was made."""
        return self.published or (self.manifest.created if self.manifest else "")


def all_releases(ctx: Context) -> tuple[ReleaseInfo, ...]:
    """All releases: first those that were current, the last one first; then the others, the newest first.

    If the record of published releases cannot be read, none counts as published.
    """
    entries: tuple[Published, ...] = ()
    try:
        entries = history(ctx)
    except StateError as error:
        LOG.warning("%s", error)
    releases = []
    times = {entry.release: entry.time for entry in entries}
    order = {entry.release: number for number, entry in enumerate(entries)}
    for path in (path for path in ctx.paths.releases.glob("[!.]*") if path.is_dir()):
        manifest, desired, locked, problem = None, None, None, ""
        try:
            manifest = read_manifest(ctx.paths, path.name)
            if manifest is not None and manifest.release != path.name:  # a copy of a release
                continue
            locked = _locked(path, manifest)
            desired = desired_state_of(ctx.paths, path.name)
            if desired is not None:
                from_mapping(desired.config, f"the configuration of release {path.name}")
        except (ConfigError, StateError, OSError) as error:
            problem, desired = str(from_error(error, ctx.paths.shared_mount)), None
        releases.append(ReleaseInfo(path.name, manifest, desired, problem, times.get(path.name), locked))
    return tuple(sorted(releases, key=lambda info: (order.get(info.name, -1), info.time, info.name), reverse=True))


def _locked(directory: Path, manifest: Manifest | None) -> tuple[Locked, ...]:
    """The specs of a release. One that Spack built has a lockfile for each tree, an incomplete one those made so far.

    Raises:
        StateError: a lockfile is missing or damaged.
    """
    files = set(directory.glob(LOCKFILES))
    if manifest is not None and manifest.specs:
        files |= {directory / lockfile_name(tree.target, len(manifest.trees)) for tree in manifest.trees}
    missing = sorted(file for file in files if not file.is_file())
    if missing:
        why = "the packages that the release needs are unknown"
        raise StateError(f"{missing[0]} is missing", why=why, remedy=restoring(missing[0]))
    return tuple(spec for file in sorted(files) for spec in locked_specs(file))


def history(ctx: Context) -> tuple[Published, ...]:
    """The releases that ``current`` has pointed to, the last one last. A machine image has no history.

    Raises:
        StateError: the record cannot be read.
    """
    return ClusterState(ctx.paths).published() if ctx.publishes_to_cluster else ()


def previous_release(ctx: Context, releases: Sequence[ReleaseInfo]) -> str | None:
    """The one of all releases that was current before the present one; None if no complete release is recorded.

    Raises:
        StateError: the record of published releases cannot be read.
    """
    current = current_release(ctx.paths)
    complete = {info.name for info in releases if info.manifest is not None}
    names = (entry.release for entry in reversed(history(ctx)))
    return next((name for name in names if name != current and name in complete), None)


def installed_packages(ctx: Context) -> dict[str, Path]:
    """The prefixes of the packages in all stores of Spack, by hash.

    Raises:
        SpackError: a database cannot be read.
    """
    return {digest: prefix for store in stores(ctx) for digest, prefix in database.installed(store).items()}


def needs(ctx: Context, release: ReleaseInfo, installed: Mapping[str, Path]) -> dict[str, Path]:
    """The prefixes of the packages that a release needs, by Spack's hash; those of binary packages by themselves.

    A package that Spack's database lacks has the prefix ``store/name-version``, which never exists. The release may
    have been made on another operating system than this node's.

    Args:
        installed: the result of ``installed_packages``.
    """
    host, manifest, prefixes = ctx.facts.host, release.manifest, {}
    if manifest is not None:
        machine = machine_of(manifest.trees[0].target) if manifest.trees else host.machine
        host = replace(host, os=manifest.os, machine=machine)
    for spec in release.locked or ():
        if not spec.external:
            prefixes[spec.hash] = installed.get(spec.hash, ctx.paths.store / f"{spec.name}-{spec.version}")
    for package in from_mapping(release.desired.config, release.name).packages if release.desired else ():
        if package.origin:
            prefix = package_prefix(package, ctx.paths, host)
            prefixes[str(prefix)] = prefix
    return prefixes


def stores(ctx: Context) -> Iterator[Path]:
    """The stores that have a database."""
    places = dict.fromkeys(ctx.paths.root / family.store for family in FAMILIES.values())
    return (store for store in places if database.index_of(store).is_file())
