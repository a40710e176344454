"""Looks at a source without keeping it: whether it can be read, its size, and of a local file the checksum."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from ..core.text import human
from ..host.files import CHUNK
from . import client
from .attempts import Target, with_retries
from .fetch import Source, local_path, open_file, verify

Reader = Callable[[Any], str]


def look_at(source: Source, read: Reader = lambda _: "") -> str:
    """A source in a few words: ``12 MiB, checksum verified``.

    Args:
        source: its ``seconds`` also limit the comparison of a local file with its checksum.
        read: gets the stream, reads a part of it, and returns words to add.

    Raises:
        FetchError: as ``download``.
    """
    path, deadline = local_path(source.uri), time.monotonic() + source.seconds
    if path is not None:
        with open_file(path) as file:
            words = read(file)
            return _joined(human(os.fstat(file.fileno()).st_size), _compared(source, file, deadline), words)

    def get(to: Target) -> str:
        with client.session() as session, to.send(session, "get") as answer:
            size = answer.headers.get("Content-Length", "")
            return _joined(human(int(size)) if size.isdecimal() else "exists", read(answer.raw))

    return str(with_retries(source.uri, source.region, source.seconds, get, "could not be read"))


def _compared(source: Source, file: BinaryIO, deadline: float) -> str:
    """Whether a file has the expected checksum, as far as ``deadline`` lets it be read."""
    if source.sha256 is None:
        return ""
    file.seek(0)
    digest = hashlib.sha256()
    for block in iter(lambda: file.read(CHUNK), b""):
        if time.monotonic() > deadline:
            return f"checksum not verified, because that takes more than {source.seconds:.0f} s"
        digest.update(block)
    verify(source.uri, source.sha256, digest.hexdigest())
    return "checksum verified"


def _joined(*words: str) -> str:
    return ", ".join(filter(None, words))
