"""Reads the database of a store without Spack, and makes store and database agree after a kill or a full disk.

A spec counts as installed if the database lists it *and* ``.spack/install_manifest.json`` exists: Spack writes
``.spack/spec.json`` first and the manifest last (lib/spack/spack/installer.py). It flushes nothing, so the files of a
recorded package may be empty after a power cut. A copy of the index is written after a flush, as the receipt of all
packages in it. A package that is not in the newest copy counts only if its files have the sizes of its manifest.

Spack trusts its index alone (run with 0.23.0 and 1.1.1). If the index is missing, Spack begins an empty one, and the
next install removes and rebuilds everything in the store; if it is truncated, every command fails. ``spack reindex``
counts every prefix with ``.spack/spec.json`` as installed, also an unfinished one. So under the lock, before Spack
runs, unfinished prefixes are removed, a lost index is restored from its newest copy, and only if index and store still
differ does Spack rebuild the index.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..core import decode
from ..core.errors import SpackError, StateError, StorageError
from ..core.text import at_most, quoted
from ..host.atomic import move_aside, write_atomic
from ..host.files import make_dir, read_json, remove_tree
from ..host.inventory import Difference, differences
from ..host.log import LOG
from ..state.store import shaped
from .driver import Spack
from .lockfile import Locked, system_of

LIMIT = 1 << 28
PACKED = Path(".spack", "binary_distribution")
MANIFEST = Path(".spack", "install_manifest.json")
COPIES = ".petal-db"  # in the store, next to Spack's .spack-db
KEPT = 3
DAMAGED = "damaged.json"
SHOWN = 6
# Prefixes that Spack 1.1's other installer moves aside (lib/spack/spack/new_installer.py), and interrupted writes.
LEFTOVERS = ("[!.]*/.*.old", "[!.]*/.*.garbage", ".spack-db/index.json.*.temp")


def index_of(store: Path) -> Path:
    """A store's database."""
    return store / ".spack-db" / "index.json"


def records(index: Path) -> dict[str, dict[str, Any]]:
    """The record of each spec by hash, empty without the file; SpackError ``spack-database`` if it is damaged."""
    try:
        document = read_json(index, limit=LIMIT)
        return {} if document is None else shaped(index, lambda: _records(document))
    except StateError as error:
        remedy = f"ls -l {quoted(index.parent)}"
        raise SpackError(error.what, why=error.why, remedy=remedy, code="spack-database") from error


