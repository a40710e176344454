"""Transfers objects from s3://, https:// and file://, and to s3:// and file://.

A target gets its name when it is complete, on disk and has the expected checksum. Failures that may pass are tried
again, with a backoff and one deadline for all attempts; an interrupted transfer is resumed (HTTP Range), also by the
next run.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shlex
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from ..core.errors import FetchError, from_os_error
from ..core.text import A_PAGE, is_page, quoted
from ..host.atomic import private_dir, resumable_file, staged_file
from ..host.files import CHUNK, has_sha256, sha256_of
from ..host.log import LOG
from . import answers, client, s3
from .attempts import Target, TryAgain, with_retries

SMALL = 1 << 20
MAX_PUT = 5 << 30  # S3's limit for one PUT
FINAL = frozenset({"fetch-checksum", "fetch-missing", "fetch-scheme", "fetch-too-large", "file-no-space", "file-quota"})
SHOWN = 512  # bytes that show whether an object is an HTML page
RESERVE = 1 << 30  # bytes of a disk, at most a twentieth of it, that no download fills


@dataclass(frozen=True)
class Source:
    """An object to fetch.

    Args:
        uri: s3://, https:// or file:// (an absolute path means file://).
        sha256: the expected checksum in hexadecimal; None for configuration files, which have no checksum.
        region: the bucket's region; None takes it from the environment or IMDS.
        seconds: the deadline of all attempts together.
        is_stopped: polled during the transfer; True ends it because the result is not needed any more.
        limit: the most bytes that are read; None: as many as the server announces and the disk has room for.
    """

    uri: str
    sha256: str | None = None
    region: str | None = None
    seconds: float = 60.0
    is_stopped: Callable[[], bool] = lambda: False
    limit: int | None = None


def download(source: Source, target: Path, *, kept: Path | None = None) -> None:
    """Fetches an object to ``target``, unless a file with the expected checksum exists there.

    Args:
        kept: where the part of an interrupted transfer stays for the next run, on the file system of ``target``. The
            default is a hidden name next to it.

    Raises:
        FetchError: any code ``fetch-...``; ``file-no-space``, the disk has no room for it.
    """
    if has_sha256(target, source.sha256):
        return
    kept = kept or target.with_name(f".{target.name}.part")
    with resumable_file(target, kept, is_useless=_is_useless) as part:
        is_resumed = source.sha256 is not None and part.stat().st_size > 0
        try:
            _transfer(source, part)
        except FetchError as error:
            if not (is_resumed and error.code == "fetch-checksum"):
                raise
            os.truncate(part, 0)  # the part was of another object
            _transfer(source, part)


def _is_useless(error: BaseException) -> bool:
    """True if the next run cannot continue the part of a transfer that ended with this error."""
    return isinstance(error, OSError) or getattr(error, "code", "") in FINAL


def read(source: Source, scratch: Path, *, limit: int = SMALL) -> bytes:
    """Returns the content of a small object. ``scratch`` is a directory for the transfer.

    Raises:
        FetchError: as ``download``; ``fetch-too-large`` if it has more than ``limit`` bytes.
    """
    with private_dir(scratch / "read") as directory:
        target = directory / "object"
        target.touch()
        _transfer(replace(source, limit=limit), target)
        return target.read_bytes()


def require_readable(uri: str, *, region: str | None = None, seconds: float = 20.0) -> None:
    """Refuses an object that does not exist, or that this node may not read: FetchError as ``download``."""
    path = local_path(uri)
    if path is not None:
        open_file(path).close()
        return

    def get(to: Target) -> None:
        # the answer to HEAD has no body, and so no reason
        with client.session() as session, to.send(session, "get", headers={"Range": "bytes=0-0"}):
            pass

    with_retries(uri, region, seconds, get, "could not be looked up")


def exists(uri: str, *, region: str | None = None, seconds: float = 20.0) -> bool:
    """True if the object exists and this node may read it.

    Raises:
        FetchError: the server does not answer, or refuses for a reason that no missing object has.
    """
    try:
        require_readable(uri, region=region, seconds=seconds)
    except FetchError as error:
        if not error.may_be_missing:
            raise
        return False
    return True


def has_files(prefix: str, *, region: str | None = None, seconds: float = 20.0) -> bool:
    """True if the name of a file begins with ``prefix``: a directory, or s3:// if this node may list the bucket.

    Raises:
        FetchError: as ``download``; ``fetch-scheme`` for https://, which has no lists.
    """
    path = local_path(prefix)
    if path is not None:
        errors: list[OSError] = []
        found = any(files for _, _, files in os.walk(path, onerror=errors.append))
        hidden = next((error for error in errors if isinstance(error, PermissionError)), None)
        if hidden and not found:
            raise _unreadable(path, hidden)
        return found
    if not prefix.startswith("s3://"):
        what = f"{prefix} cannot be listed"
        raise FetchError(what, remedy=answers.look_up(prefix), code="fetch-scheme")

    def look(to: Target) -> bool:
        to = to._replace(url=s3.list_url(prefix, to.region))
        with client.session() as session, to.send(session, "get") as answer:
            return "<Contents>" in answers.text_of(answer, to.deadline)

    directory = f"{prefix.rstrip('/')}/"  # to list it needs other rights than to read an object of it
    return bool(with_retries(directory, region, seconds, look, "could not be listed"))


def _unreadable(path: Path, error: OSError) -> FetchError:
    what, remedy = f"{path} may not be read by this node", shlex.join(["ls", "-ld", str(path)])
    return FetchError(what, why=error.strerror or "", remedy=remedy, code="fetch-forbidden")


def upload(source: Path | bytes, uri: str, *, region: str | None = None, seconds: float = 60.0) -> None:
    """Writes a file, or bytes, to s3:// or file://. The object appears complete or not at all.

    S3 refuses a body with another checksum.

    Raises:
        FetchError: as ``download``; ``fetch-too-large``; for a file the code of what the kernel refused, ``file-...``.
    """
    target = _destination(uri)
    if target is not None:
        with _writing(target), staged_file(target) as part, _opened(source) as stream, part.open("wb") as copy:
            shutil.copyfileobj(stream, copy, CHUNK)
        return
    if isinstance(source, Path) and source.stat().st_size > MAX_PUT:
        what, why = f"{source.name} is too large for {uri}", "S3 accepts 5 GiB in one request"
        remedy = shlex.join(["aws", "s3", "cp", str(source), uri])
        raise FetchError(what, why=why, remedy=remedy, code="fetch-too-large")
    sha256 = sha256_of(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()

    # S3 compares it with the body, and requires it, or an MD5, for a bucket with Object Lock.
    checksum = {"x-amz-checksum-sha256": base64.b64encode(bytes.fromhex(sha256)).decode()}

    def put(to: Target) -> None:
        with _opened(source) as stream, client.session() as session:
            to.send(session, "put", data=stream, headers=checksum).close()

    with_retries(uri, region, seconds, put, "could not be written", sha256)


def require_writable(uri: str, *, region: str | None = None, seconds: float = 60.0) -> None:
    """Refuses a destination to which ``upload`` could not write, and leaves nothing there.

    In S3 an upload in parts is begun and abandoned, which needs the same right as a write (s3:PutObject).

    Raises:
        FetchError: as ``upload``.
    """
    target = _destination(uri)
    if target is not None:
        with _writing(target), private_dir(target):
            return

    def begin(to: Target) -> None:
        with client.session() as session:
            with to._replace(url=f"{to.url}?uploads=").send(session, "post") as answer:
                upload_id = quote(answers.element(answers.text_of(answer, to.deadline), "UploadId"), safe="")
            try:
                to._replace(url=f"{to.url}?uploadId={upload_id}").send(session, "delete").close()
            except answers.Refusal as refusal:  # a role may have the right to write alone
                LOG.warning("an unfinished upload of 0 bytes stays at %s: %s", uri, refusal)

    with_retries(uri, region, seconds, begin, "could not be written")


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Converts the errors of a write to a local path to FetchError."""
    try:
        yield
    except OSError as error:
        code = "fetch-forbidden" if isinstance(error, PermissionError) else from_os_error(error, None).code
        why, remedy = error.strerror or str(error), f"ls -ld {quoted(target.parent)}; df -h {quoted(target.parent)}"
        raise FetchError(f"{target} cannot be written", why=why, remedy=remedy, code=code) from error


