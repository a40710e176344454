"""What this node knows of the entries of build caches, so that a run that changes nothing asks no mirror."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...config.model import Mirror, Origin
from ...core.errors import StateError
from ...core.model import plain
from ...host.files import sha256_of
from ...host.log import LOG
from ...remote.fetch import local_path
from ...state.store import read_as, write_document

FILE = "pushed.json"


@dataclass(frozen=True)
class CacheRecord:
    """The record of one release. Its file is ``pushed.json``.

    Args:
        pushed: by ``key_of`` a mirror the hashes of the packages that are in it, each with the reason for which an
            earlier entry was replaced, or an empty string.
        refused: by the URL of a mirror why an entry could not be used, by hash.
    """

    pushed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def load(cls, work: Path) -> CacheRecord:
        """The record in a release's work directory; an empty one if it is missing or damaged."""
        try:
            return read_as(work / FILE, cls) or cls()
        except StateError as error:  # all packages count as not pushed
            LOG.warning("%s", error, extra={"step": "build-cache"})
            return cls()

    def save(self, work: Path) -> None:
        write_document(work / FILE, plain(self))

    def with_refused(self, refused: Mapping[str, Mapping[str, str]]) -> CacheRecord:
        """The record with more entries that could not be used."""
        urls = {**self.refused, **refused}
        return replace(self, refused={url: {**self.refused.get(url, {}), **refused.get(url, {})} for url in urls})

    def with_pushed(self, mirror: Mirror, hashes: Mapping[str, str]) -> CacheRecord:
        """The record of a mirror that has all of these packages now."""
        refused = {url: reasons for url, reasons in self.refused.items() if url != mirror.url}
        return CacheRecord({**self.pushed, key_of(mirror): hashes}, refused)


def key_of(mirror: Mirror) -> str:
    """The URL, and what decides which entries can be used: with other keys, others can."""
    origins = [*mirror.keys, *([mirror.signing_key] if mirror.signing_key else [])]
    text = json.dumps([mirror.signed, *(_identity(origin) for origin in origins)])
    return f"{mirror.url} {hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _identity(origin: Origin) -> str:
    path = local_path(origin.source)
    return origin.sha256 or (sha256_of(path) if path and path.is_file() else origin.source)
