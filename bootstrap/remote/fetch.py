"""Transfers objects from s3://, https:// and file://, and to s3:// and file://.

A target gets its name when it is complete, on disk and has the expected checksum. Failures that may pass are tried
again, with a backoff and one deadline for all attempts; an interrupted transfer is resumed (HTTP Range).
PETAL_FETCH_SECONDS replaces the caller's deadline.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from ..core.errors import FetchError, from_os_error
from ..host.atomic import private_dir, staged_file
from ..host.files import CHUNK, has_sha256, sha256_of
from ..host.log import LOG
from . import s3

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
SMALL = 1 << 20
MAX_PUT = 5 << 30  # S3's limit for one PUT
SECONDS = "PETAL_FETCH_SECONDS"


@dataclass(frozen=True)
class Source:
    """An object to fetch.

    Args:
        uri: s3://, https:// or file:// (an absolute path means file://).
        sha256: the expected checksum in hexadecimal; None for configuration files, which have no checksum.
        region: the bucket's region; None takes it from the environment or IMDS.
        seconds: the deadline of all attempts together.
        is_stopped: polled during the transfer; True ends it because the result is not needed any more.
    """

    uri: str
    sha256: str | None = None
    region: str | None = None
    seconds: float = 60.0
    is_stopped: Callable[[], bool] = lambda: False


def download(source: Source, target: Path) -> None:
    """Fetches an object to ``target``, unless a file with the expected checksum exists there.

    Raises:
        FetchError: ``fetch-missing``, ``fetch-forbidden``, ``fetch-no-credentials``, ``fetch-region``,
            ``fetch-checksum``, ``fetch-unreachable``, ``fetch-scheme``.
    """
    if has_sha256(target, source.sha256):
        return
    with staged_file(target) as part:
        _transfer(source, part)


def read(source: Source, scratch: Path, *, limit: int = SMALL) -> bytes:
    """Returns the content of a small object. ``scratch`` is a directory for the transfer.

    Raises:
        FetchError: as ``download``; ``fetch-too-large`` if it has more than ``limit`` bytes.
    """
    with private_dir(scratch / "read") as directory:
        target = directory / "object"
        target.touch()
        _transfer(source, target)
        if target.stat().st_size > limit:
            raise FetchError(
                f"{source.uri} is larger than {limit} bytes", remedy=_look_up(source.uri), code="fetch-too-large"
            )
        return target.read_bytes()


def exists(uri: str, *, region: str | None = None, seconds: float = 20.0) -> bool:
    """True if the object exists and this node may read it; FetchError if the server does not answer."""
    path = local_path(uri)
    if path is not None:
        return path.is_file()

    def head(url: str, auth: Any, left: float) -> bool:
        import requests

        with requests.head(url, auth=auth, timeout=_timeout(left)) as answer:
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _TryAgain(f"the server answered {answer.status_code}")
            return answer.status_code == 200

    return bool(_with_retries(uri, region, seconds, head, "could not be looked up"))


def has_files(prefix: str, *, region: str | None = None, seconds: float = 20.0) -> bool:
    """True if the name of a file begins with ``prefix``: a directory, or s3:// if this node may list the bucket.

    Raises:
        FetchError: as ``download``; ``fetch-scheme`` for https://, which has no lists.
    """
    path = local_path(prefix)
    if path is not None:
        try:
            return _first_file(path)
        except PermissionError as error:
            raise _unreadable(path, error) from error
    if not prefix.startswith("s3://"):
        raise FetchError(f"{prefix} cannot be listed", remedy=_look_up(prefix), code="fetch-scheme")

    def look(_: str, auth: Any, left: float) -> bool:
        import requests

        url = s3.list_url(prefix, s3.region(region))
        with requests.get(url, auth=auth, allow_redirects=False, timeout=_timeout(left)) as answer:
            _check_status(prefix, answer, auth)
            return b"<Contents>" in answer.content

    return bool(_with_retries(prefix, region, seconds, look, "could not be listed"))


def _first_file(path: Path) -> bool:
    """True if there is a file below a directory."""

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise error

    return any(files for _, _, files in os.walk(path, onerror=refuse))


def _unreadable(path: Path, error: OSError) -> FetchError:
    what, remedy = f"{path} may not be read by this node", shlex.join(["ls", "-ld", str(path)])
    return FetchError(what, why=str(error), remedy=remedy, code="fetch-forbidden")


def upload(source: Path | bytes, uri: str, *, region: str | None = None, seconds: float = 60.0) -> None:
    """Writes a file, or bytes, to s3:// or file://. The object appears complete or not at all.

    S3 refuses a body with another checksum.

    Raises:
        FetchError: as ``download``; ``fetch-too-large``; for a file the code of what the kernel refused, ``file-...``.
    """
    target = local_path(uri)
    if target is not None:
        try:
            with staged_file(target) as part, _opened(source) as stream, part.open("wb") as copy:
                shutil.copyfileobj(stream, copy, CHUNK)
        except OSError as error:
            code = "fetch-forbidden" if isinstance(error, PermissionError) else from_os_error(error, None).code
            directory = shlex.quote(str(target.parent))
            why, remedy = str(error), f"ls -ld {directory}; df -h {directory}"
            raise FetchError(f"{target} cannot be written", why=why, remedy=remedy, code=code) from error
        return
    if not uri.startswith("s3://"):
        what, remedy = f"{uri} cannot be written", "write s3://BUCKET/KEY or file:///PATH"
        raise FetchError(what, why="only s3:// and file:// can be written", remedy=remedy, code="fetch-scheme")
    if isinstance(source, Path) and source.stat().st_size > MAX_PUT:
        what, why = f"{source.name} is too large for {uri}", "S3 accepts 5 GiB in one request"
        remedy = shlex.join(["aws", "s3", "cp", str(source), uri])
        raise FetchError(what, why=why, remedy=remedy, code="fetch-too-large")
    sha256 = sha256_of(source) if isinstance(source, Path) else hashlib.sha256(source).hexdigest()

    def put(url: str, auth: Any, left: float) -> None:
        import requests

        with (
            _opened(source) as stream,
            requests.put(url, data=stream, auth=auth, allow_redirects=False, timeout=_timeout(left)) as answer,
        ):
            _check_status(uri, answer, auth, verb="written")

    _with_retries(uri, region, seconds, put, "could not be written", sha256)


def _opened(source: Path | bytes) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def local_path(uri: str) -> Path | None:
    """The path of a file:// URI or an absolute path, else None."""
    if uri.startswith("/"):
        return Path(uri)
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def require_file(path: Path) -> None:
    """Refuses a local source that is missing: FetchError ``fetch-missing``."""
    if not path.is_file():
        what = f"{path} is not a file" if path.exists() else f"{path} does not exist"
        raise FetchError(what, remedy=shlex.join(["ls", "-ld", str(path)]), code="fetch-missing")


