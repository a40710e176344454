"""Requests for one object: sent to the right region with valid credentials, and repeated while they may succeed."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urljoin, urlsplit

from ..core.errors import FetchError
from ..host.log import LOG
from . import answers, client, s3
from .metadata import Credentials, credentials

ACCEPTED = (200, 201, 204, 206)
REDIRECTS = 10
NAME_SECONDS = 5.0  # an unknown host name is not tried for longer


class TryAgain(Exception):
    """A failure that may pass: a server error, a broken or silent connection."""


class _NoAnswer(TryAgain):
    """A request got no answer on its way, for example because the name of the host could not be resolved."""

    def __init__(self, found: client.NoAnswer, way: client.Way) -> None:
        super().__init__(found.why)
        self.is_unknown_name = found.is_unknown_name
        self.way = way


class Target(NamedTuple):
    """Where one request goes: its address, the region (empty: not S3), its credentials (None: unsigned)."""

    uri: str
    url: str
    region: str
    found: Credentials | None
    sha256: str | None
    deadline: float

    def send(self, session: Any, method: str, **options: Any) -> Any:
        """The answer of requests, whose body is not read yet.

        Only https:// follows redirects, and none of them passes through http, not even on its way back to https.

        Raises:
            Refusal: it is not what was asked for.
        """
        auth = s3.s3_auth(self.found, self.region, self.sha256) if self.found else None
        options |= {"auth": auth, "stream": True}
        url = self.url
        for hops in range(REDIRECTS + 1):
            left = max(0.1, self.deadline - time.monotonic())
            answer = session.request(method, url, timeout=client.timeout(left), **options)
            if self.region or not answer.is_redirect:  # another host than S3 would see the token
                break
            answer.close()
            url = self._next(answer, hops)
        is_at_end = answer.status_code == 416 and "Range" in options.get("headers", {})
        if answer.status_code in ACCEPTED or is_at_end:
            return answer
        with answer:
            text = answers.text_of(answer, self.deadline)
        code, verb = answers.element(text, "Code")[:100], "read" if method == "get" else "written"
        status, signed = answer.status_code, auth is not None
        raise answers.Refusal(self.uri, verb, status, code, text, answer.headers, self.region, signed)

    def _next(self, answer: Any, hops: int) -> str:
        """The URL to which an answer redirects: ``fetch-scheme`` if that is not https, ``fetch-refused`` for a loop."""
        what, remedy = f"{self.uri} redirects away from https", answers.look_up(self.uri)
        location = answer.headers["Location"].encode("latin1").decode(errors="replace")
        if hops == REDIRECTS:
            what, why = f"{self.uri} redirects more than {REDIRECTS} times", f"the last time to {location}"
            raise FetchError(what, why=why, remedy=remedy, code="fetch-refused")
        try:
            url: str = urljoin(answer.url, location)
            is_https = urlsplit(url).scheme == "https"
        except ValueError:  # such as https://[
            url, is_https = location, False
        if not is_https:
            raise FetchError(what, why=f"it leads to {url}", remedy=remedy, code="fetch-scheme")
        return url


# The region that S3 named for a bucket of another one.
_regions: dict[str, str] = {}


class _Route:
    """Where the requests for one object go. A wrong region and refused credentials are corrected once each."""

    def __init__(self, uri: str, region: str | None, sha256: str | None) -> None:
        self._uri, self._sha256 = uri, sha256
        self._bucket = s3.parse(uri).bucket if uri.startswith("s3://") else ""
        self._region = (_regions.get(self._bucket) or s3.region(uri, region)) if self._bucket else ""
        self._may_move = self._may_renew = True

    @property
    def url(self) -> str:
        return s3.s3_url(self._uri, self._region) if self._region else self._uri

    def way(self, error: BaseException | None = None) -> client.Way:
        """The way of the request that got no answer, which a redirect may have led elsewhere."""
        request = getattr(error, "request", None)
        return client.way_to(getattr(request, "url", None) or self.url, s3.endpoint_variable() if self._bucket else "")

    def call(self, attempt: Callable[[Target], Any], deadline: float) -> Any:
        """Calls ``attempt``; raises ``TryAgain`` or FetchError for a refusal that cannot be corrected."""
        found = credentials() if self._region else None
        while True:
            try:
                return attempt(Target(self._uri, self.url, self._region, found, self._sha256, deadline))
            except answers.Refusal as refusal:
                if refusal.right_region and self._may_move:
                    self._may_move = False
                    LOG.info("%s is in the region %s, not %s", self._uri, refusal.right_region, self._region)
                    self._region = _regions[self._bucket] = refusal.right_region
                elif refusal.refuses_credentials and self._may_renew:
                    self._may_renew, refused = False, found
                    found = credentials(refused)
                    if found == refused:
                        raise refusal.error() from refusal
                elif refusal.is_temporary:
                    raise TryAgain(refusal.why) from refusal
                else:
                    raise refusal.error() from refusal


def with_retries(
    uri: str,
    region: str | None,
    seconds: float,
    attempt: Callable[[Target], Any],
    failure: str,
    sha256: str | None = None,
) -> Any:
    """Calls ``attempt`` until it succeeds or the deadline passes, and returns its result.

    Args:
        region: of the bucket; None for the node's.
        seconds: for all attempts together; a server name that cannot be resolved gets ``NAME_SECONDS`` at most.
        attempt: raises ``TryAgain``, ``Refusal`` or an exception of requests.
        failure: the end of the sentence ``URI ...`` in the error, for example ``could not be fetched``.
        sha256: the checksum of the body that an attempt sends.

    Raises:
        FetchError: ``fetch-unreachable`` after the deadline, or the code of a refusal that no further attempt changes.
    """
    from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_random_exponential

    deadline = time.monotonic() + seconds
    route = _Route(uri, region, sha256)
    reasons: set[str] = set()

    def log(state: RetryCallState) -> None:
        reason = str(state.outcome.exception() if state.outcome else "")
        if reason not in reasons:  # one line, however often it is tried
            LOG.warning("%s: %s; trying again for at most %.0f s", uri, reason, seconds)
        reasons.add(reason)

    def stop(state: RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome else None
        is_unknown_name = isinstance(error, _NoAnswer) and error.is_unknown_name
        patience = min(seconds, NAME_SECONDS) if is_unknown_name else seconds
        return (state.seconds_since_start or 0) + state.upcoming_sleep >= patience

    retrying = Retrying(
        retry=retry_if_exception_type(TryAgain),
        wait=wait_random_exponential(multiplier=0.5, max=10),
        stop=stop,
        before_sleep=log,
        reraise=True,
    )
    try:
        return retrying(_converted, uri, route, partial(route.call, attempt, deadline))
    except TryAgain as error:
        s3_uri = uri.startswith("s3://")
        times = retrying.statistics.get("attempt_number", 1)
        why = f"{error}{f' ({times} attempts)' if times > 1 else ''}"
        way = error.way if isinstance(error, _NoAnswer) else route.way()
        if isinstance(error, _NoAnswer) and error.is_unknown_name:
            setting = way.remedy or ("check AWS_REGION" if s3_uri else "correct the URI, or set HTTPS_PROXY")
            remedy = (shlex.join(["getent", "hosts", way.host]), setting)
            raise FetchError(f"{uri} {failure}", why=why, remedy=remedy) from error
        known = "route or S3 gateway endpoint" if s3_uri else "route and security groups, or set HTTPS_PROXY"
        hint = way.remedy or f"check the subnet's {known}"
        if isinstance(error.__cause__, answers.Refusal):
            hint = "the server answered with an error of its own: try again later"
        remedy = (hint, answers.look_up(uri))
        raise FetchError(f"{uri} {failure} within {seconds:.0f} s", why=why, remedy=remedy) from error


def _converted(uri: str, route: _Route, action: Callable[[], Any]) -> Any:
    """Calls ``action`` and converts exceptions of requests to FetchError or ``TryAgain``."""
    from requests import exceptions
    from urllib3.exceptions import HTTPError

    try:
        return action()
    except ValueError as error:  # exceptions of requests, and of urllib for a proxy such as http://user:[@host
        way = route.way(error)
        if not way.remedy and not isinstance(error, exceptions.RequestException):
            raise
        if not way.remedy:
            what, remedy = f"{uri} is not a valid URI", "write s3://BUCKET/KEY or https://HOST/PATH"
            raise FetchError(what, why=str(error), remedy=remedy, code="fetch-scheme") from error
        why = f"petal-node cannot use {way.server}: only http://HOST:PORT and https://HOST:PORT are supported"
        raise FetchError(f"{uri} could not be reached", why=why, remedy=way.remedy) from error
    except (exceptions.RequestException, HTTPError) as error:
        way = route.way(error)
        found = client.no_answer(error, way)
        if not found.is_final:
            raise _NoAnswer(found, way) from error
        raise FetchError(f"{uri} could not be reached", why=found.why, remedy=found.remedy or way.remedy) from error
