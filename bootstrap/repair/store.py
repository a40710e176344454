"""Partial installs, and packages whose files are missing or were changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..config.model import PackageConfig
from ..core.deadlines import BULK, SCAN
from ..core.errors import StateError
from ..core.model import Finding, Severity, blocked, change, elsewhere, satisfied
from ..core.text import at_most, not_reached, quoted
from ..host.atomic import move_aside
from ..host.files import READERS, read_json, remove_tree
from ..host.inventory import Difference, differences
from ..host.log import LOG
from ..host.threads import results
from ..spack import database
from ..spack.workspace import release_specs, store_of
from ..state.context import Context
from ..state.release import package_prefix
from ..state.store import ClusterState
from ..steps.base import ClusterStep, Run, Step
from ..steps.packages import FILES, install
from ..steps.root import WAY_TO_STORAGE, Root
from ..steps.storage import StorageOwner

SHOWN = 5
BUDGET = 200.0  # seconds for the names, sizes and times of all files
LIMIT = 1 << 28
YES = "petal-node repair --yes    # installs it again: changes are lost; a Spack package is missing until that succeeds"


@dataclass(frozen=True)
class InstalledPackage:
    """A package with the differences from its inventory. ``package`` is None for a package of Spack's."""

    name: str
    prefix: Path
    package: PackageConfig | None = None
    differences: tuple[Difference, ...] = ()

    @property
    def has_only_lost(self) -> bool:
        """True if files are only missing or empty, so that an install loses no change of an administrator.

        For a Spack package, which is removed first, one must be empty: a power cut leaves that.
        """
        is_enough = self.package is not None or any(one.empty for one in self.differences)
        return is_enough and all(one.lost for one in self.differences)

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(at_most(1, self.differences, ' files'))}"


class StoreRepair(ClusterStep):
    """A step that compares the whole store with its inventories."""

    needs: ClassVar[tuple[type[Step], ...]] = (Root, StorageOwner)
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    in_image = True
    after = WAY_TO_STORAGE
    seconds = 300


class PartialInstalls(StoreRepair):
    """The store has no package whose install began and did not finish."""

    name = "partial-installs"
    severity = Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack:
            return elsewhere("the configuration has no Spack stack")
        partial = ctx.system.on_storage(lambda: _partial_installs(ctx), ctx.paths.store, SCAN)
        if partial is None:
            return elsewhere("Spack's database cannot be read, or an install is in progress")
        if not partial:
            return satisfied("the store has no partial installs")
        names = ", ".join(at_most(SHOWN, [path.name for path in partial]))
        reason = f"{len(partial)} interrupted installs left files in the store: {names}"
        return change(reason, *(f"remove {path}" for path in partial[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for path in _partial_installs(ctx) or ():
            LOG.warning("removing %s", path, extra={"step": self.name})
            remove_tree(path)


def _partial_installs(ctx: Context) -> list[Path] | None:
    """None without a readable database, because then the whole store would look partial, and during an install."""
    store = store_of(ctx)
    if database.database_problem(store):
        return None
    running = ClusterState(ctx.paths).install()
    if running is not None and running.finished is None and running.run_id != ctx.run_id:
        return None
    return database.compare(store).unfinished


class PackageFiles(StoreRepair):
    """All files of packages are as they were installed.

    A changed package is installed again only with ``--yes``, because the changes may be intended; one that has only
    lost files, at once. A Spack package is removed: the step ``spack``, which follows, installs it like any other
    missing one.
    """

    name = "package-files"

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack and not any(package.origin for package in ctx.config.packages):
            return elsewhere("the configuration has no packages that petal-node installs")
        seconds, deadline = (BULK, BULK) if ctx.options.deep else (BUDGET, SCAN)
        damaged, late = ctx.system.on_storage(lambda: _damaged(ctx, seconds), ctx.paths.store, deadline)
        rest = not_reached(late, " packages", seconds)
        if not damaged:
            return satisfied(f"all packages are as they were installed{rest}")
        again = [one for one in damaged if ctx.options.yes or one.has_only_lost]
        kept = [one for one in damaged if one not in again]
        remedy = (*(f"ls -l {quoted(one.differences[0].path)}" for one in kept[:SHOWN]), *((YES,) if kept else ()))
        changes = tuple(f"install {one.name} again" for one in again[:SHOWN])
        message = "; ".join(at_most(1, [*kept, *again], " packages")) + rest
        return replace(blocked(message, *remedy), changes=changes)

    def apply(self, ctx: Context) -> None:
        for damaged in _damaged(ctx, BULK)[0]:
            if not (ctx.options.yes or damaged.has_only_lost):
                continue
            if damaged.package is not None:
                install(ctx, damaged.package)
                continue
            prefix = damaged.prefix
            garbage = prefix.with_name(f".{prefix.name}.garbage")  # ``database.compare`` finds it after a kill
            ctx.confirm()
            move_aside(prefix, garbage)
            remove_tree(garbage)


def _damaged(ctx: Context, seconds: float) -> tuple[list[InstalledPackage], list[str]]:
    """The packages with differences, read in parallel, and the names of those that were not reached."""
    deadline = time.monotonic() + seconds

    def look(package: InstalledPackage) -> InstalledPackage | None:
        if time.monotonic() > deadline:
            return None
        return replace(package, differences=_differences(ctx, package))

    packages = list(_packages(ctx))
    with ThreadPoolExecutor(READERS) as pool:
        looked = list(results(pool, look, packages))
    late = [package.name for package, found in zip(packages, looked) if found is None]
    return [found for found in looked if found and found.differences], late


def _packages(ctx: Context) -> Iterator[InstalledPackage]:
    """Packages of the desired release only: those of older releases cannot be installed again."""
    for package in (package for package in ctx.config.packages if package.origin is not None):
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        yield InstalledPackage(f"{package.name} {package.version}", prefix, package)
    if not ctx.config.uses_spack:
        return
    specs = [spec for spec in release_specs(ctx) if not spec.external]
    prefixes = database.prefixes_of(specs, store_of(ctx))
    for spec in specs:
        if spec.hash in prefixes:
            yield InstalledPackage(f"{spec.name}@{spec.version}", prefixes[spec.hash])


def _differences(ctx: Context, one: InstalledPackage) -> tuple[Difference, ...]:
    inventory, deep = one.prefix / (FILES if one.package else database.MANIFEST), ctx.options.deep
    try:
        if one.package is not None:
            entries = read_json(inventory, limit=LIMIT)
            if entries is None:  # the package is gone, or its files are not known
                return (Difference(str(inventory), "is missing", lost=True),)
            return tuple(differences(entries, contents=True, every_byte=deep))
        # The step ``spack`` finds and installs missing packages.
        return database.damage(one.prefix, every_byte=deep) if database.is_whole(one.prefix) else ()
    except StateError:
        return (Difference(str(inventory), "cannot be read", lost=True),)
