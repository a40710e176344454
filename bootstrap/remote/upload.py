"""Puts what was made where ``--output`` says: a path, file:// or s3://. It appears whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.errors import UsageError
from ..host.atomic import write_atomic
from .fetch import local_path, put_object

SECONDS = 120.0


def place_of(output: str, data: bytes, name: str) -> str:
    """The URI of the object: what is a directory gets a name in it that is made of the checksum.

    Args:
        output: a path, file:// or s3://; with a slash at its end it is a directory.
        name: how the file's name begins and ends, ``spack.lock``.
    """
    path = local_path(output) if ":/" in output else Path(output).absolute()
    directory = output.endswith("/") or (path is not None and path.is_dir())
    stem, _, ending = name.partition(".")
    of_content = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}.{ending}"
    if path is not None:
        return str(path / of_content if directory else path)
    return output + of_content if directory else output


def check_output(output: str) -> None:
    """Refuses what nothing can be put to, before an hour of work.

    Raises:
        UsageError: it is no path, file:// or s3:// URI.
    """
    fits = ":/" not in output or local_path(output) is not None or output.startswith("s3://")
    bucket, _, key = output[len("s3://") :].partition("/")
    if not output or not fits or (output.startswith("s3://") and not (bucket and key)):
        why = "it must be a path, file:///PATH or s3://BUCKET/KEY"
        raise UsageError(f"nothing can be put at {output!r}", why=why, remedy="--output s3://BUCKET/locks/")


def put(data: bytes, uri: str, region: str | None) -> None:
    """Puts ``data`` at ``uri``; what was there before is replaced.

    Raises:
        FetchError: as ``fetch.put_object``.
        OSError: a file cannot be written.
    """
    path = local_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return
    put_object(data, uri, sha256=hashlib.sha256(data).hexdigest(), region=region, seconds=SECONDS)
