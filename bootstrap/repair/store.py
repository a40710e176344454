"""Partial installs, and packages whose files are missing or were changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from ..config.model import PackageConfig
from ..core.deadlines import BULK, SCAN
from ..core.errors import SpackError, StateError
from ..core.model import Finding, Severity, blocked, change, elsewhere, satisfied
from ..core.text import at_most, not_reached
from ..host.atomic import move_aside
from ..host.files import READERS, read_json, remove_tree
from ..host.inventory import Difference, differences
from ..host.log import LOG
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
    def was_changed(self) -> bool:
        """True if a file has other contents, which may be intended; False if files are only missing or empty."""
        return not all(one.lost for one in self.differences)

    @property
    def was_cut(self) -> bool:
        """True if files are empty and none was changed: a power cut leaves that, not an administrator."""
        return not self.was_changed and any(one.empty for one in self.differences)

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
        try:
            partial = ctx.system.on_storage(lambda: _partial_installs(ctx), ctx.paths.store, SCAN)
        except SpackError:
            return elsewhere("Spack's database cannot be read")  # the step ``spack`` reports and restores it
        if not partial:
            return satisfied("the store has no partial installs")
        names = ", ".join(at_most(SHOWN, [path.name for path in partial]))
        reason = f"{len(partial)} interrupted installs left files in the store: {names}"
        return change(reason, *(f"remove {path}" for path in partial[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for path in _partial_installs(ctx):
            LOG.warning("removing %s", path, extra={"step": self.name})
            remove_tree(path)


def _partial_installs(ctx: Context) -> list[Path]:
    """Empty without a readable database, because then the whole store would look partial, and during an install."""
    store = store_of(ctx)
    if database.database_problem(store):
        return []
    running = ClusterState(ctx.paths).install()
    if running is not None and running.finished is None and running.run_id != ctx.run_id:
        return []
    return database.compare(store).unfinished


class MissingFiles(StoreRepair):
    """Binary packages have all their files. A repair needs no ``--yes``: unpacking the tarball again loses nothing."""

    name = "package-files-missing"

    def probe(self, ctx: Context) -> Finding:
        if not any(package.origin for package in ctx.config.packages):
            return elsewhere("the configuration has no tarballs")
        damaged, rest = _find(ctx, _tarballs)
        incomplete = [package for package in damaged if not package.was_changed]
        if not incomplete:
            return satisfied(f"binary packages have all their files{rest}")
        return change(_summary(incomplete) + rest, *(f"unpack {package.name} again" for package in incomplete[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for damaged in _damaged(ctx, _tarballs(ctx), BULK)[0]:
            if damaged.package is not None and not damaged.was_changed:
                install(ctx, damaged.package)


class ChangedFiles(StoreRepair):
    """No file of a package was changed, and no file of a Spack package is missing.

    The changes may be intended, so a package is installed again only with ``--yes``, unless all damaged packages have
    only lost the content of files. A Spack package is removed; the step ``spack``, which follows, installs it like any
    other missing one.
    """

    name = "package-files-changed"

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.uses_spack and not any(package.origin for package in ctx.config.packages):
            return elsewhere("the configuration has no packages that petal-node installs")
        damaged, rest = _find(ctx, _packages)
        damaged = [one for one in damaged if self._is_changed(one)]
        if not damaged:
            return satisfied(f"all packages are as they were installed{rest}")
        summary = _summary(damaged) + rest
        if ctx.options.yes or all(one.was_cut for one in damaged):
            return change(summary, *(f"install {package.name} again" for package in damaged[:SHOWN]))
        return blocked(summary, *(f"ls -l {one.differences[0].path}" for one in damaged[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        for damaged in filter(self._is_changed, _damaged(ctx, _packages(ctx), BULK)[0]):
            if not (ctx.options.yes or damaged.was_cut):
                continue
            if damaged.package is not None:
                install(ctx, damaged.package)
                continue
            prefix = damaged.prefix
            garbage = prefix.with_name(f".{prefix.name}.garbage")  # ``database.compare`` finds it after a kill
            ctx.confirm()
            move_aside(prefix, garbage)
            remove_tree(garbage)

    @staticmethod
    def _is_changed(package: InstalledPackage) -> bool:
        """Missing files of a binary package are found and written again by ``package-files-missing``."""
        return package.package is None or package.was_changed


def _find(
    ctx: Context, packages: Callable[[Context], Iterator[InstalledPackage]]
) -> tuple[list[InstalledPackage], str]:
    seconds, deadline = (BULK, BULK) if ctx.options.deep else (BUDGET, SCAN)
    return ctx.system.on_storage(lambda: _damaged(ctx, packages(ctx), seconds), ctx.paths.store, deadline)


def _damaged(ctx: Context, packages: Iterable[InstalledPackage], seconds: float) -> tuple[list[InstalledPackage], str]:
    """The packages with differences, read in parallel; and which ones were not reached, for the end of a sentence."""
    deadline = time.monotonic() + seconds

    def look(package: InstalledPackage) -> InstalledPackage | None:
        if time.monotonic() > deadline:
            return None
        return replace(package, differences=_differences(ctx, package))

    packages = list(packages)
    with ThreadPoolExecutor(READERS) as pool:
        looked = list(pool.map(look, packages))
    late = [package.name for package, found in zip(packages, looked) if found is None]
    return [found for found in looked if found and found.differences], not_reached(late, " packages", seconds)


def _summary(damaged: list[InstalledPackage]) -> str:
    return "; ".join(at_most(1, damaged, " packages"))


def _packages(ctx: Context) -> Iterator[InstalledPackage]:
    """Packages of the desired release only: those of older releases cannot be installed again."""
    yield from _tarballs(ctx)
    if not ctx.config.uses_spack or database.database_problem(store_of(ctx)):
        return
    installed = database.installed(store_of(ctx))
    for spec in release_specs(ctx):
        prefix = installed.get(spec.hash)
        if not spec.external and prefix is not None:
            yield InstalledPackage(f"{spec.name}@{spec.version}", prefix)


def _tarballs(ctx: Context) -> Iterator[InstalledPackage]:
    for package in (package for package in ctx.config.packages if package.origin is not None):
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        yield InstalledPackage(f"{package.name} {package.version}", prefix, package)


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
