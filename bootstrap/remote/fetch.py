"""Gets objects from s3://, https:// and file://, whole and checked, or says why not; puts them to s3:// and file://.

Retries have a backoff and one deadline over all of them; a transfer that breaks off goes on where it stopped (HTTP
Range). What was not asked for by its checksum is never handed on when a checksum is given. PETAL_FETCH_SECONDS is the
deadline in place of the caller's.
"""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ..core.errors import FetchError
from ..host.atomic import staged_file
from ..host.files import CHUNK, sha256_of
from ..host.log import LOG
from . import s3 as aws

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
SMALL = 1 << 20
LARGEST = 5 << 30
SECONDS = "PETAL_FETCH_SECONDS"


@dataclass(frozen=True)
class Source:
    """Where from, what it must be, and how long it may take.

    Args:
        uri: s3://, https:// or file:// (an absolute path is taken as file://).
        sha256: the checksum in hexadecimal, or None where only its maker vouches for it (configuration files).
        region: the bucket's region; None asks the environment and IMDS.
        seconds: the budget of all tries together.
        is_stopped: asked while it comes: True when nobody waits for it any more.
    """

    uri: str
    sha256: str | None = None
    region: str | None = None
    seconds: float = 60.0
    is_stopped: Callable[[], bool] = lambda: False


def download(source: Source, target: Path) -> None:
    """Puts the object at ``target``; an existing file with the right checksum is left alone.

    Raises:
        FetchError: ``fetch-missing``, ``fetch-forbidden``, ``fetch-checksum``, ``fetch-unreachable``, ``fetch-scheme``.
    """
    if source.sha256 and target.is_file() and sha256_of(target) == source.sha256:
        return
    with staged_file(target) as part:
        _transfer(source, part)
        if source.sha256 is not None:
            verify(source.uri, source.sha256, sha256_of(part))


def read(source: Source, scratch: Path, *, limit: int = SMALL) -> bytes:
    """The content of a small object, a configuration say. ``scratch`` is a directory for the transfer.

    Raises:
        FetchError: as ``download``; also when the object is larger than ``limit`` bytes.
    """
    target = scratch / f"read.{os.getpid()}"
    try:
        download(source, target)
        if target.stat().st_size > limit:
            raise FetchError(
                f"{source.uri} is larger than {limit} bytes", remedy=f"aws s3 ls {source.uri}", code="fetch-too-large"
            )
        return target.read_bytes()
    finally:
        target.unlink(missing_ok=True)


def exists(uri: str, *, region: str | None = None, seconds: float = 20.0) -> bool:
    """True when the object is there and can be read.

    Raises:
        FetchError: nobody can tell.
    """
    path = local_path(uri)
    if path is not None:
        return path.is_file()
    found = []

    def ask(region: str, left: float) -> None:
        import requests

        with requests.head(_url(uri, region), auth=_auth(uri, region), timeout=_timeout(left)) as answer:
            if answer.status_code >= 500 or answer.status_code == 429:
                raise _TryAgain(f"the server answered {answer.status_code}")
            found.append(answer.status_code == 200)

    _retried(uri, region, seconds, ask, "be asked for")
    return found[-1]


def upload(path: Path, uri: str, *, sha256: str, region: str | None = None, seconds: float = 60.0) -> None:
    """Puts a file to s3:// or file://, whole or not at all.

    Raises:
        FetchError: as ``download``.
    """
    target = local_path(uri)
    if target is not None:
        _copy_to(path, target)
    else:
        put_object(path, uri, sha256=sha256, region=region, seconds=seconds)


