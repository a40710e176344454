"""A release: its id, its manifest and the location of its parts.

The id is a hash of the inputs of a release, so that a run computes it in milliseconds, without a solve: the normalized
stack, the checksums of Spack and recipes, operating system, glibc, targets, module templates and the format.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cluster import targets
from ..cluster.targets import BuildTargets
from ..config.model import Config, PackageConfig
from ..core.decode import Name, RelativePath
from ..core.errors import ConfigError
from ..core.facts import Host, Queue
from ..core.model import plain
from ..core.paths import Paths
from .store import read_as, write_document

RELEASE_FORMAT = 2
INDEX = "modules.json"
RECEIPT = ".petal/package.json"  # in the prefix of a binary package
ID_LENGTH = 12


@dataclass(frozen=True)
class ModuleFile:
    """One module of a release.

    ``path`` is relative to the module tree, ``origin`` is package, spack or site, ``sha256`` is that of the file as
    petal-node writes it; empty for a module that the site added.
    """

    name: str
    path: RelativePath
    origin: str
    sha256: str = ""


@dataclass(frozen=True)
class Tree:
    """The modules of one CPU target, in ``modules/<name>`` of the release."""

    name: Name
    target: Name
    modules: tuple[ModuleFile, ...]


@dataclass(frozen=True)
class ModuleIndex:
    """The complete module trees of a release, and the packages that were missing when they were written."""

    trees: tuple[Tree, ...]
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """Describes a complete release. A release without this file is incomplete.

    ``specs`` is empty if Spack built nothing; the targets of the trees then have no meaning. ``missing``: packages of
    the lockfile that the release was published without (``install.partial``).
    """

    release: Name
    created: str
    os: str
    glibc: str
    specs: tuple[str, ...]
    trees: tuple[Tree, ...]
    missing: tuple[str, ...] = ()

    def tree_for(self, cpu: str) -> Tree | None:
        """The best tree for a CPU; None if the CPU runs none of them."""
        target = targets.best(cpu, (tree.target for tree in self.trees))
        return next((tree for tree in self.trees if tree.target == target), None)

    def core_modules(self, cpu: str) -> tuple[str, ...]:
        """The modules in Core of the tree for a CPU; of the first tree if the CPU runs none."""
        tree = self.tree_for(cpu) or (self.trees[0] if self.trees else None)
        return tuple(module.name for module in tree.modules if module.path.startswith("Core/")) if tree else ()


def build_targets_of(config: Config, queues: Sequence[Queue], machine: str) -> BuildTargets:
    """The CPU targets of a release: those of the configuration, else what the queues have in common.

    If Spack builds nothing, the target is the architecture.

    Raises:
        ConfigError: ``target-mixed``.
    """
    if not config.uses_spack:
        return BuildTargets((machine,))
    return targets.build_targets(config.spack.targets, queues, machine)


def check_queue(config: Config, queues: Sequence[Queue]) -> None:
    """Refuses an ``install.queue`` that the cluster does not have. Accepts any if the queues are unknown.

    Raises:
        ConfigError: ``job-queue``.
    """
    wanted, names = config.install.queue, [queue.name for queue in queues]
    if config.install.where != "slurm" or not config.uses_spack or not names or wanted in names:
        return
    raise ConfigError(
        f"install.queue {wanted} is not a queue of this cluster",
        why=f"it has {', '.join(names)}",
        remedy=f"install: {{where: slurm, queue: {names[0]}}} in the configuration",
        code="job-queue",
    )


def tree_name(host: Host, target: str) -> str:
    """The directory of a release's modules for one system: ``debian12-x86_64_v3``."""
    return f"{host.os}-{target}"


def release_id(
    config: Config,
    host: Host,
    environment: Mapping[str, Any],
    templates: str,
    build_targets: BuildTargets | None = None,
) -> str:
    """The id of the release of this configuration on this system.

    Args:
        environment: the stack's own environment (the content of its spack.yaml), empty without one.
        templates: the digest of the module templates.
        build_targets: the targets; by default those of ``build_targets_of`` for a cluster without queues.
    """
    build_targets = build_targets or build_targets_of(config, (), host.machine)
    spack = config.spack
    parts = {
        "format": RELEASE_FORMAT,
        "os": host.os,
        "glibc": host.glibc,
        "targets": build_targets.targets,
        "templates": templates,
        "packages": sorted(
            (plain(package) for package in config.packages), key=lambda item: (item["name"], item["version"])
        ),
    }
    modules = config.modules
    if modules.defaults or modules.hide:
        parts["modules"] = {"defaults": modules.defaults, "hide": sorted(modules.hide)}
    if config.uses_spack:
        parts["spack"] = {
            "environment": environment,
            "specs": sorted(config.specs),
            "version": spack.version,
            "source": _identity(spack.origin),
            "recipes": _identity(spack.recipes),
            "cuda": build_targets.cuda,
        }
    return _short_hash(parts)


def package_prefix(package: PackageConfig, paths: Paths, host: Host) -> Path:
    """The directory of a binary package: its own prefix, or one in the store that is named as Spack names them."""
    if package.prefix is not None:
        return paths.at(package.prefix)
    system = f"linux-{host.os}-{host.machine}"
    parts = {"name": package.name, "version": package.version, "sha256": _identity(package.origin)}
    return paths.store / system / f"{package.name}-{package.version}-{_short_hash(parts)[:7]}"


def _identity(origin: Any) -> Any:
    return None if origin is None else (origin.sha256 or origin.source)


def _short_hash(parts: Any) -> str:
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def read_manifest(paths: Paths, release: str) -> Manifest | None:
    """The manifest of a release, or None if the release is incomplete.

    Raises:
        StateError: the manifest is damaged.
    """
    return read_as(paths.manifest(release), Manifest)


def read_index(paths: Paths, release: str) -> ModuleIndex | None:
    """The module trees of a release, or None until all are written.

    Raises:
        StateError: the index is damaged.
    """
    return read_as(paths.release(release) / INDEX, ModuleIndex)


def write_index(paths: Paths, release: str, index: ModuleIndex) -> None:
    """Records that the module trees are complete."""
    write_document(paths.release(release) / INDEX, plain(index))


def write_manifest(paths: Paths, manifest: Manifest) -> None:
    """Completes a release. Call it after everything else is written."""
    write_document(paths.manifest(manifest.release), plain(manifest))


def current_release(paths: Paths) -> str | None:
    """The id of the release that ``current`` points to, or None."""
    return current_in(paths.root)


def current_in(root: Path) -> str | None:
    """The same for a directory that will back the root and is not mounted there yet."""
    try:
        return (root / "current").readlink().name
    except OSError:
        return None
