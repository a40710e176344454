"""What AWS tells a node: instance metadata (IMDSv2 only), the instance role's credentials, and how S3 is addressed.

Credentials are asked for when a request needs them and are never stored. The endpoints can be moved with the variables
that AWS's own tools read: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_EC2_METADATA_SERVICE_ENDPOINT``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from ..core.errors import FetchError

if TYPE_CHECKING:
    import requests

IMDS = "http://169.254.169.254"
IMDS_TIMEOUT = 2.0


@dataclass(frozen=True)
class Credentials:
    """A key that signs requests; the token comes with a role's temporary keys."""

    key: str
    secret: str
    token: str | None = None


class Imds:
    """The instance metadata service, version 2: a session token first (EC2 user guide, instancedata-data-retrieval)."""

    def __init__(self) -> None:
        self._base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS).rstrip("/")
        self._token: str | None = None

    def get(self, path: str) -> str | None:
        """The text at ``/latest/<path>``, or None where the service has no such value or does not answer."""
        import requests

        session = requests.Session()
        session.trust_env = False  # a proxy must never see these
        try:
            answer = session.get(
                f"{self._base}/latest/{path}",
                headers={"X-aws-ec2-metadata-token": self._session_token(session)},
                timeout=IMDS_TIMEOUT,
            )
        except requests.RequestException:
            return None
        return answer.text if answer.status_code == 200 else None

    def _session_token(self, session: requests.Session) -> str:
        if self._token is None:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
            answer = session.put(f"{self._base}/latest/api/token", headers=headers, timeout=IMDS_TIMEOUT)
            answer.raise_for_status()
            self._token = answer.text
        return self._token


def credentials() -> Credentials | None:
    """The key in the environment, else the instance role's, else None (then a request goes out unsigned)."""
    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return Credentials(key, secret, os.environ.get("AWS_SESSION_TOKEN"))
    return _role_credentials(Imds())


def _role_credentials(imds: Imds) -> Credentials | None:
    import json

    roles = imds.get("meta-data/iam/security-credentials/")
    if not roles:
        return None
    text = imds.get(f"meta-data/iam/security-credentials/{roles.split()[0]}")
    try:
        answer: dict[str, Any] = json.loads(text or "{}")
        return Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["Token"])
    except (ValueError, KeyError, TypeError):
        return None


def region(known: str | None = None) -> str:
    """The region: what the cluster's files say, else the environment, else IMDS.

    Raises:
        FetchError: nobody tells.
    """
    for value in (known, os.environ.get("AWS_REGION"), os.environ.get("AWS_DEFAULT_REGION")):
        if value:
            return value
    found = Imds().get("meta-data/placement/region")
    if found:
        return found.strip()
    remedy = "set AWS_REGION, or cluster.region in /etc/chef/dna.json"
    raise FetchError("The AWS region is unknown", remedy=remedy, code="fetch-region")


def s3_url(uri: str, region_name: str) -> str:
    """The https address of ``s3://bucket/key``: virtual-hosted, or path style where an endpoint is given.

    A bucket whose name holds a dot is addressed in path style, since no certificate covers it.
    """
    parts = urlsplit(uri, allow_fragments=False)
    bucket, key = parts.netloc, parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    if not bucket or not key:
        raise FetchError(f"{uri} names no object", remedy="write s3://BUCKET/KEY", code="fetch-scheme")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    path = quote(key, safe="/-_.~")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}/{path}"
    host = f"s3.{region_name}.amazonaws.com" + (".cn" if region_name.startswith("cn-") else "")
    return f"https://{host}/{bucket}/{path}" if "." in bucket else f"https://{bucket}.{host}/{path}"


def s3_auth(region_name: str, sha256: str | None = None) -> Any:
    """A requests authenticator that signs for S3 (Signature Version 4), or None without credentials.

    Args:
        sha256: of the body that is sent, which is then not read into memory to be signed.
    """
    found = credentials()
    if found is None:
        return None
    from requests_aws4auth import AWS4Auth

    if sha256 is None:
        return AWS4Auth(found.key, found.secret, region_name, "s3", session_token=found.token)

    class Streamed(AWS4Auth):  # type: ignore[misc]
        """Leaves the body alone: its checksum is part of what is signed, and S3 compares what comes with it."""

        def __call__(self, request: Any) -> Any:
            body, request.body = request.body, None
            super().__call__(request)
            request.body = body
            return request

        def get_canonical_headers(self, request: Any, include: Any = None) -> Any:
            request.headers["x-amz-content-sha256"] = sha256
            return super().get_canonical_headers(request, include)

    return Streamed(found.key, found.secret, region_name, "s3", session_token=found.token)
