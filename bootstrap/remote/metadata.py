"""Instance metadata (IMDSv2 only) and the credentials of the instance's role.

Credentials stay in the memory of this process until five minutes before they expire. The service limits the rate of
requests, so a failed one is repeated with a backoff (EC2 user guide, instancedata-data-retrieval).
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from ..core.errors import FetchError
from ..host.log import LOG

IMDS = {"ipv4": "http://169.254.169.254", "ipv6": "http://[fd00:ec2::254]"}
CONNECT_TIMEOUT, READ_TIMEOUT = 1.0, 2.0
PAUSES = (0.2, 0.4, 0.8, 1.6, 0.0)  # seconds after each attempt that the service answers with an error
UNANSWERED = 2  # attempts without an answer: this machine may not be an instance
SILENT_SECONDS = 30.0  # how long a service that did not answer is not asked again
EARLY_SECONDS = 300.0
AGAIN_SECONDS = 10.0  # between two requests for credentials that are missing, or not yet renewed
ROLE = "meta-data/iam/security-credentials/"
VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


class Credentials(NamedTuple):
    """An access key; ``token`` is None for a user's own."""

    key: str
    secret: str
    token: str | None


@dataclass
class _Service:
    """What this process knows about the metadata service.

    ``silence`` is the reason why it did not answer, ``problem`` why the role has no credentials.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    silence: str = ""
    silent_until: float = 0.0
    role: Credentials | None = None
    problem: str = ""
    expires: float = 0.0  # seconds since 1970, as the service gives it
    keep_until: float = 0.0


_service = _Service()


def metadata(path: str) -> str | None:
    """The text at ``/latest/<path>`` of the instance metadata service, None without a value or an answer."""
    return _answer(path)[0]


def _answer(path: str) -> tuple[str | None, str]:
    """The text, or None and the reason. Version 2 of the service needs a session token first."""
    import requests

    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None, "AWS_EC2_METADATA_DISABLED is set"
    mode = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "").strip().lower()
    default = IMDS.get(mode, IMDS["ipv4"])
    base = (os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "").strip() or default).rstrip("/") + "/latest"
    limits = (CONNECT_TIMEOUT, READ_TIMEOUT)
    if time.monotonic() < _service.silent_until:
        return None, _service.silence
    problem = ""
    with requests.Session() as session:
        session.trust_env = False  # a proxy must never see these
        for attempt, pause in enumerate(PAUSES, 1):
            try:
                headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
                answer = session.put(f"{base}/api/token", headers=headers, timeout=limits)
                if answer.status_code == 200:
                    headers = {"X-aws-ec2-metadata-token": answer.text}
                    answer = session.get(f"{base}/{path}", headers=headers, timeout=limits)
            except requests.RequestException as error:
                from .client import no_answer

                problem = no_answer(error).why
                if attempt >= UNANSWERED:
                    _service.silence, _service.silent_until = problem, time.monotonic() + SILENT_SECONDS
                    break
            else:
                if answer.status_code == 200:
                    return answer.text, ""
                problem = f"it answered {answer.status_code} to {answer.request.path_url}"
                if answer.status_code < 500 and answer.status_code != 429:
                    break
            time.sleep(pause)
    LOG.debug("no instance metadata %s: %s", path, problem)
    return None, problem


def problem_of_role() -> str:
    """Why the instance's role gave no credentials, empty if it was not asked."""
    return _service.problem


def credentials(refused: Credentials | None = None) -> Credentials | None:
    """Those of the environment, else of the instance's role; None: a request is not signed.

    Args:
        refused: those that S3 did not accept; they are fetched again.

    Raises:
        FetchError: ``fetch-no-credentials``, a variable cannot be a part of an access key.
    """
    key, secret, token = map(_variable, VARIABLES)
    if key and secret:
        return Credentials(key, secret, token or None)
    with _service.lock:
        now = time.time()
        if now < _service.keep_until and (refused is None or _service.role != refused):
            return _service.role
        found = _of_role()
        _service.problem = found if isinstance(found, str) else ""
        if not isinstance(found, str):
            _service.role, _service.expires = found
        elif refused is not None or now > _service.expires:
            _service.role = None
        _service.keep_until = max(_service.expires - EARLY_SECONDS, now + AGAIN_SECONDS)
        return _service.role


def _variable(name: str) -> str:
    """The value without the line end that a file may have left; FetchError without the value if no key can have it."""
    value = os.environ.get(name, "").strip()
    if value and not re.fullmatch("[!-~]+", value):
        what, remedy = f"{name} has characters that no access key has", f"correct or unset {name} of this shell"
        raise FetchError(what, remedy=remedy, code="fetch-no-credentials")
    return value


def _of_role() -> tuple[Credentials, float] | str:
    """The credentials of the instance's role, and when they expire; or why there are none."""
    text, problem = _answer(ROLE)
    if text and text.strip():
        text, problem = _answer(f"{ROLE}{text.split()[0]}")
    try:
        answer: dict[str, Any] = json.loads(text or "{}")
        if answer.get("Code", "Success") != "Success":
            return f"it answered {answer['Code']}: {answer.get('Message', '')}".rstrip(": ")
        found = Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["Token"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return problem or "its answer has no access key"
    if not all(isinstance(word, str) and word for word in found):
        return "its answer has an empty access key"
    try:
        return found, datetime.strptime(answer["Expiration"], "%Y-%m-%dT%H:%M:%S%z").timestamp()
    except (ValueError, KeyError, TypeError):
        return found, time.time() + 3 * EARLY_SECONDS
