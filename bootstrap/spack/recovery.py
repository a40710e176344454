"""Makes a store and its database agree again after a kill, a full disk or a mistake.

Spack trusts its index alone (run with 0.23.0 and 1.1.1). If the index is missing, Spack begins an empty one, and the
next install removes and rebuilds everything in the store; if it is truncated, every command fails. ``spack reindex``
counts every prefix with ``.spack/spec.json`` as installed, and Spack writes that file first. So under the lock, before
Spack runs, unfinished prefixes are removed, a lost index is restored from its newest copy, and only if index and store
still differ does Spack rebuild the index.
"""

from __future__ import annotations

import time
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SpackError
from ..host.atomic import write_atomic
from ..host.files import make_dir, remove_tree
from ..host.log import LOG
from . import database
from .driver import Spack

COPIES = ".petal-db"  # in the store, next to Spack's .spack-db
KEPT = 3
DAMAGED = "damaged.json"
SHOWN = 6
# Prefixes that Spack 1.1's other installer moves aside (lib/spack/spack/new_installer.py), and interrupted writes.
LEFT = ("[!.]*/.*.old", "[!.]*/.*.garbage", ".spack-db/index.json.*.temp")


@dataclass(frozen=True)
class Condition:
    """The prefixes of a store.

    Args:
        partial: Spack began to build or unpack these, and did not finish.
        whole: completely installed.
        recorded: installed according to the index.
    """

    partial: frozenset[Path]
    whole: frozenset[Path]
    recorded: frozenset[Path]

    @property
    def agrees(self) -> bool:
        """True if the index is right."""
        return self.whole == self.recorded


def look(store: Path) -> Condition:
    """Reads the store and its index.

    Raises:
        SpackError: ``spack-database``.
    """
    found = frozenset(_prefixes(store))
    recorded = frozenset(prefix for prefix in database.installed(store).values() if store in prefix.parents)
    ended = (prefix for prefix in found if database.is_whole(prefix))
    whole = frozenset(prefix for prefix in ended if prefix in recorded or database.is_sound(prefix))
    return Condition(found - whole, whole, recorded)


def database_problem(store: Path) -> str:
    """Why Spack must not use a store's database, or an empty string."""
    index = database.index_of(store)
    if not index.is_file():
        count = sum(1 for _ in _prefixes(store))
        return f"the database {index} is missing, but the store contains {count} packages" if count else ""
    try:
        database.records(index)
    except SpackError as error:
        return str(error)
    return ""


def recover(spack: Spack, roots: Container[str]) -> None:
    """Makes store and index agree. The caller holds the cluster's lock.

    Args:
        roots: hashes of the explicit specs; other packages that a reindex finds are marked as dependencies.

    Raises:
        SpackError: ``spack-database``.
    """
    store = spack.places.store
    found = database_problem(store)
    if found:
        _tell(spack, f"{found}: {_restore(store)}")
    condition = look(store)
    _remove(spack, sorted([*condition.partial, *leftovers(store)]))
    if condition.agrees:
        return
    asked = _explicit(store)
    _tell(spack, "Spack's database and its store differ: the database is rebuilt from whole packages only")
    spack.reindex()
    unasked = [digest for digest in _explicit(store) - asked if digest not in roots]
    if unasked:
        spack.mark_implicit(sorted(unasked))


def keep_copy(store: Path) -> None:
    """Keeps a copy of the index if it can be read and differs from the newest copy. Older copies are removed."""
    index = database.index_of(store)
    if not index.is_file() or database_problem(store):
        return
    copies, data = _copies(store), index.read_bytes()
    if copies and copies[-1].read_bytes() == data:
        return
    make_dir(store / COPIES)
    write_atomic(store / COPIES / f"index-{time.time_ns():020}.json", data)
    for old in copies[: 1 - KEPT]:
        old.unlink()


def _prefixes(store: Path) -> Iterator[Path]:
    """Every prefix that Spack has begun. petal-node's binary packages have no ``.spack``."""
    return (directory.parent for directory in store.glob("[!.]*/[!.]*/.spack"))


def leftovers(store: Path) -> list[Path]:
    """Leftovers of Spack: prefixes that it moved aside, and interrupted writes."""
    return [path for pattern in LEFT for path in store.glob(pattern)]


def _remove(spack: Spack, paths: list[Path]) -> None:
    if not paths:
        return
    names = ", ".join(path.name for path in paths[:SHOWN]) + (" and more" if paths[SHOWN:] else "")
    _tell(spack, f"removing prefixes that an earlier install did not finish: {names}")
    for path in paths:
        remove_tree(path)


def _restore(store: Path) -> str:
    """Replaces the index by its newest readable copy; returns a message."""
    index = database.index_of(store)
    make_dir(index.parent)
    if index.exists():
        make_dir(store / COPIES)
        index.replace(store / COPIES / DAMAGED)
    for copy in reversed(_copies(store)):
        if _reads(copy):
            write_atomic(index, copy.read_bytes())
            return f"it is restored from {copy}"
    return "there is no copy of it"


def _copies(store: Path) -> list[Path]:
    """The oldest first."""
    return sorted((store / COPIES).glob("index-*.json"))


def _reads(index: Path) -> bool:
    try:
        return bool(database.records(index))
    except SpackError as error:
        LOG.warning("%s", error, extra={"step": "spack"})
        return False


def _explicit(store: Path) -> set[str]:
    records: Iterable[tuple[str, dict[str, object]]] = database.records(database.index_of(store)).items()
    return {digest for digest, record in records if record.get("explicit") and record.get("installed")}


def _tell(spack: Spack, text: str) -> None:
    LOG.warning("%s", text, extra={"step": "spack"})
    spack.note(text)
