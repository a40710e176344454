"""Writes the results of commands to the destination of ``--output``: a path, file:// or s3:// URI."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.deadlines import DOCUMENT
from ..core.errors import UsageError
from ..host.atomic import write_atomic
from .fetch import local_path, put_object


def place_of(output: str, data: bytes, name: str) -> str:
    """The URI of the file to write. In a directory its name contains the checksum.

    Args:
        output: a path, file:// or s3://; a directory if it exists as one or ends with a slash.
        name: the file's name without the checksum, ``spack.lock``.
    """
    path = local_path(output) if ":/" in output else Path(output).absolute()
    directory = output.endswith("/") or (path is not None and path.is_dir())
    stem, _, ending = name.partition(".")
    in_directory = f"{stem}-{hashlib.sha256(data).hexdigest()[:12]}.{ending}"
    if path is not None:
        return str(path / in_directory if directory else path)
    return output + in_directory if directory else output


def check_output(output: str) -> None:
    """Refuses a destination that cannot be written, before an hour of work.

    Raises:
        UsageError: it is not a path, file:// or s3:// URI.
    """
    bucket, _, key = output.removeprefix("s3://").partition("/")
    if output.startswith("s3://"):
        is_valid = bool(bucket and key)
    else:
        is_valid = bool(output) and (":/" not in output or local_path(output) is not None)
    if not is_valid:
        why = "it must be a path, file:///PATH or s3://BUCKET/KEY"
        raise UsageError(f"{output!r} is not a valid destination", why=why, remedy="--output s3://BUCKET/locks/")


def put(data: bytes, uri: str, region: str | None) -> None:
    """Writes ``data`` to ``uri`` and replaces an existing object.

    Raises:
        FetchError: as ``fetch.put_object``.
        OSError: a file cannot be written.
    """
    path = local_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return
    put_object(data, uri, sha256=hashlib.sha256(data).hexdigest(), region=region, seconds=DOCUMENT)
