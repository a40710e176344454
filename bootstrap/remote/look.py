"""Looks at a source without keeping it: whether it can be read, its size, and of a local file the checksum."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import IO, Any

from ..core.text import human
from ..host.files import CHUNK
from .attempts import Target, with_retries
from .fetch import Source, local_path, require_file, verify

Reader = Callable[[Any], str]


class _Hashed:
    """A stream that computes a checksum while it is read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = CHUNK) -> bytes:
        data = self._stream.read(size)
        self.digest.update(data)
        return data


def look_at(source: Source, read: Reader = lambda _: "") -> str:
    """A source in a few words: ``12 MiB, checksum verified``. The content of a local file is read once.

    Args:
        source: its ``seconds`` also limit the comparison of a local file with its checksum.
        read: gets the stream first, as far as it reads it, and returns words to add.

    Raises:
        FetchError: as ``download``.
    """

    def look(stream: Any, size: int | None) -> str:
        found = ["exists" if size is None else human(size)]
        if local_path(source.uri) is None or source.sha256 is None:
            return ", ".join(filter(None, (*found, read(stream))))
        deadline, hashed = time.monotonic() + source.seconds, _Hashed(stream)
        words = read(hashed)
        while hashed.read():
            if time.monotonic() > deadline:
                found.append(f"checksum not verified, because that takes more than {source.seconds:.0f} s")
                break
        else:
            verify(source.uri, source.sha256, hashed.digest.hexdigest())
            found.append("checksum verified")
        return ", ".join(filter(None, (*found, words)))

    path = local_path(source.uri)
    if path is not None:
        require_file(path)
        with path.open("rb") as file:
            return look(file, os.fstat(file.fileno()).st_size)

    def get(to: Target) -> str:
        with to.session() as session, to.send(session, "get") as answer:
            size = answer.headers.get("Content-Length", "")
            return look(answer.raw, int(size) if size.isdigit() else None)

    return str(with_retries(source.uri, source.region, source.seconds, get, "could not be read"))
