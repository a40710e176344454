"""Gets objects from s3://, https:// and file://, whole and checked, or says why not.

Retries have a backoff and one deadline over all of them; a transfer that breaks off goes on where it stopped (HTTP
Range). What was not asked for by its checksum is never handed on when a checksum is given. PETAL_FETCH_SECONDS is the
deadline in place of the caller's.
"""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from . import aws
from .errors import FetchError
from .files import CHUNK, make_dir, sha256_of
from .log import LOG

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
SMALL = 1 << 20
SECONDS = "PETAL_FETCH_SECONDS"


@dataclass(frozen=True)
class Source:
    """Where from, what it must be, and how long it may take.

    Args:
        uri: s3://, https:// or file:// (an absolute path is taken as file://).
        sha256: the checksum in hexadecimal, or None where only its maker vouches for it (configuration files).
        region: the bucket's region; None asks the environment and IMDS.
        seconds: the budget of all tries together.
    """

    uri: str
    sha256: str | None = None
    region: str | None = None
    seconds: float = 60.0


def download(source: Source, target: Path) -> None:
    """Puts the object at ``target``; an existing file with the right checksum is left alone.

    Raises:
        FetchError: ``fetch-missing``, ``fetch-forbidden``, ``fetch-checksum``, ``fetch-unreachable``, ``fetch-scheme``.
    """
    if source.sha256 and target.is_file() and sha256_of(target) == source.sha256:
        return
    make_dir(target.parent)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        _transfer(source, part)
        if source.sha256 is not None:
            verify(source.uri, source.sha256, sha256_of(part))
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


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
    _retried(source, part)


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


def _retried(source: Source, part: Path) -> None:
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

    def tell(state: RetryCallState) -> None:
        LOG.warning("%s: %s; trying again in %.1f s", source.uri, _last(state), state.upcoming_sleep)

    seconds = _budget(source.seconds)
    deadline = time.monotonic() + seconds
    region = aws.region(source.region) if source.uri.startswith("s3://") else ""
    tries = Retrying(
        retry=retry_if_exception_type(_TryAgain),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_before_delay(seconds),
        before_sleep=tell,
        reraise=True,
    )
    try:
        for attempt in tries:
            with attempt:
                _once(source, part, region, deadline)
    except _TryAgain as error:
        raise FetchError(
            f"{source.uri} could not be fetched within {seconds:.0f} s",
            why=str(error),
            remedy=("check the subnet's route or S3 gateway endpoint", f"aws s3 ls {source.uri}"),
        ) from error


def _budget(seconds: float) -> float:
    given = os.environ.get(SECONDS, "")
    return float(given) if given.isdigit() else seconds


def _last(state: Any) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _once(source: Source, part: Path, region: str, deadline: float) -> None:
    import requests
    from urllib3.exceptions import HTTPError

    is_s3 = source.uri.startswith("s3://")
    url = aws.s3_url(source.uri, region) if is_s3 else source.uri
    have = part.stat().st_size if part.exists() else 0
    left = max(0.1, deadline - time.monotonic())
    auth = aws.s3_auth(region) if is_s3 else None
    try:
        with requests.get(
            url,
            auth=auth,
            headers={"Range": f"bytes={have}-"} if have else {},
            stream=True,
            allow_redirects=not is_s3,  # another host could not check the signature, and would see the token
            timeout=(min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)),
        ) as answer:
            _check_redirect(url, answer.url)
            _check_status(source, answer, unsigned=is_s3 and auth is None)
            _write(answer, part, deadline, append=have > 0 and answer.status_code == 206)
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
        remedy = "write s3://BUCKET/KEY or https://HOST/PATH"
        raise FetchError(f"{source.uri} is no address", why=str(error), remedy=remedy, code="fetch-scheme") from error
    except (requests.RequestException, HTTPError) as error:
        raise _TryAgain(str(error)) from error


def _check_redirect(asked: str, answered: str) -> None:
    if asked.startswith("https:") and not answered.startswith("https:"):
        what = f"{asked} leads to {answered}"
        why = "a redirect away from https is not followed"
        raise FetchError(what, why=why, remedy=f"curl -sI {asked}", code="fetch-scheme")


def _check_status(source: Source, answer: Any, *, unsigned: bool) -> None:
    code = answer.status_code
    if code in (200, 206):
        return
    if code == 416:  # the part is as long as the object: its checksum decides
        return
    if code in (401, 403) and unsigned:
        raise FetchError(
            f"{source.uri} may not be read without credentials",
            why=f"the server answered {code}; neither the environment nor the instance's metadata service gave a key",
            remedy=(
                "curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
                "give the instance a role; head and login nodes let only root ask the metadata service",
            ),
            code="fetch-no-credentials",
        )
    if code in (401, 403):
        raise FetchError(
            f"{source.uri} may not be read by this node",
            why=f"the server answered {code}; without ListBucket a wrong key is answered so too",
            remedy=(
                f"aws s3 ls {source.uri}",
                "head and queues: Iam/S3Access; login nodes: Iam/AdditionalIamPolicies",
            ),
            code="fetch-forbidden",
        )
    if code in (404, 410):
        why = f"the server answered {code}"
        raise FetchError(
            f"{source.uri} does not exist", why=why, remedy=f"aws s3 ls {source.uri}", code="fetch-missing"
        )
    raise _TryAgain(f"the server answered {code}")


def _write(answer: Any, part: Path, deadline: float, *, append: bool) -> None:
    if answer.status_code == 416:
        return
    expected = answer.headers.get("Content-Length")
    written = 0
    with part.open("ab" if append else "wb") as stream:
        # read1: what has come, not a whole chunk, for which a server that drips would keep us waiting for ever
        for block in iter(lambda: answer.raw.read1(CHUNK, decode_content=False), b""):
            stream.write(block)
            written += len(block)
            if time.monotonic() > deadline:
                raise _TryAgain("the transfer was too slow")
    if expected is not None and written != int(expected):
        raise _TryAgain(f"the transfer broke off after {written} of {expected} bytes")