def _records(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = decode.mapping(document["database"]["installs"])
    for record in found.values():
        decode.maybe(record.get("path"), decode.text)
        decode.mapping(record.get("spec", {}))
    return found


def installed(store: Path) -> dict[str, Path]:
    """Hash and prefix of every spec that is installed according to the store's database."""
    return _installed(index_of(store), store)


def _installed(index: Path, store: Path) -> dict[str, Path]:
    """The same of an index or a copy.

    A package that is installed again after a reindex has a record without a path (database.py: ``_add``); it is where
    ``scope.PROJECTION`` puts it.
    """
    prefixes = {}
    for digest, record in records(index).items():
        if record.get("installed"):
            spec = record.get("spec", {})
            name = f"{spec.get('name')}-{spec.get('version')}-{digest[:7]}"
            prefixes[digest] = Path(record.get("path") or store / system_of(spec.get("arch")) / name)
    return prefixes


def prefixes_of(specs: Iterable[Locked], store: Path) -> dict[str, Path]:
    """The prefixes of installed specs by hash; by their names (``scope.PROJECTION``) if the index cannot be read."""
    if not database_problem(store):
        known = installed(store)
        return {spec.hash: known[spec.hash] for spec in specs if spec.hash in known}
    named = {prefix.name: prefix for prefix in _prefixes(store)}
    names = ((spec.hash, f"{spec.name}-{spec.version}-{spec.hash[:7]}") for spec in specs)
    return {digest: named[name] for digest, name in names if name in named}


def missing(specs: tuple[Locked, ...], store: Path) -> tuple[Locked, ...]:
    """The specs that are not completely installed in the store; externals are never missing."""
    flushed = _flushed(store)
    whole = {digest for digest, prefix in installed(store).items() if _is_kept(prefix, flushed)}
    return tuple(spec for spec in specs if not spec.external and spec.hash not in whole)


def _is_kept(prefix: Path, flushed: Container[Path]) -> bool:
    return is_whole(prefix) and (prefix in flushed or is_sound(prefix))


def _flushed(store: Path) -> frozenset[Path]:
    """The prefixes that were on disk when the newest readable copy of the index was written."""
    for copy in reversed(copies(store)):
        with suppress(SpackError):
            return frozenset(_installed(copy, store).values())
    return frozenset()


def from_cache(specs: Iterable[Locked], store: Path) -> frozenset[str]:
    """The hashes of the specs that came from a build cache, by a file that Spack adds to each package of one."""
    prefixes = installed(store)
    return frozenset(spec.hash for spec in specs if spec.hash in prefixes and (prefixes[spec.hash] / PACKED).is_file())


def is_whole(prefix: Path) -> bool:
    """True if Spack has finished an install into this prefix.

    It writes the manifest last; after a power cut there may be an empty one. Of what comes from a build cache the
    manifest is unpacked before the programs: see ``is_sound``.
    """
    try:
        return (prefix / MANIFEST).stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def is_sound(prefix: Path) -> bool:
    """True if every file of a prefix's manifest exists with its size.

    Spack's tarballs are sorted, so that ``.spack/install_manifest.json`` comes before ``bin`` and ``lib``
    (lib/spack/spack/util/archive.py).
    """
    try:
        entries = read_json(prefix / MANIFEST, limit=LIMIT) or {}
        return bool(entries) and next(differences(entries, contents=False), None) is None
    except (StateError, OSError):
        return False


def damage(prefix: Path, *, every_byte: bool = False) -> tuple[Difference, ...]:
    """The differences between an installed package and its manifest.

    What came from a build cache has the manifest of where it was built (Spack relocates all but ``.spack``): of that
    only presence and size are compared, and nothing where the paths in it are another root's.

    Raises:
        StateError: the manifest is damaged itself.
        OSError: a file cannot be looked at.
    """
    entries = read_json(prefix / MANIFEST, limit=LIMIT) or {}
    built_here = not (prefix / PACKED).exists()
    entries = {path: entry for path, entry in entries.items() if prefix in Path(path).parents}
    return tuple(differences(entries, contents=built_here, every_byte=every_byte and built_here))


class Comparison(NamedTuple):
    """A store compared with its index.

    Args:
        unfinished: the prefixes that Spack did not finish, with its other leftovers.
        index_agrees: the index has the whole prefixes and no others.
    """

    unfinished: list[Path]
    index_agrees: bool


def compare(store: Path) -> Comparison:
    """Compares the store with its index."""
    prefixes, flushed = _prefixes(store), _flushed(store)
    recorded = {prefix for prefix in installed(store).values() if store in prefix.parents}
    # A prefix that the index lacks may be a second install of a flushed one, which was not finished.
    whole = {path for path in prefixes if _is_kept(path, flushed & recorded)}
    leftovers = {path for pattern in LEFTOVERS for path in store.glob(pattern)}
    return Comparison(sorted((prefixes - whole) | leftovers), whole == recorded)


def _prefixes(store: Path) -> set[Path]:
    """Every prefix that Spack has begun. petal-node's binary packages have no ``.spack``."""
    return {directory.parent for directory in store.glob("[!.]*/[!.]*/.spack")}


def database_problem(store: Path) -> str:
    """Why Spack must not use a store's database, or an empty string."""
    index = index_of(store)
    if not index.is_file():
        count = len(_prefixes(store))
        return f"the database {index} is missing, but the store contains {count} packages" if count else ""
    try:
        records(index)
    except SpackError as error:
        return str(error)
    return ""


def recover(spack: Spack, roots: Container[str]) -> None:
    """Makes store and index agree. The caller holds the cluster's lock.

    Args:
        roots: hashes of the explicit specs; other packages that a reindex finds are marked as dependencies.
    """

    def warn(text: str) -> None:
        LOG.warning("%s", text, extra={"step": "spack"})
        spack.note(text)

    store = spack.places.store
    problem = database_problem(store)
    if problem:
        warn(f"{problem}: {restore(store)}")
    unfinished, index_agrees = compare(store)
    if unfinished:
        names = ", ".join(at_most(SHOWN, [path.name for path in unfinished]))
        warn(f"removing prefixes that an earlier install did not finish: {names}")
    for path in unfinished:
        remove_tree(path)
    if index_agrees:
        return
    explicit = _explicit(store)
    warn("Spack's database and its store differ: the database is rebuilt from whole packages only")
    spack.reindex()
    implicit = [digest for digest in _explicit(store) - explicit if digest not in roots]
    if implicit:
        spack.mark_implicit(sorted(implicit))


def _explicit(store: Path) -> set[str]:
    found = records(index_of(store)).items()
    return {digest for digest, record in found if record.get("explicit") and record.get("installed")}


def keep_copy(store: Path, flush: Callable[[Path], None]) -> None:
    """Flushes the store and keeps a copy of its index, if that can be read and differs from the newest copy.

    A failure is logged only: without a copy the next run compares more packages with their manifests.

    Args:
        flush: writes the file system of a path to disk.
    """
    index = index_of(store)
    if not index.is_file() or database_problem(store):
        return
    try:
        kept, data = copies(store), index.read_bytes()
        if kept and kept[-1].read_bytes() == data:
            return
        flush(store)
        make_dir(store / COPIES)
        write_atomic(store / COPIES / f"index-{time.time_ns():020}.json", data)
        for old in kept[: 1 - KEPT]:
            old.unlink()
    except (OSError, StorageError) as error:
        LOG.warning("no copy of %s was kept: %s", index, error, extra={"step": "spack"})


def copies(store: Path) -> list[Path]:
    """The copies of the index, the oldest first."""
    return sorted((store / COPIES).glob("index-*.json"))


def restore(store: Path) -> str:
    """Replaces the index by its newest readable copy; returns a message."""
    index = index_of(store)
    make_dir(index.parent)
    if index.exists():
        make_dir(store / COPIES)
        move_aside(index, store / COPIES / DAMAGED)
    for copy in reversed(copies(store)):
        try:
            if records(copy):
                write_atomic(index, copy.read_bytes())
                return f"it is restored from {copy}"
        except SpackError as error:
            LOG.warning("%s", error, extra={"step": "spack"})
    return "there is no copy of it"
