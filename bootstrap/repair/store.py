"""Packages that are not as they were installed, and what installs have left half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import PetalError, SpackError, StateError, as_error
from ..core.model import Probe, Scope, blocked, change, elsewhere, refused, satisfied
from ..host.files import read_json, remove_tree
from ..host.inventory import Difference, differences
from ..host.log import LOG
from ..spack import database, recovery
from ..spack.stack import build
from ..spack.workspace import release_specs, store_of
from ..state.context import Context
from ..state.release import package_prefix
from ..state.store import Shared
from ..steps.base import HEAD
from ..steps.packages import FILES, install

SECONDS = 300.0
DEEP_SECONDS = 7200.0  # 50 GiB from a busy disk
SHOWN = 5
ASIDE = "damaged"
METADATA, HIDDEN = ".spack", ".spack-aside"
LIMIT = 1 << 28
YES = (
    "petal-node repair --yes    (installs it again: what was changed in it is lost, and nobody has it while it builds)"
)


@dataclass(frozen=True)
class Found:
    """A package, and what of it is not as it was."""

    name: str
    prefix: Path
    found: tuple[Difference, ...]

    @property
    def was_edited(self) -> bool:
        """Somebody may have meant it."""
        return not all(one.lost for one in self.found)

    def __str__(self) -> str:
        more = f", and {len(self.found) - 1} more" if self.found[1:] else ""
        return f"{self.name}: {self.found[0]}{more}"


class Leftovers:
    """No package lies in the store whose install was begun and not finished."""

    name = "leftovers"
    title = "no install left a package half done"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("root", "owner")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.config.builds:
            return elsewhere("the configuration asks for no Spack stack")
        try:
            left = ctx.system.on_storage(lambda: _half_done(ctx), ctx.paths.store, SECONDS)
        except SpackError:
            return elsewhere("Spack's database cannot be read")  # ``spack`` tells it, and brings it back
        except (PetalError, OSError) as error:
            return refused(as_error(error, ctx.paths.shared_mount))
        if not left:
            return satisfied("no install left a package half done")
        names = ", ".join(path.name for path in left[:SHOWN]) + (
            f" and {len(left) - SHOWN} more" if left[SHOWN:] else ""
        )
        return change(f"{len(left)} packages are half done: {names}", *(f"remove {path}" for path in left[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for path in _half_done(ctx):
            if path.name.endswith(f".{ASIDE}"):
                _bring_back_or_remove(path)
                continue
            LOG.warning("removing %s", path, extra={"step": self.name})
            remove_tree(path)


def _half_done(ctx: Context) -> list[Path]:
    """Nothing is half done where nothing is recorded: without its database a whole store would look so."""
    store = store_of(ctx)
    if recovery.trouble(store) or _is_building(ctx):
        return []
    return sorted([*recovery.look(store).partial, *recovery.left(store), *store.glob(f"[!.]*/.*.{ASIDE}")])


def _is_building(ctx: Context) -> bool:
    """A check looks without the lock, while an install may go on."""
    install = Shared(ctx.paths).install()
    return install is not None and install.finished is None and install.run_id != ctx.run_id


class Intact:
    """No file of a binary package is lost. Its tarball is here in a moment, so nobody is asked."""

    name = "intact"
    title = "no file of a binary package is lost"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("root", "owner")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        damaged = _look(ctx, _binary)
        if isinstance(damaged, Probe):
            return damaged
        lost = [one for one in damaged if not one.was_edited]
        if lost:
            return change(_told(lost), *(f"unpack {one.name} again" for one in lost[:SHOWN]))
        return satisfied("no file of a binary package is lost")

    def apply(self, ctx: Context) -> None:
        _unpack_again(ctx, {one.prefix for one in _binary(ctx) if not one.was_edited})


class Damaged:
    """No file of a package was changed, and none of a Spack package is lost.

    To install such a package again overwrites what somebody may have meant, or takes it away for as long as it builds.
    """

    name = "damaged"
    title = "the packages are as they were installed"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("root", "owner")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        damaged = _look(ctx, _doubtful)
        if isinstance(damaged, Probe):
            return damaged
        if not damaged:
            return satisfied("the packages are as they were installed")
        if ctx.may_destroy:
            return change(_told(damaged), *(f"install {one.name} again" for one in damaged[:SHOWN]))
        return blocked(_told(damaged), *(f"ls -l {one.found[0].path}" for one in damaged[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        if not ctx.may_destroy:
            return
        prefixes = {one.prefix for one in _doubtful(ctx)}
        _unpack_again(ctx, prefixes)
        of_spack = [prefix for prefix in prefixes if (prefix / database.MANIFEST).exists()]
        _build_again(ctx, of_spack)


def _look(ctx: Context, find: Callable[[Context], Iterator[Found]]) -> list[Found] | Probe:
    """What is damaged, or why that cannot be told."""
    seconds = DEEP_SECONDS if ctx.every_byte else SECONDS
    try:
        return ctx.system.on_storage(lambda: list(find(ctx)), ctx.paths.store, seconds)
    except (PetalError, OSError) as error:
        return refused(as_error(error, ctx.paths.shared_mount))


def _told(damaged: list[Found]) -> str:
    return f"{damaged[0]}{f'; and {len(damaged) - 1} more packages' if damaged[1:] else ''}"


def _unpack_again(ctx: Context, prefixes: set[Path]) -> None:
    for package in ctx.config.packages:
        if package.origin is not None and package_prefix(package, ctx.paths, ctx.facts.host) in prefixes:
            ctx.note(f"package {package.name} {package.version}")
            install(ctx, package)


def _doubtful(ctx: Context) -> Iterator[Found]:
    """What this release has and nobody else's: older releases hold packages that nothing here can build again."""
    yield from (one for one in _binary(ctx) if one.was_edited)
    if ctx.config.builds and not recovery.trouble(store_of(ctx)):
        yield from _of_spack(ctx)


