"""Reads the database of a store, without Spack.

A spec counts as installed when the database says so *and* ``.spack/install_manifest.json`` is there: Spack writes
``.spack/spec.json`` first and the manifest last (lib/spack/spack/installer.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import SpackError, StateError
from ..host.files import read_json
from ..host.inventory import Difference, differences
from .lockfile import Locked, system_of

LIMIT = 1 << 28
PACKED = Path(".spack", "binary_distribution")
MANIFEST = Path(".spack", "install_manifest.json")
# Where a package lies in a store (config:install_tree:projections), and ``_prefix`` again.
PROJECTION = "{architecture.platform}-{architecture.os}-{architecture.target}/{name}-{version}-{hash:7}"


def installed(store: Path) -> dict[str, Path]:
    """Hash and prefix of every spec that is installed according to the store's database.

    Raises:
        SpackError: ``spack-database``, the index cannot be read.
    """
    found = records(index_of(store)).items()
    return {digest: _prefix(store, digest, record) for digest, record in found if record.get("installed")}


def _prefix(store: Path, digest: str, record: Mapping[str, Any]) -> Path:
    """A package that is installed again after a reindex has a record without a path (database.py: ``_add``)."""
    if record.get("path"):
        return Path(record["path"])
    spec = record.get("spec", {})
    return store / system_of(spec.get("arch")) / f"{spec.get('name')}-{spec.get('version')}-{digest[:7]}"


def missing(specs: tuple[Locked, ...], store: Path) -> tuple[Locked, ...]:
    """The specs that are not completely installed in the store; externals are never missing."""
    found = installed(store)

    def is_there(spec: Locked) -> bool:
        return spec.external or (spec.hash in found and is_whole(found[spec.hash]))

    return tuple(spec for spec in specs if not is_there(spec))


def from_cache(specs: Iterable[Locked], store: Path) -> frozenset[str]:
    """The hashes of the specs that came from a build cache, by a file that Spack adds to each package of one."""
    found = installed(store)
    marked = (spec.hash for spec in specs if spec.hash in found and (found[spec.hash] / PACKED).is_file())
    return frozenset(marked)


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

    Spack's tarballs are sorted, so that ``.spack/install_manifest.json`` comes before ``bin`` and ``lib``; only what
    the database calls installed is known to be unpacked to the end (lib/spack/spack/util/archive.py).
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


def index_of(store: Path) -> Path:
    """The path of a store's database."""
    return store / ".spack-db" / "index.json"


def records(index: Path) -> dict[str, dict[str, Any]]:
    """The database's record of each spec, by hash; empty if there is no such file.

    Raises:
        SpackError: ``spack-database``, the index cannot be read.
    """
    document = _read(index, "spack-database")
    if document is None:
        return {}
    try:
        found = dict(document["database"]["installs"])
        if all(_is_record(record) for record in found.values()):
            return found
        why = "a record is not what Spack writes"
    except (KeyError, TypeError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
    what = f"the database {index} cannot be read"
    raise SpackError(what, why=why, remedy=f"ls -l {index.parent}", code="spack-database")


def _is_record(record: Any) -> bool:
    return (
        isinstance(record, dict)
        and isinstance(record.get("path"), (str, type(None)))
        and isinstance(record.get("spec", {}), dict)
    )


def _read(path: Path, code: str) -> dict[str, Any] | None:
    try:
        return read_json(path, limit=LIMIT)
    except StateError as error:
        raise SpackError(error.what, why=error.why, remedy=error.remedy, code=code) from error