def _destination(uri: str) -> Path | None:
    """The path to write to, None for s3://; ``fetch-scheme`` for another URI, and for a device or a pipe."""
    path = local_path(uri)
    if path is not None and path.exists() and not path.is_file():  # a rename would replace /dev/null
        remedy = shlex.join(["ls", "-ld", str(path)])
        raise FetchError(f"{path} is not a file", why="its place would be taken", remedy=remedy, code="fetch-scheme")
    if path is None and not uri.startswith("s3://"):
        what, remedy = f"{uri} cannot be written", "write s3://BUCKET/KEY or file:///PATH"
        raise FetchError(what, why="only s3:// and file:// can be written", remedy=remedy, code="fetch-scheme")
    return path


def _opened(source: Path | bytes) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def local_path(uri: str) -> Path | None:
    """The path of a file:// URI or an absolute path, else None."""
    if uri.startswith("/"):
        return Path(uri)
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def open_file(path: Path) -> BinaryIO:
    """Opens a local source: FetchError ``fetch-missing``, ``fetch-forbidden``."""
    try:
        if stat.S_ISREG(path.stat().st_mode):
            return path.open("rb")
        what = f"{path} is not a file"
    except (FileNotFoundError, NotADirectoryError):
        what = f"{path} does not exist"
    except PermissionError as error:  # also of root, on an NFS server with root_squash
        raise _unreadable(path, error) from error
    raise FetchError(what, remedy=shlex.join(["ls", "-ld", str(path)]), code="fetch-missing")


