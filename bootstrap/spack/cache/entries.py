"""The layouts of build caches: the path of a package's description, and the files that the description names. Pure.

The description is one JSON document, clear-signed or plain. Its path follows from name, version and hash, so no index
is needed. Source: Spack 0.23.0 (binary_distribution.py, layout 2) and 1.1.1 (url_buildcache.py, layout 3); run with
entries that both have pushed.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.errors import CacheError
from ..lockfile import Locked

LIMIT = 1 << 26
SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
SIGNATURE = b"\n-----BEGIN PGP SIGNATURE-----"
SHA256 = re.compile(r"[0-9a-f]{64}")
SPEC, TARBALL = "application/vnd.spack.spec.", "application/vnd.spack.install."


@dataclass(frozen=True)
class Blob:
    """A file of a build cache: its path in the cache, and its checksum."""

    path: str
    sha256: str


class Layout(ABC):
    """A layout of build caches.

    Args:
        top: the directory of all files whose names are not checksums.
    """

    top: str

    @abstractmethod
    def description(self, spec: Locked, *, signed: bool) -> str:
        """The path of a package's description."""

    @abstractmethod
    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> tuple[Blob, ...]:
        """The files that the description names.

        Raises:
            CacheError: ``cache-corrupt``.
        """

    @abstractmethod
    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:
        """The hash of the package that the description belongs to; its blobs must be in ``directory``.

        Raises:
            CacheError: ``cache-corrupt``.
        """


class V2(Layout):
    """Spack 0.23: the description is the spec itself, and contains the tarball's checksum."""

    top = "build_cache"

    def description(self, spec: Locked, *, signed: bool) -> str:
        return f"{self.top}/{_full_name(spec)}.spec.json{'.sig' if signed else ''}"

    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> tuple[Blob, ...]:
        checksum = document.get("binary_cache_checksum")
        if not isinstance(checksum, dict) or checksum.get("hash_algorithm") != "sha256":
            raise corrupt(spec, "it lacks the sha256 of its tarball")
        directory = f"{self.top}/{spec.system}/{spec.compiler}/{spec.name}-{spec.version}"
        return (Blob(f"{directory}/{_full_name(spec)}.spack", _sha256(spec, checksum.get("hash"))),)

    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:  # noqa: ARG002 - the description contains it
        return _root_hash(document)


class V3(Layout):
    """Spack 1.1: the description names two blobs by their checksums, the spec and the tarball."""

    top = "v3"

    def description(self, spec: Locked, *, signed: bool) -> str:  # noqa: ARG002 - one name for both
        return f"{self.top}/manifests/spec/{spec.name}/{spec.name}-{spec.version}-{spec.hash}.spec.manifest.json"

    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> tuple[Blob, ...]:
        blobs = []
        for record in (_record(document, SPEC), _record(document, TARBALL)):
            if record.get("checksumAlgorithm") != "sha256":
                raise corrupt(spec, "it names a blob without a sha256")
            digest = _sha256(spec, record.get("checksum"))
            blobs.append(Blob(f"blobs/sha256/{digest[:2]}/{digest}", digest))
        return tuple(blobs)

    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:
        digest = str(_record(document, SPEC).get("checksum"))
        try:
            packed = (directory / "blobs" / "sha256" / digest[:2] / digest).read_bytes()
            with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
                spec = stream.read(LIMIT)
        except (OSError, EOFError, zlib.error) as error:
            raise CacheError("a spec", why=f"it cannot be unpacked: {error}", code="cache-corrupt") from error
        return _root_hash(parsed(spec))


def corrupt(spec: Locked, why: str) -> CacheError:
    """The error for an entry that cannot be used."""
    return CacheError(f"the entry of {spec.name}@{spec.version}", why=why, code="cache-corrupt")


def parsed(data: bytes) -> dict[str, Any]:
    """The JSON object in ``data``.

    Raises:
        CacheError: ``cache-corrupt``.
    """
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CacheError("a description", why=f"it is not JSON: {error}", code="cache-corrupt") from error
    if not isinstance(document, dict):
        raise CacheError("a description", why="it is not a JSON object", code="cache-corrupt")
    return document


def unwrapped(data: bytes) -> bytes:
    """The content of a clear-signed description without verification; a plain one is returned unchanged.

    A line of JSON never begins with a dash, so no line is escaped (RFC 9580, 7.2).
    """
    if not data.startswith(SIGNED):
        return data
    body = data.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    return body.partition(SIGNATURE)[0]


def _full_name(spec: Locked) -> str:
    return f"{spec.system}-{spec.compiler}-{spec.name}-{spec.version}-{spec.hash}"


def _sha256(spec: Locked, value: Any) -> str:
    if not isinstance(value, str) or not SHA256.fullmatch(value):
        raise corrupt(spec, f"it names {str(value)[:80]!r} as a checksum")
    return value


def _record(document: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    records = document.get("data")
    for record in records if isinstance(records, list) else ():
        if isinstance(record, dict) and str(record.get("mediaType")).startswith(kind):
            return record
    raise CacheError("a description", why=f"it lacks a blob of type {kind}", code="cache-corrupt")


def _root_hash(document: Mapping[str, Any]) -> str:
    try:
        return str(document["spec"]["nodes"][0]["hash"])
    except (KeyError, IndexError, TypeError) as error:
        raise CacheError("a spec", why="it lacks the hash of the package", code="cache-corrupt") from error
