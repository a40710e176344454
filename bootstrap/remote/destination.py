"""The destination of ``--output``: a path, file:// or s3:// URI."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..core.errors import UsageError
from .fetch import local_path


def place_of(output: str, data: bytes, name: str) -> str:
    """The URI of the file to write. In a directory its name contains the checksum.

    Args:
        output: a path, file:// or s3://; a directory if it exists as one or ends with a slash.
        name: the file's name without the checksum, ``spack.lock``.
    """
    path = local_path(output) if ":/" in output else Path(output).absolute()
    uri = output if path is None else str(path)
    if output.endswith("/") or (path is not None and path.is_dir()):
        stem, _, ending = name.partition(".")
        return f"{uri.rstrip('/')}/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.{ending}"
    return uri


def check_output(output: str) -> None:
    """Refuses a destination that cannot be written, before an hour of work: UsageError."""
    bucket, _, key = output.removeprefix("s3://").partition("/")
    if output.startswith("s3://"):
        is_valid = bool(bucket and key)
    else:
        is_valid = bool(output) and (":/" not in output or local_path(output) is not None)
    if not is_valid:
        why = "it must be a path, file:///PATH or s3://BUCKET/KEY"
        raise UsageError(f"{output!r} is not a valid destination", why=why, remedy="--output s3://BUCKET/locks/")
