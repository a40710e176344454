"""The layouts of build caches: the path of a package's description, and the files that the description names.

The description is one JSON document, clear-signed or plain. Its path follows from name, version and hash, so no index
is needed. Source: Spack 0.23.0 (binary_distribution.py, layout 2) and 1.1.1 (url_buildcache.py, layout 3); run with
entries that both have pushed.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import decode
from ...core.text import A_PAGE, is_page
from ..lockfile import Locked

LIMIT = 1 << 26
SIGNED = b"-----BEGIN PGP SIGNED MESSAGE-----"
SIGNATURE = b"\n-----BEGIN PGP SIGNATURE-----"
SPEC, TARBALL = "application/vnd.spack.spec.", "application/vnd.spack.install."
COMPRESSED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
# Raised for a description that is not in its layout.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, RecursionError, gzip.BadGzipFile, EOFError, zlib.error)


class Layout(ABC):
    """A layout of build caches. Readers of a description raise one of ``MALFORMED``.

    Args:
        place: the directory with the descriptions.
        marker: a file that a build cache of this layout may have, for servers without lists.
        written_by: the versions of Spack that write it.
    """

    place: str
    marker: str
    written_by: str

    @abstractmethod
    def description(self, spec: Locked, *, signed: bool) -> str:
        """The path of a package's description."""

    def descriptions(self, spec: Locked) -> tuple[str, ...]:
        """All paths at which a package may have a description, in the order in which Spack reads them."""
        return tuple(dict.fromkeys(self.description(spec, signed=signed) for signed in (True, False)))

    @abstractmethod
    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> dict[str, str]:
        """The path and the sha256 of each file that the description names."""

    @abstractmethod
    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:
        """The hash of the package that the description belongs to; its blobs must be in ``directory``."""


class V2(Layout):
    """Spack 0.23: the description is the spec itself, and contains the tarball's checksum."""

    place, marker, written_by = "build_cache/", "build_cache/index.json", "Spack before 1.0"

    def description(self, spec: Locked, *, signed: bool) -> str:
        return f"build_cache/{_full_name(spec)}.spec.json{'.sig' if signed else ''}"

    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> dict[str, str]:
        checksum = document["binary_cache_checksum"]
        if checksum["hash_algorithm"] != "sha256":
            raise ValueError("it lacks the sha256 of its tarball")
        directory = f"build_cache/{spec.system}/{spec.compiler}/{spec.name}-{spec.version}"
        return {f"{directory}/{_full_name(spec)}.spack": decode.sha256(checksum["hash"])}

    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:  # noqa: ARG002 - the description contains it
        return str(document["spec"]["nodes"][0]["hash"])


class V3(Layout):
    """Spack 1.1: the description names two blobs by their checksums, the spec and the tarball."""

    place, marker, written_by = "v3/manifests/spec/", "v3/layout.json", "Spack 1.0 and later"

    def description(self, spec: Locked, *, signed: bool) -> str:  # noqa: ARG002 - one name for both
        return f"v3/manifests/spec/{spec.name}/{spec.name}-{spec.version}-{spec.hash}.spec.manifest.json"

    def blobs(self, spec: Locked, document: Mapping[str, Any]) -> dict[str, str]:  # noqa: ARG002 - the document names all
        return dict(_blob(document, kind) for kind in (SPEC, TARBALL))

    def hash_of(self, document: Mapping[str, Any], directory: Path) -> str:
        packed = (directory / _blob(document, SPEC)[0]).read_bytes()
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            spec = parsed(stream.read(LIMIT))
        return str(spec["spec"]["nodes"][0]["hash"])


LAYOUTS: tuple[Layout, ...] = (V2(), V3())


def _full_name(spec: Locked) -> str:
    return f"{spec.system}-{spec.compiler}-{spec.name}-{spec.version}-{spec.hash}"


def _blob(document: Mapping[str, Any], kind: str) -> tuple[str, str]:
    """Path and sha256 of the blob of one type."""
    for record in document["data"]:
        if str(record["mediaType"]).startswith(kind):
            if record["checksumAlgorithm"] != "sha256":
                raise ValueError("it names a blob without a sha256")
            digest = decode.sha256(record["checksum"])
            return f"blobs/sha256/{digest[:2]}/{digest}", digest
    raise ValueError(f"it lacks a blob of type {kind}")


class NotJson(ValueError):
    """A file that should be a JSON object is something else, which the text names."""


def parsed(data: bytes) -> Mapping[str, Any]:
    """The JSON object that a file contains; else ``NotJson``."""
    packed = next((name for magic, name in COMPRESSED.items() if data.startswith(magic)), "")
    if packed:
        raise NotJson(f"it is compressed ({packed})")
    if is_page(data):
        raise NotJson(A_PAGE)
    if data.lstrip().startswith(b"<"):
        raise NotJson("it is XML")
    if not data.strip():
        raise NotJson("it is empty")
    text = data.decode("utf-8-sig", errors="replace")
    if {"\0", "\ufffd"} & set(text):
        raise NotJson("it is not text")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotJson(str(error)) from error
    if not isinstance(document, Mapping):
        raise NotJson(f"it is of another type: {type(document).__name__}")
    return document


def unwrapped(data: bytes) -> bytes:
    """The content of a clear-signed description without verification; a plain one is returned unchanged.

    A line of JSON never begins with a dash, so no line is escaped (RFC 9580, 7.2).
    """
    if not data.startswith(SIGNED):
        return data
    body = data.replace(b"\r\n", b"\n").partition(b"\n\n")[2]
    return body.partition(SIGNATURE)[0]
