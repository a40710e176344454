"""Reads what Spack keeps: the lockfile of an environment and the database of a store. Pure, and without Spack.

A spec counts as installed when the database says so *and* ``.spack/install_manifest.json`` is there: Spack writes
``.spack/spec.json`` first and the manifest last (lib/spack/spack/installer.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpackError, StateError
from ..files import read_json

LIMIT = 1 << 28


@dataclass(frozen=True)
class Locked:
    """One concrete spec of a lockfile."""

    name: str
    version: str
    hash: str
    explicit: bool
    external: bool


def locked_specs(lockfile: Path) -> tuple[Locked, ...]:
    """The concrete specs of a spack.lock; empty where there is none.

    Raises:
        SpackError: ``spack-lockfile``, it is no lockfile.
    """
    document = _read(lockfile, "spack-lockfile")
    if document is None:
        return ()
    try:
        roots = {root["hash"] for root in document["roots"]}
        return tuple(_locked(digest, node, roots) for digest, node in document["concrete_specs"].items())
    except (KeyError, TypeError, AttributeError) as error:
        why, remedy = f"{type(error).__name__}: {error}", f"mv {lockfile} {lockfile}.bad    (the stack is solved again)"
        raise SpackError(
            f"{lockfile} is not a Spack lockfile", why=why, remedy=remedy, code="spack-lockfile"
        ) from error


def _locked(digest: str, node: Mapping[str, Any], roots: set[str]) -> Locked:
    external = node.get("external")
    return Locked(str(node["name"]), str(node["version"]), digest, digest in roots, external is not None)


def installed(store: Path) -> dict[str, Path]:
    """The hash and prefix of every spec that the store's database calls installed.

    Raises:
        SpackError: ``spack-database``, the index cannot be read.
    """
    document = _read(store / ".spack-db" / "index.json", "spack-database")
    if document is None:
        return {}
    try:
        records = document["database"]["installs"]
        return {
            digest: Path(record["path"])
            for digest, record in records.items()
            if record.get("installed") and record.get("path")
        }
    except (KeyError, TypeError, AttributeError) as error:
        why, remedy = f"{type(error).__name__}: {error}", f"ls -l {store}/.spack-db"
        what = f"the database of {store} cannot be read"
        raise SpackError(what, why=why, remedy=remedy, code="spack-database") from error


def missing(specs: tuple[Locked, ...], store: Path) -> tuple[Locked, ...]:
    """Those of ``specs`` that are not wholly installed in the store; externals are never missing."""
    found = installed(store)
    return tuple(spec for spec in specs if not spec.external and not _is_whole(found.get(spec.hash)))


def _is_whole(prefix: Path | None) -> bool:
    return prefix is not None and (prefix / ".spack" / "install_manifest.json").is_file()


def _read(path: Path, code: str) -> dict[str, Any] | None:
    try:
        return read_json(path, limit=LIMIT)
    except StateError as error:
        raise SpackError(error.what, why=error.why, remedy=error.remedy, code=code) from error