def verify(uri: str, expected: str, actual: str) -> None:
    """Compares the checksum of a fetched object with the expected one: FetchError ``fetch-checksum``."""
    if actual != expected:
        raise FetchError(
            f"{uri} does not have the expected checksum",
            why=f"its sha256 is {actual}, expected {expected}",
            remedy="upload the right object, or correct its sha256 in the configuration or argument",
            code="fetch-checksum",
        )


class _TryAgain(Exception):
    """A failure that may pass: a server error, a broken or silent connection."""


def _with_retries(
    uri: str,
    region: str | None,
    seconds: float,
    attempt: Callable[[str, Any, float], Any],
    failure: str,
    sha256: str | None = None,
) -> Any:
    """Calls ``attempt`` until it succeeds or the deadline passes, and returns its result.

    Args:
        attempt: gets the address, its authenticator (None: unsigned) and the seconds that are left; raises
            ``_TryAgain`` or an exception of requests.
        sha256: the checksum of the body that an attempt sends.
    """
    import requests
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential
    from urllib3.exceptions import HTTPError

    variable = os.environ.get(SECONDS, "")
    seconds = float(variable) if variable.isdigit() else seconds
    deadline = time.monotonic() + seconds
    url, region_name = uri, ""
    if uri.startswith("s3://"):
        region_name = s3.region(region)
        url = s3.s3_url(uri, region_name)

    def log(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        LOG.warning("%s: %s; trying again in %.1f s", uri, error, state.upcoming_sleep)

    def attempt_once() -> Any:
        try:
            auth = s3.s3_auth(region_name, sha256) if region_name else None
            return attempt(url, auth, max(0.1, deadline - time.monotonic()))
        except requests.exceptions.InvalidSchema as error:
            what, why = f"{uri} redirects away from https", str(error)
            raise FetchError(what, why=why, remedy=_look_up(uri), code="fetch-scheme") from error
        except requests.exceptions.InvalidURL as error:
            remedy = "write s3://BUCKET/KEY or https://HOST/PATH"
            raise FetchError(f"{uri} is not a valid URI", why=str(error), remedy=remedy, code="fetch-scheme") from error
        except (requests.RequestException, HTTPError) as error:
            raise _TryAgain(_reason(error)) from error

    retrying = Retrying(
        retry=retry_if_exception_type(_TryAgain),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_before_delay(seconds),
        before_sleep=log,
        reraise=True,
    )
    try:
        return retrying(attempt_once)
    except _TryAgain as error:
        way = "route or S3 gateway endpoint" if uri.startswith("s3://") else "route and security groups, and the proxy"
        remedy = (f"check the subnet's {way}", _look_up(uri))
        raise FetchError(f"{uri} {failure} within {seconds:.0f} s", why=str(error), remedy=remedy) from error


def _look_up(uri: str) -> str:
    """The command that shows whether an object exists."""
    path = local_path(uri)
    if path is not None:
        return shlex.join(["ls", "-l", str(path)])
    return shlex.join(["aws", "s3", "ls", uri] if uri.startswith("s3://") else ["curl", "-sSIL", uri])


def _reason(error: Exception) -> str:
    """Why a request failed: the text of the system call, for example ``Connection refused``, if there is one."""
    from requests.exceptions import ProxyError

    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, OSError) and cause.strerror):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return str(error)
    return f"the proxy: {cause.strerror}" if isinstance(error, ProxyError) else str(cause.strerror)


