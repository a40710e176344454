"""Puts an object where a configuration can name it: a file, or S3 by its own protocol with the key that a node has.

No boto3 and no AWS CLI is needed. An object appears whole or not at all, on a disk by a rename and in S3 by itself.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from . import aws
from .errors import PublishError, UsageError
from .fetch import local_path
from .files import write_atomic
from .log import LOG

CONNECT_TIMEOUT = 5.0
ANSWER_TIMEOUT = 120.0
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
        PublishError: ``publish-forbidden``, ``publish-missing``, ``publish-failed``.
        OSError: a file cannot be written.
    """
    if not uri.startswith("s3://"):
        path = local_path(uri)
        assert path is not None
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)
        return
    _put_s3(data, uri, aws.region(region))


class _TryAgain(Exception):
    """A failure that may pass."""


def _put_s3(data: bytes, uri: str, region: str) -> None:
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_before_delay, wait_random_exponential

    def tell(state: RetryCallState) -> None:
        LOG.warning("%s: %s; trying again", uri, state.outcome.exception() if state.outcome else None)

    tries = Retrying(
        retry=retry_if_exception_type(_TryAgain),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop_before_delay(_seconds()),
        before_sleep=tell,
        reraise=True,
    )
    started = time.monotonic()
    try:
        for attempt in tries:
            with attempt:
                _once(data, uri, region)
    except _TryAgain as error:
        what = f"{uri} could not be written within {time.monotonic() - started:.0f} s"
        raise PublishError(what, why=str(error), remedy=f"aws s3 ls {uri}") from error


def _seconds() -> float:
    given = os.environ.get("PETAL_FETCH_SECONDS", "")
    return float(given) if given.isdigit() else SECONDS


def _once(data: bytes, uri: str, region: str) -> None:
    import requests

    try:
        answer = requests.put(
            aws.s3_url(uri, region),
            data=data,
            auth=aws.s3_auth(region),
            allow_redirects=False,  # another host could not check the signature, and would see the token
            timeout=(CONNECT_TIMEOUT, ANSWER_TIMEOUT),
        )
    except requests.RequestException as error:
        raise _TryAgain(str(error)) from error
    code = answer.status_code
    if code == 200:
        return
    if code in (401, 403):
        why = f"the server answered {code}"
        remedy = (f"allow s3:PutObject on {uri} in the role of this node", f"or write a file and: aws s3 cp FILE {uri}")
        raise PublishError(f"{uri} may not be written by this node", why=why, remedy=remedy, code="publish-forbidden")
    if code in (301, 307, 404):
        what, why = f"{uri} cannot be written", f"the server answered {code}: no such bucket in {region}"
        raise PublishError(what, why=why, remedy="aws s3 ls", code="publish-missing")
    raise _TryAgain(f"the server answered {code}")
