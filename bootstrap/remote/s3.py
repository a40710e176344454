"""Instance metadata (IMDSv2 only), credentials, and the addresses and signatures of S3 requests.

Credentials are looked up when a request needs them and are never stored. The endpoints follow the variables that AWS's
own tools read: ``AWS_ENDPOINT_URL_S3``, ``AWS_ENDPOINT_URL``, ``AWS_EC2_METADATA_SERVICE_ENDPOINT``.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from ..core.errors import FetchError
from ..host.log import LOG

IMDS = "http://169.254.169.254"
IMDS_TIMEOUT = 2.0


def metadata(path: str) -> str | None:
    """The text at ``/latest/<path>`` of the instance metadata service, None without a value or an answer.

    Version 2 of the service wants a session token first (EC2 user guide, instancedata-data-retrieval).
    """
    import requests

    base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", IMDS).rstrip("/") + "/latest"
    session = requests.Session()
    session.trust_env = False  # a proxy must never see these
    try:
        headers = {"X-aws-ec2-metadata-token-ttl-seconds": "300"}
        token = session.put(f"{base}/api/token", headers=headers, timeout=IMDS_TIMEOUT)
        token.raise_for_status()
        answer = session.get(f"{base}/{path}", headers={"X-aws-ec2-metadata-token": token.text}, timeout=IMDS_TIMEOUT)
    except requests.RequestException as error:
        LOG.debug("no instance metadata %s: %s", path, error)
        return None
    return answer.text if answer.status_code == 200 else None


class Credentials(NamedTuple):
    """An access key; ``token`` is None for a user's own."""

    key: str
    secret: str
    token: str | None


def credentials() -> Credentials | None:
    """Those of the environment, else of the instance's role; None: a request is not signed."""
    import json

    key, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
    if key and secret:
        return Credentials(key, secret, os.environ.get("AWS_SESSION_TOKEN"))
    roles = metadata("meta-data/iam/security-credentials/")
    if not roles:
        return None
    text = metadata(f"meta-data/iam/security-credentials/{roles.split()[0]}")
    try:
        answer: dict[str, Any] = json.loads(text or "{}")
        return Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["Token"])
    except (ValueError, KeyError, TypeError):
        return None


def region(known: str | None = None) -> str:
    """The region: ``known`` (from the cluster's files), else the environment, else IMDS; else ``fetch-region``."""
    name = known or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    name = name or metadata("meta-data/placement/region")
    if name:
        return name.strip()
    remedy = "set AWS_REGION, or cluster.region in /etc/chef/dna.json"
    raise FetchError("the AWS region is unknown", remedy=remedy, code="fetch-region")


def s3_url(uri: str, region_name: str) -> str:
    """The https address of ``s3://bucket/key``: virtual-hosted, or path style if an endpoint is set.

    A bucket with a dot in its name gets path style, because S3's certificate does not cover it. FetchError
    ``fetch-scheme`` if the bucket or the key is missing.
    """
    parts = urlsplit(uri, allow_fragments=False)
    bucket, key = parts.netloc, parts.path.lstrip("/") + (f"?{parts.query}" if parts.query else "")
    if not bucket or not key:
        raise FetchError(f"{uri} lacks a bucket or a key", remedy="write s3://BUCKET/KEY", code="fetch-scheme")
    return f"{_bucket_url(bucket, region_name)}/{quote(key, safe='/-_.~')}"


def list_url(uri: str, region_name: str) -> str:
    """The https address that answers with at most one key that begins with ``s3://bucket/key`` (ListObjectsV2)."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    return f"{_bucket_url(bucket, region_name)}/?list-type=2&max-keys=1&prefix={quote(prefix, safe='')}"


def _bucket_url(bucket: str, region_name: str) -> str:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    host = f"s3.{region_name}.amazonaws.com" + (".cn" if region_name.startswith("cn-") else "")
    return f"https://{host}/{bucket}" if "." in bucket else f"https://{bucket}.{host}"


def s3_auth(region_name: str, sha256: str | None = None) -> Any:
    """A requests authenticator that signs for S3 (Signature Version 4), or None without credentials.

    Args:
        sha256: checksum of the body, so that the body is not read into memory to be signed.
    """
    found = credentials()
    if found is None:
        return None
    from requests_aws4auth import AWS4Auth

    class Streamed(AWS4Auth):  # type: ignore[misc]
        """Signs the given checksum instead of the body; S3 compares the body with it."""

        def __call__(self, request: Any) -> Any:
            body, request.body = request.body, None
            super().__call__(request)
            request.body = body
            return request

        def get_canonical_headers(self, request: Any, include: Any = None) -> Any:
            request.headers["x-amz-content-sha256"] = sha256
            return super().get_canonical_headers(request, include)

    return (Streamed if sha256 else AWS4Auth)(found.key, found.secret, region_name, "s3", session_token=found.token)
