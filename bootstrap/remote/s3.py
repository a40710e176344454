"""The region, addresses and signatures of S3 requests.

The endpoints follow the variables that AWS's own tools read: ``AWS_ENDPOINT_URL_S3`` before ``AWS_ENDPOINT_URL``.
"""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from ..core.errors import FetchError
from . import client
from .metadata import Credentials, metadata

# The DNS suffix of each partition by the start of its regions' names (botocore/data/partitions.json).
SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
    "eu-isoe-": "cloud.adc-e.uk",
    "eusc-": "amazonaws.eu",
}
ARN = re.compile(  # of an access point
    r"arn:[\w-]+:(?P<service>[\w-]+):(?P<region>[\w-]*):(?P<account>\d+):accesspoint[:/](?P<name>[A-Za-z0-9-]+)(?=/|$)"
)
LABEL = re.compile(r"[a-z0-9][a-z0-9-]*")  # of a host name
REGION = re.compile(r"[a-z]{2,4}(?:-[a-z]+){1,2}-\d{1,2}")


class Object(NamedTuple):
    """An object of S3: ``bucket`` is the name of a bucket, or the ARN or alias of an access point."""

    bucket: str
    key: str


def parse(uri: str) -> Object:
    """The bucket and the key of ``s3://BUCKET/KEY`` or ``s3://ARN/KEY``; FetchError ``fetch-scheme``.

    A key may begin with a slash, or have two in a row.
    """
    path = uri.removeprefix("s3://")
    arn = ARN.match(path)
    bucket, _, key = (path[: arn.end()], "", path[arn.end() + 1 :]) if arn else path.partition("/")
    if not bucket or not key.strip("/"):
        raise FetchError(f"{uri} lacks a bucket or a key", remedy="write s3://BUCKET/KEY", code="fetch-scheme")
    why, remedy = "", "write s3://BUCKET/KEY"
    if bucket.startswith("arn:") and not (arn and arn["service"] == "s3" and REGION.fullmatch(arn["region"])):
        why = "petal-node reads access points of S3 in one region only"
        remedy = "write s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/KEY, or s3://BUCKET/KEY"
    elif bucket.endswith("--x-s3"):
        why = "petal-node does not read directory buckets (S3 Express One Zone)"
        remedy = "copy the object into a general purpose bucket"
    elif {".", ".."} & set(key.split("/")):  # HTTP clients and proxies resolve them
        why = "a part of its key is . or .."
    if why:
        raise FetchError(f"{uri} cannot be used", why=why, remedy=remedy, code="fetch-scheme")
    return Object(bucket, key)


def region(uri: str, known: str | None = None) -> str:
    """The region of an access point's ARN, else ``known`` (from the cluster's files), else of the environment or IMDS.

    Raises:
        FetchError: ``fetch-region``, none of them names one.
    """
    arn = ARN.match(parse(uri).bucket)
    name = arn["region"] if arn else known
    name = name or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    name = name or metadata("meta-data/placement/region")
    if name:
        return name.strip()
    remedy = "set AWS_REGION, or cluster.region in /etc/chef/dna.json"
    raise FetchError("the AWS region is unknown", remedy=remedy, code="fetch-region")


def domain_of(region_name: str) -> str:
    """The region with the DNS suffix of its partition: ``eu-west-1.amazonaws.com``."""
    suffix = next((name for start, name in SUFFIXES.items() if region_name.startswith(start)), "amazonaws.com")
    return f"{region_name}.{suffix}"


def s3_url(uri: str, region_name: str) -> str:
    """The https address of an object: virtual-hosted, or path style if an endpoint is set.

    A bucket whose name is not one label of a host name gets path style: S3's certificate does not cover a dot, and
    names of the first years have capitals. FetchError ``fetch-scheme`` if the bucket or the key is missing.
    """
    bucket, key = parse(uri)
    return f"{_bucket_url(bucket, region_name)}/{quote(key, safe='/-_.~')}"


def list_url(uri: str, region_name: str) -> str:
    """The https address that answers with at most one key that begins with ``s3://bucket/key`` (ListObjectsV2)."""
    bucket, prefix = parse(uri)
    return f"{_bucket_url(bucket, region_name)}/?list-type=2&max-keys=1&prefix={quote(prefix, safe='')}"


def endpoint_variable() -> str:
    """The variable that names the endpoint, empty if none is set."""
    return next((name for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") if os.environ.get(name)), "")


def _bucket_url(bucket: str, region_name: str) -> str:
    variable = endpoint_variable()
    endpoint = os.environ.get(variable, "").rstrip("/")
    if variable and not re.match(r"https?://[^/]", endpoint):
        why, remedy = f"{variable} is not a URL: {endpoint}", f"correct {variable} {client.origin_of(variable)}"
        raise FetchError("S3 could not be reached", why=why, remedy=remedy)
    arn = ARN.match(bucket)
    if arn:
        host = f"{arn['name']}-{arn['account']}"
        if endpoint:
            parts = urlsplit(endpoint)
            return f"{parts.scheme}://{host}.{parts.netloc}{parts.path}"
        return f"https://{host}.{_service('s3-accesspoint')}.{domain_of(region_name)}"
    if endpoint:
        return f"{endpoint}/{bucket}"
    host = f"{_service('s3')}.{domain_of(region_name)}"
    return f"https://{bucket}.{host}" if LABEL.fullmatch(bucket) else f"https://{host}/{bucket}"


def _service(name: str) -> str:
    """The start of an endpoint's name, by the variables that AWS's own tools read (botocore/data/endpoints.json)."""
    for kind, addition in (("FIPS", "-fips"), ("DUALSTACK", ".dualstack")):
        name += addition if os.environ.get(f"AWS_USE_{kind}_ENDPOINT", "").lower() == "true" else ""
    return name


def s3_auth(found: Credentials, region_name: str, sha256: str | None = None) -> Any:
    """A requests authenticator that signs for S3 (Signature Version 4).

    Args:
        sha256: checksum of the body, so that the body is not read into memory to be signed.
    """
    from requests_aws4auth import AWS4Auth

    class S3Auth(AWS4Auth):  # type: ignore[misc]
        """Signs the path as it is sent: a key of S3 may have two slashes in a row, which AWS4Auth makes one."""

        def amz_cano_path(self, path: str) -> str:
            return quote(unquote(path), safe="/~")

    class Streamed(S3Auth):
        """Signs the given checksum instead of the body; S3 compares the body with it."""

        def __call__(self, request: Any) -> Any:
            body, request.body = request.body, None
            super().__call__(request)
            request.body = body
            return request

        def get_canonical_headers(self, request: Any, include: Any = None) -> Any:
            request.headers["x-amz-content-sha256"] = sha256
            return super().get_canonical_headers(request, include)

    return (Streamed if sha256 else S3Auth)(found.key, found.secret, region_name, "s3", session_token=found.token)
