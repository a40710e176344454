"""Partial installs, and packages whose files are missing or were changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ..config.model import PackageConfig
from ..core.deadlines import BULK, SCAN
from ..core.errors import SpackError, StateError
from ..core.model import Finding, Severity, blocked, change, elsewhere, satisfied
from ..core.text import at_most
from ..host.atomic import move_aside
from ..host.files import read_json, remove_tree
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
LIMIT = 1 << 28
YES = "petal-node repair --yes    (installs it again: changes are lost; a Spack package is missing until that succeeds)"


@dataclass(frozen=True)
class DamagedPackage:
    """A package with the differences from its inventory. ``package`` is None for a package of Spack's."""

    name: str
    prefix: Path
    differences: tuple[Difference, ...]
    package: PackageConfig | None = None

    @property
    def was_changed(self) -> bool:
        """True if a file has other contents, which may be intended; False if files are only missing or empty."""
        return not all(one.lost for one in self.differences)

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
        damaged = _find(ctx, _damaged_tarballs)
        incomplete = [package for package in damaged if not package.was_changed]
        if not incomplete:
            return satisfied("binary packages have all their files")
        return change(_summary(incomplete), *(f"unpack {package.name} again" for package in incomplete[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for damaged in list(_damaged_tarballs(ctx)):
            if damaged.package is not None and not damaged.was_changed:
                install(ctx, damaged.package)


class ChangedFiles(StoreRepair):
    """No file of a package was changed, and no file of a Spack package is missing.

    The changes may be intended, so a package is installed again only with ``--yes``. A Spack package is removed; the
    step ``spack``, which follows, installs it like any other missing one.
    """

    name = "package-files-changed"

    def probe(self, ctx: Context) -> Finding:
        damaged = _find(ctx, _changed_packages)
        if not damaged:
            return satisfied("all packages are as they were installed")
        if ctx.options.yes:
            return change(_summary(damaged), *(f"install {package.name} again" for package in damaged[:SHOWN]))
        return blocked(_summary(damaged), *(f"ls -l {one.differences[0].path}" for one in damaged[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        for damaged in list(_changed_packages(ctx)) if ctx.options.yes else ():
            if damaged.package is not None:
                install(ctx, damaged.package)
                continue
            prefix = damaged.prefix
            garbage = prefix.with_name(f".{prefix.name}.garbage")  # ``database.compare`` finds it after a kill
            ctx.confirm()
            move_aside(prefix, garbage)
            remove_tree(garbage)


def _find(ctx: Context, find: Callable[[Context], Iterator[DamagedPackage]]) -> list[DamagedPackage]:
    return ctx.system.on_storage(lambda: list(find(ctx)), ctx.paths.store, BULK if ctx.options.deep else SCAN)


def _summary(damaged: list[DamagedPackage]) -> str:
    return "; ".join(at_most(1, damaged, " packages"))


def _changed_packages(ctx: Context) -> Iterator[DamagedPackage]:
    """Packages of the desired release only: those of older releases cannot be installed again."""
    yield from (package for package in _damaged_tarballs(ctx) if package.was_changed)
    if not ctx.config.uses_spack or database.database_problem(store_of(ctx)):
        return
    installed = database.installed(store_of(ctx))
    for spec in release_specs(ctx):
        prefix = installed.get(spec.hash)
        if spec.external or prefix is None or not database.is_whole(prefix):
            continue  # the step ``spack`` finds and installs missing packages
        try:
            found = database.damage(prefix, every_byte=ctx.options.deep)
        except StateError:
            found = (Difference(str(prefix / database.MANIFEST), "cannot be read", lost=True),)
        if found:
            yield DamagedPackage(f"{spec.name}@{spec.version}", prefix, found)


def _damaged_tarballs(ctx: Context) -> Iterator[DamagedPackage]:
    for package in (package for package in ctx.config.packages if package.origin is not None):
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        try:
            entries = read_json(prefix / FILES, limit=LIMIT) or {}
            found = tuple(differences(entries, contents=True, every_byte=ctx.options.deep))
        except StateError:
            found = (Difference(str(prefix / FILES), "cannot be read", lost=True),)
        if found:
            yield DamagedPackage(f"{package.name} {package.version}", prefix, found, package)