def put_object(source: Path | bytes, uri: str, *, sha256: str, region: str | None, seconds: float) -> None:
    """Puts a file, or bytes, to s3://, whole or not at all: S3 refuses what has another checksum.

    Raises:
        FetchError: as ``download``.
    """
    if not uri.startswith("s3://"):
        what, remedy = f"nothing can be written to {uri}", "name s3://BUCKET/KEY or file:///PATH"
        raise FetchError(what, why="only s3:// and file:// take something", remedy=remedy, code="fetch-scheme")
    if isinstance(source, Path) and source.stat().st_size > LARGEST:
        what, why = f"{source.name} is too large to be written to {uri}", "S3 takes 5 GiB in one request"
        raise FetchError(what, why=why, remedy="aws s3 cp does it in parts", code="fetch-too-large")

    def put(region: str, left: float) -> None:
        import requests

        auth = aws.s3_auth(region, sha256)
        with (
            source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as stream,
            requests.put(
                aws.s3_url(uri, region), data=stream, auth=auth, allow_redirects=False, timeout=_timeout(left)
            ) as answer,
        ):
            _check_status(uri, answer, unsigned=auth is None, verb="written")

    _retried(uri, region, seconds, put, "be written")


def _copy_to(path: Path, target: Path) -> None:
    try:
        with staged_file(target) as part:
            shutil.copyfile(path, part)
    except OSError as error:
        why, remedy = str(error), f"ls -ld {target.parent}; df -h {target.parent}"
        raise FetchError(f"{target} cannot be written", why=why, remedy=remedy, code="fetch-forbidden") from error


def local_path(uri: str) -> Path | None:
    """The path behind a file:// URI or an absolute path, else None."""
    if uri.startswith("/"):
        return Path(uri)
    parts = urlsplit(uri)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _transfer(source: Source, part: Path) -> None:
    path = local_path(source.uri)
    if path is not None:
        _copy(path, part)
        return
    if urlsplit(source.uri).scheme not in ("s3", "https"):
        what = f"{source.uri} cannot be fetched"
        remedy = "write s3://BUCKET/KEY, https://HOST/PATH or file:///PATH"
        raise FetchError(what, why="only s3://, https:// and file:// are", remedy=remedy, code="fetch-scheme")

    def get(region: str, left: float) -> None:
        _once(source, part, region, left)

    _retried(source.uri, source.region, source.seconds, get, "be fetched")


def _copy(path: Path, part: Path) -> None:
    if not path.is_file():
        raise FetchError(f"{path} is not there", remedy=f"ls -l {path}", code="fetch-missing")
    shutil.copyfile(path, part)


def verify(uri: str, wanted: str, found: str) -> None:
    """Compares two checksums of what ``uri`` gave.

    Raises:
        FetchError: ``fetch-checksum``.
    """
    if found != wanted:
        raise FetchError(
            f"{uri} is not the object that was asked for",
            why=f"its sha256 is {found}, wanted is {wanted}",
            remedy="upload the right object, or correct the sha256 where it is asked for",
            code="fetch-checksum",
        )


class _TryAgain(Exception):
    """A failure that may pass: a server error, a broken or silent connection."""