def _binary(ctx: Context) -> Iterator[Found]:
    """One that an earlier petal-node unpacked has no inventory, and is what its receipt says."""
    for package in ctx.config.packages:
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        if package.origin is None:
            continue
        try:
            entries = read_json(prefix / FILES, limit=LIMIT) or {}
            found = tuple(differences(entries, contents=True, every_byte=ctx.every_byte))
        except StateError:
            found = (Difference(str(prefix / FILES), "cannot be read", lost=True),)
        if found:
            yield Found(f"{package.name} {package.version}", prefix, found)


def _of_spack(ctx: Context) -> Iterator[Found]:
    installed = database.installed(store_of(ctx))
    for spec in release_specs(ctx):
        prefix = installed.get(spec.hash)
        if spec.external or prefix is None or not database.is_whole(prefix):
            continue  # ``spack`` finds what is missing
        try:
            found = database.damage(prefix, every_byte=ctx.every_byte)
        except StateError:
            found = (Difference(str(prefix / database.MANIFEST), "cannot be read", lost=True),)
        if found:
            yield Found(f"{spec.name}@{spec.version}", prefix, found)


def _build_again(ctx: Context, prefixes: list[Path]) -> None:
    """Each prefix is moved aside first, and comes back where the new one does not come to its end."""
    aside = {prefix: _aside(prefix) for prefix in prefixes}
    if not aside:
        return
    try:
        for prefix, place in aside.items():
            remove_tree(place)
            prefix.rename(place)
            (place / METADATA).rename(place / HIDDEN)  # by which a reindex would call it installed there
        build(ctx, _raise)
    finally:
        for place in aside.values():
            _bring_back_or_remove(place)


def _bring_back_or_remove(aside: Path) -> None:
    """What is damaged is better than nothing; it is marked, since Spack's database does not know it any more."""
    prefix = _original(aside)
    if not aside.is_dir():
        return
    if database.is_whole(prefix):
        remove_tree(aside)
        return
    remove_tree(prefix)
    if (aside / HIDDEN).is_dir():
        (aside / HIDDEN).rename(aside / METADATA)
    aside.rename(prefix)
    (prefix / database.KEPT).write_text("it was damaged, and could not be installed again\n", encoding="utf-8")


def _aside(prefix: Path) -> Path:
    return prefix.with_name(f".{prefix.name}.{ASIDE}")


def _raise(error: SpackError) -> None:
    raise error


def _original(aside: Path) -> Path:
    return aside.with_name(aside.name[1 : -len(f".{ASIDE}")])
