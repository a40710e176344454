"""Brings a store and its database together again, after a kill, a full disk or a hand that slipped.

Spack trusts its index and nothing else (run with 0.23.0 and 1.1.1). Where it is missing, Spack begins an empty one, and
the next install removes and builds again whatever is in the store; where it is cut off, every command fails. To
reindex helps, but that takes for installed whatever has ``.spack/spec.json``, which is written first. So, under the
lock and before Spack looks: what was begun and never finished is removed, a lost index comes back from its newest copy,
and only where index and store still differ Spack makes its index anew.
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

COPIES = ".petal-db"  # beside Spack's own .spack-db, in the store
KEPT = 3
DAMAGED = "damaged.json"
SHOWN = 6
# What Spack 1.1's other installer moves aside (lib/spack/spack/new_installer.py), and a write that was cut off.
LEFT = ("[!.]*/.*.old", "[!.]*/.*.garbage", ".spack-db/index.json.*.temp")


@dataclass(frozen=True)
class Condition:
    """How a store stands, by prefixes.

    Args:
        partial: Spack began these, and never came to their end: to build them, or to unpack them from a build cache.
        whole: installed to the end.
        recorded: what the index calls installed.
    """

    partial: frozenset[Path]
    whole: frozenset[Path]
    recorded: frozenset[Path]

    @property
    def agrees(self) -> bool:
        """True when Spack believes what is so."""
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


def trouble(store: Path) -> str:
    """Why Spack must not see a store's database as it is, or an empty string."""
    index = database.index_of(store)
    if not index.is_file():
        count = sum(1 for _ in _prefixes(store))
        return f"the database {index} is missing, though {count} packages are there" if count else ""
    try:
        database.records(index)
    except SpackError as error:
        return str(error)
    return ""


def recover(spack: Spack, roots: Container[str]) -> None:
    """Makes store and index agree. Only whoever holds the cluster's lock may call it.

    Args:
        roots: hashes of what was asked for by name; other packages that Spack finds anew were not.

    Raises:
        SpackError: ``spack-database``.
    """
    store = spack.places.store
    found = trouble(store)
    if found:
        _tell(spack, f"{found}: {_restore(store)}")
    condition = look(store)
    _remove(spack, sorted([*condition.partial, *left(store)]))
    if condition.agrees:
        return
    asked = _explicit(store)
    _tell(spack, "Spack's database and its store differ: the database is made anew, from whole packages only")
    spack.reindex()
    unasked = [digest for digest in _explicit(store) - asked if digest not in roots]
    if unasked:
        spack.mark_implicit(sorted(unasked))


def keep_copy(store: Path) -> None:
    """Keeps the index as it stands now, if it can be read and no copy is the same; a few of the newest stay."""
    index = database.index_of(store)
    if not index.is_file() or trouble(store):
        return
    copies, data = _copies(store), index.read_bytes()
    if copies and copies[-1].read_bytes() == data:
        return
    make_dir(store / COPIES)
    write_atomic(store / COPIES / f"index-{time.time_ns():020}.json", data)
    for old in copies[: 1 - KEPT]:
        old.unlink()


def _prefixes(store: Path) -> Iterator[Path]:
    """Everything that Spack has begun; binary packages of ours, which lie there too, have no ``.spack``."""
    return (directory.parent for directory in store.glob("[!.]*/[!.]*/.spack"))


def left(store: Path) -> list[Path]:
    """What Spack itself moved aside or began to write, and did not come back to."""
    return [path for pattern in LEFT for path in store.glob(pattern)]


def _remove(spack: Spack, paths: list[Path]) -> None:
    if not paths:
        return
    names = ", ".join(path.name for path in paths[:SHOWN]) + (" and more" if paths[SHOWN:] else "")
    _tell(spack, f"removing what an earlier install began and did not finish: {names}")
    for path in paths:
        remove_tree(path)


def _restore(store: Path) -> str:
    """Puts the newest copy that can be read in the place of the index, and says what it did."""
    index = database.index_of(store)
    make_dir(index.parent)
    if index.exists():
        make_dir(store / COPIES)
        index.replace(store / COPIES / DAMAGED)
    for copy in reversed(_copies(store)):
        if _reads(copy):
            write_atomic(index, copy.read_bytes())
            return f"it is restored from {copy}"
    return "no copy of it is there"


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