def verify(uri: str, expected: str, actual: str, *, start: bytes = b"") -> None:
    """Compares the checksum of a fetched object with the expected one: FetchError ``fetch-checksum``.

    Args:
        start: the first bytes of the object.
    """
    if actual != expected:
        path = local_path(uri)
        remedy = "upload the right object, or correct its sha256 in the configuration or argument"
        if path is not None:
            remedy = f"sha256sum {quoted(path)}    # then correct its sha256, or replace the file"
        raise FetchError(
            f"{uri} does not have the expected checksum",
            why=f"its sha256 is {actual}, expected {expected}" + (f"; {A_PAGE}" if is_page(start) else ""),
            remedy=remedy,
            code="fetch-checksum",
        )


def _transfer(source: Source, part: Path) -> None:
    path = local_path(source.uri)
    if path is not None:
        with open_file(path) as file:
            _require_room(source, part, os.fstat(file.fileno()).st_size)
            with part.open("wb") as copy:
                shutil.copyfileobj(file, copy, CHUNK)
    elif urlsplit(source.uri).scheme in ("s3", "https"):
        with_retries(source.uri, source.region, source.seconds, partial(_get, source, part), "could not be fetched")
    else:
        remedy = "write s3://BUCKET/KEY, https://HOST/PATH or file:///PATH"
        why = "only s3://, https:// and file:// are supported"
        raise FetchError(f"{source.uri} cannot be fetched", why=why, remedy=remedy, code="fetch-scheme")
    if source.sha256 is not None:
        with part.open("rb") as file:
            verify(source.uri, source.sha256, sha256_of(part), start=file.read(SHOWN))


def _get(source: Source, part: Path, to: Target) -> None:
    """One attempt to complete ``part``."""
    offset = part.stat().st_size if source.sha256 else 0  # only a checksum shows that the part is of the same object
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    with client.session() as session, to.send(session, "get", headers=headers) as answer:
        if answer.status_code != 416:  # 416: the part is as long as the object, and its checksum decides
            _receive(source, answer, part, to.deadline, append=offset > 0 and answer.status_code == 206)


def _require_room(source: Source, part: Path, size: int) -> None:
    """Refuses an object of ``size`` bytes that is larger than the limit, or than the disk has room for.

    Raises:
        FetchError: ``fetch-too-large``, ``file-no-space``.
    """
    if source.limit is not None and size > source.limit:
        path = local_path(source.uri)
        remedy = answers.look_up(source.uri) if path is None else shlex.join(["ls", "-l", str(path)])
        raise FetchError(f"{source.uri} is larger than {source.limit} bytes", remedy=remedy, code="fetch-too-large")
    disk = shutil.disk_usage(part.parent)
    room = disk.free - min(disk.total // 20, RESERVE) + part.stat().st_size
    if size > room:
        raise FetchError(
            f"{source.uri} does not fit on the disk of {part.parent}",
            why=f"it has {size >> 20} MiB or more, and the disk has room for {max(0, room) >> 20} MiB",
            remedy=f"df -h {quoted(part.parent)}",
            code="file-no-space",
        )


def _receive(source: Source, answer: Any, part: Path, deadline: float, *, append: bool) -> None:
    length = answer.headers.get("Content-Length", "")
    offset = part.stat().st_size if append else 0
    _require_room(source, part, offset + int(length if length.isdigit() else 0))
    written = checked = 0
    with part.open("ab" if append else "wb") as stream:
        # read1 returns the bytes that have arrived; read would wait for a full chunk from a server that trickles data
        for block in iter(lambda: answer.raw.read1(CHUNK, decode_content=False), b""):
            written += len(block)
            if written - checked > CHUNK or source.limit is not None:  # an answer without a length may be endless
                stream.flush()
                _require_room(source, part, offset + written)
                checked = written
            stream.write(block)
            if source.is_stopped():
                what = f"the transfer of {source.uri} was stopped"
                raise FetchError(what, why="this run ends", remedy="petal-node bootstrap")
            if time.monotonic() > deadline:
                raise TryAgain("the transfer was too slow")
    if length.isdigit() and written != int(length):
        raise TryAgain(f"the transfer broke off after {written} of {length} bytes")