def _retried(
    uri: str, known_region: str | None, given: float, attempt: Callable[[str, float], None], verb: str
) -> None:
    """Tries again what may pass, until the time is up.

    Args:
        attempt: gets the region and the seconds that are left; raises ``_TryAgain`` or what requests raises.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

    def tell(state: RetryCallState) -> None:
        LOG.warning("%s: %s; trying again in %.1f s", uri, _last(state), state.upcoming_sleep)

    seconds = _budget(given)
    deadline = time.monotonic() + seconds
    region = aws.region(known_region) if uri.startswith("s3://") else ""
    tries = Retrying(
        retry=retry_if_exception_type(_TryAgain),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_before_delay(seconds),
        before_sleep=tell,
        reraise=True,
    )
    try:
        for again in tries:
            with again, _passing(uri):
                attempt(region, max(0.1, deadline - time.monotonic()))
    except _TryAgain as error:
        raise FetchError(
            f"{uri} could not {verb} within {seconds:.0f} s",
            why=str(error),
            remedy=("check the subnet's route or S3 gateway endpoint", f"aws s3 ls {uri}"),
        ) from error


@contextmanager
def _passing(uri: str) -> Iterator[None]:
    """What requests raises: an address that is none, or what may pass."""
    import requests
    from urllib3.exceptions import HTTPError

    try:
        yield
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        remedy = "write s3://BUCKET/KEY or https://HOST/PATH"
        raise FetchError(f"{uri} is no address", why=str(error), remedy=remedy, code="fetch-scheme") from error
    except (requests.RequestException, HTTPError) as error:
        raise _TryAgain(str(error)) from error


def _budget(seconds: float) -> float:
    given = os.environ.get(SECONDS, "")
    return float(given) if given.isdigit() else seconds


def _last(state: Any) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _url(uri: str, region: str) -> str:
    return aws.s3_url(uri, region) if uri.startswith("s3://") else uri


def _auth(uri: str, region: str) -> Any:
    return aws.s3_auth(region) if uri.startswith("s3://") else None


def _timeout(left: float) -> tuple[float, float]:
    return min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)


def _once(source: Source, part: Path, region: str, left: float) -> None:
    import requests

    deadline = time.monotonic() + left
    is_s3 = source.uri.startswith("s3://")
    url, auth = _url(source.uri, region), _auth(source.uri, region)
    have = part.stat().st_size
    with requests.get(
        url,
        auth=auth,
        headers={"Range": f"bytes={have}-"} if have else {},
        stream=True,
        allow_redirects=not is_s3,  # another host could not check the signature, and would see the token
        timeout=_timeout(left),
    ) as answer:
        _check_redirect(url, answer.url)
        _check_status(source.uri, answer, unsigned=is_s3 and auth is None)
        _write(source, answer, part, deadline, append=have > 0 and answer.status_code == 206)


def _check_redirect(asked: str, answered: str) -> None:
    if asked.startswith("https:") and not answered.startswith("https:"):
        what = f"{asked} leads to {answered}"
        why = "a redirect away from https is not followed"
        raise FetchError(what, why=why, remedy=f"curl -sI {asked}", code="fetch-scheme")


def _check_status(uri: str, answer: Any, *, unsigned: bool, verb: str = "read") -> None:
    code = answer.status_code
    if code in (200, 206):
        return
    if code == 416:  # the part is as long as the object: its checksum decides
        return
    if code in (401, 403) and unsigned:
        raise FetchError(
            f"{uri} may not be {verb} without credentials",
            why=f"the server answered {code}; neither the environment nor the instance's metadata service gave a key",
            remedy=(
                "curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
                "give the instance a role; head and login nodes let only root ask the metadata service",
            ),
            code="fetch-no-credentials",
        )
    if code in (401, 403):
        raise FetchError(
            f"{uri} may not be {verb} by this node",
            why=f"the server answered {code}; without ListBucket a wrong key is answered so too",
            remedy=(
                f"aws s3 ls {uri}",
                "head and queues: Iam/S3Access; login nodes: Iam/AdditionalIamPolicies",
            ),
            code="fetch-forbidden",
        )
    if code == 301:  # S3 says so of a bucket, and never of an object that is elsewhere
        place = answer.headers.get("x-amz-bucket-region", "another")
        what, why = f"{uri} is not in this region", f"the server answered 301: the bucket's region is {place}"
        raise FetchError(what, why=why, remedy=f"AWS_REGION={place}, or a bucket of this region", code="fetch-region")
    if code in (404, 410):
        why = f"the server answered {code}"
        raise FetchError(f"{uri} does not exist", why=why, remedy=f"aws s3 ls {uri}", code="fetch-missing")
    raise _TryAgain(f"the server answered {code}")


def _write(source: Source, answer: Any, part: Path, deadline: float, *, append: bool) -> None:
    if answer.status_code == 416:
        return
    expected = answer.headers.get("Content-Length")
    written = 0
    with part.open("ab" if append else "wb") as stream:
        # read1: what has come, not a whole chunk, for which a server that drips would keep us waiting for ever
        for block in iter(lambda: answer.raw.read1(CHUNK, decode_content=False), b""):
            stream.write(block)
            written += len(block)
            if source.is_stopped():
                raise FetchError(f"{source.uri} was given up", why="this run ends", remedy="petal-node bootstrap")
            if time.monotonic() > deadline:
                raise _TryAgain("the transfer was too slow")
    if expected is not None and written != int(expected):
        raise _TryAgain(f"the transfer broke off after {written} of {expected} bytes")