def _timeout(left: float) -> tuple[float, float]:
    return min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)


def _transfer(source: Source, part: Path) -> None:
    path = local_path(source.uri)
    if path is not None:
        try:
            require_file(path)
            shutil.copyfile(path, part)
        except PermissionError as error:  # also of root, on an NFS server with root_squash
            raise _unreadable(path, error) from error
    elif urlsplit(source.uri).scheme in ("s3", "https"):
        _with_retries(source.uri, source.region, source.seconds, partial(_get, source, part), "could not be fetched")
    else:
        remedy = "write s3://BUCKET/KEY, https://HOST/PATH or file:///PATH"
        why = "only s3://, https:// and file:// are supported"
        raise FetchError(f"{source.uri} cannot be fetched", why=why, remedy=remedy, code="fetch-scheme")
    if source.sha256 is not None:
        verify(source.uri, source.sha256, sha256_of(part))


def _get(source: Source, part: Path, url: str, auth: Any, left: float) -> None:
    """One attempt to complete ``part``."""
    deadline = time.monotonic() + left
    offset = part.stat().st_size
    with (
        _session(url) as session,
        session.get(
            url,
            auth=auth,
            headers={"Range": f"bytes={offset}-"} if offset else {},
            stream=True,
            # another host than S3 could not check the signature, and would see the token
            allow_redirects=not source.uri.startswith("s3://"),
            timeout=_timeout(left),
        ) as answer,
    ):
        _check_status(source.uri, answer, auth)
        if answer.status_code != 416:  # 416: the part is as long as the object, and its checksum decides
            _receive(source, answer, part, deadline, append=offset > 0 and answer.status_code == 206)


def _session(url: str) -> Any:
    """A session in which no redirect of an https address passes through http, not even on its way back to https."""
    import requests

    session = requests.Session()
    if url.startswith("https:"):
        del session.adapters["http://"]
    return session


def _check_status(uri: str, answer: Any, auth: Any, *, verb: str = "read") -> None:
    code = answer.status_code
    if code in (200, 206, 416):
        return
    why = f"the server answered {code}"
    if code in (401, 403) and auth is None and uri.startswith("s3://"):
        raise FetchError(
            f"{uri} cannot be {verb} without credentials",
            why=f"{why}; neither the environment nor the instance metadata service has credentials",
            remedy=(
                "curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
                "give the instance a role; on head and login nodes only root can use the metadata service",
            ),
            code="fetch-no-credentials",
        )
    if code in (401, 403):
        if uri.startswith("s3://"):
            why = f"{why}; S3 also answers 403 for a missing key if the role lacks s3:ListBucket"
            hint = "head and queues: Iam/S3Access; login nodes: Iam/AdditionalIamPolicies"
        else:
            hint = "petal-node sends no credentials over https://; use s3:// for an object that the role may read"
        what = f"{uri} may not be {verb} by this node"
        raise FetchError(what, why=why, remedy=(_look_up(uri), hint), code="fetch-forbidden")
    if code == 301:  # S3 answers so for a bucket of another region, never for an object
        region = answer.headers.get("x-amz-bucket-region", "another")
        why = f"{why}: the bucket's region is {region}"
        remedy = f"set AWS_REGION={region}, or use a bucket of this region"
        raise FetchError(f"{uri} is in another region", why=why, remedy=remedy, code="fetch-region")
    if code in (404, 410):
        raise FetchError(f"{uri} does not exist", why=why, remedy=_look_up(uri), code="fetch-missing")
    raise _TryAgain(why)


def _receive(source: Source, answer: Any, part: Path, deadline: float, *, append: bool) -> None:
    expected = answer.headers.get("Content-Length")
    written = 0
    with part.open("ab" if append else "wb") as stream:
        # read1 returns the bytes that have arrived; read would wait for a full chunk from a server that trickles data
        for block in iter(lambda: answer.raw.read1(CHUNK, decode_content=False), b""):
            stream.write(block)
            written += len(block)
            if source.is_stopped():
                what = f"the transfer of {source.uri} was stopped"
                raise FetchError(what, why="this run ends", remedy="petal-node bootstrap")
            if time.monotonic() > deadline:
                raise _TryAgain("the transfer was too slow")
    if expected is not None and written != int(expected):
        raise _TryAgain(f"the transfer broke off after {written} of {expected} bytes")
