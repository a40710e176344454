"""The answers of servers that are not the object: a reason to try again, or an error in S3's own words."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any, NamedTuple

from ..core.errors import FetchError
from . import s3
from .metadata import problem

MOST_TEXT = 1 << 16
MOST_SHOWN = 500
TEMPORARY_STATUS = frozenset({408, 425, 429})
TEMPORARY = re.compile(
    r"SlowDown|Throttl|RequestTimeout$|RequestLimitExceeded|BandwidthLimitExceeded|TooManyRequests|InternalError"
    r"|ServiceUnavailable|OperationAborted|PriorRequestNotComplete"
)
CREDENTIALS = re.compile(r"ExpiredToken|TokenRefreshRequired|InvalidToken|InvalidAccessKeyId|SignatureDoesNotMatch")
REGION_CODES = re.compile(
    r"AuthorizationHeaderMalformed|PermanentRedirect|TemporaryRedirect|IllegalLocationConstraint|IncorrectEndpoint"
)


class _Kind(NamedTuple):
    """A refusal with words of its own: a pattern of ``CODE: MESSAGE``, the error's code, sentence and remedy."""

    pattern: str
    code: str
    what: str
    remedy: tuple[str, ...]


_KINDS = (
    _Kind(
        r"VPC endpoint policy",
        "fetch-forbidden",
        "the policy of a VPC endpoint does not let this node use {uri}",
        ("allow {action} on it in the policy of that endpoint: aws ec2 describe-vpc-endpoints --region {region}",),
    ),
    _Kind(
        r"^KMS\.|kms:[A-Z]|AWS ?KMS|KMS key",
        "fetch-forbidden",
        "{uri} is encrypted with a KMS key that this node may not use",
        ("allow kms:Decrypt on the key, to write also kms:GenerateDataKey: in the role's policy and in the key's",),
    ),
    _Kind(
        r"RequestTimeTooSkewed|RequestExpired|Request has expired|Signature (?:expired|not yet)",
        "fetch-refused",
        "the clock of this node differs from the clock of S3, so {uri} could not be {verb}",
        ("timedatectl", "chronyc makestep    # or correct the time source: 169.254.169.123 on EC2"),
    ),
    _Kind(
        r"InvalidObjectState",
        "fetch-refused",
        "{uri} is archived, and S3 reads it only after it was restored",
        ("aws s3api restore-object --bucket {bucket} --key {key} --restore-request {restore}",),
    ),
    _Kind(
        r"(?i)requester.?pays",
        "fetch-refused",
        "{uri} is in a bucket whose readers pay, which petal-node does not do",
        ("copy it into a bucket of yours: aws s3 cp --request-payer requester {source} s3://BUCKET/KEY",),
    ),
    _Kind(
        r"explicit deny",
        "fetch-forbidden",
        "a policy denies this node the use of {uri}",
        ("correct that Deny statement: it counts more than the rights of the role",),
    ),
    _Kind(
        r"NoSuchBucket|InvalidBucketName|NoSuchAccessPoint",
        "fetch-missing",
        "the bucket of {uri} does not exist",
        ("correct the URI, or create the bucket: aws s3api head-bucket --bucket {bucket}",),
    ),
)


@dataclass(eq=False)
class Refusal(Exception):
    """A request that a server answered with an error.

    Args:
        verb: what the request wanted, ``read`` or ``written``.
        status: of HTTP.
        code: S3's own, empty if the answer has none.
        text: the whole answer, at most 64 KiB.
        region: in which the request was sent, empty for a server that is not S3.
        signed: the request had credentials.
    """

    uri: str
    verb: str
    status: int
    code: str
    text: str
    headers: Mapping[str, str]
    region: str
    signed: bool

    @property
    def why(self) -> str:
        """The server's own words."""
        printable = "".join(letter if letter.isprintable() else " " for letter in element(self.text, "Message"))
        message = " ".join(printable.split())[:MOST_SHOWN]
        words = f": {self.code}: {message}".rstrip(": ") if self.code else ""
        times = [element(self.text, name) for name in ("RequestTime", "ServerTime")]
        return f"the server answered {self.status}{words}" + (
            f" (node {times[0]}, S3 {times[1]})" if all(times) else ""
        )

    @property
    def is_temporary(self) -> bool:
        """True if the same request may succeed later."""
        return self.status >= 500 or self.status in TEMPORARY_STATUS or bool(TEMPORARY.search(self.code))

    @property
    def refuses_credentials(self) -> bool:
        """True if S3 does not accept the credentials of the request. HEAD and some endpoints give no code."""
        return bool(CREDENTIALS.search(self.code))

    @property
    def right_region(self) -> str:
        """The region that S3 names instead of that of the request, else empty."""
        header = self.headers.get("x-amz-bucket-region", "")
        expected = re.search(rf"expecting '({s3.REGION.pattern})'", self.text)
        name = header or element(self.text, "Region") or (expected[1] if expected else "")
        if not name and (REGION_CODES.search(self.code) or self.status in (301, 307)):
            named = s3.REGION.findall(f"{self.text} {self.headers.get('Location', '')}")
            name = next((entry for entry in named if entry != self.region), "")
        return name if s3.REGION.fullmatch(name) and name != self.region else ""

    def error(self) -> FetchError:
        """The error with its remedy."""
        if not self.region:
            return self._of_https()
        words = f"{self.code}: {element(self.text, 'Message')}"
        where = s3.parse(self.uri)
        action = re.search(r"perform: ([\w:]+)", words)
        tier = element(self.text, "StorageClass") == "INTELLIGENT_TIERING"
        values = {
            "uri": self.uri,
            "source": shlex.quote(self.uri),
            "verb": self.verb,
            "region": self.region,
            "bucket": shlex.quote(where.bucket),
            "key": shlex.quote(where.key),
            "action": action[1] if action else "s3:GetObject",
            "restore": "'{}'" if tier else "Days=7",
        }
        for kind in _KINDS:
            if re.search(kind.pattern, words):
                remedy = [line.format(**values) for line in kind.remedy]
                return FetchError(kind.what.format(**values), why=self.why, remedy=remedy, code=kind.code)
        if self.refuses_credentials or (self.status in (401, 403) and not self.signed):
            return self._without_credentials()
        if REGION_CODES.search(self.code) or self.status in (301, 307):
            what, name = f"{self.uri} is not in the region {self.region}", self.right_region
            remedy = [f"set AWS_REGION={name}" if name else "check AWS_REGION and AWS_ENDPOINT_URL", look_up(self.uri)]
            return FetchError(what, why=self.why, remedy=remedy, code="fetch-region")
        if self.status in (401, 403):
            why = self.why + ("" if self.verb == "written" else LIST_BUCKET)
            hint = "head and queues: Iam/S3Access; login nodes: Iam/AdditionalIamPolicies"
            what = f"{self.uri} may not be {self.verb} by this node"
            return FetchError(what, why=why, remedy=(look_up(self.uri), hint), code="fetch-forbidden")
        return self._other()

    def _of_https(self) -> FetchError:
        if self.status in (401, 403):
            hint = "petal-node sends no credentials over https://; use s3:// for an object that the role may read"
            what = f"{self.uri} may not be {self.verb} by this node"
            return FetchError(what, why=self.why, remedy=(look_up(self.uri), hint), code="fetch-forbidden")
        return self._other()

    def _without_credentials(self) -> FetchError:
        if self.signed:
            return FetchError(
                f"S3 does not accept the credentials of this node for {self.uri}",
                why=self.why,
                remedy=(
                    "aws sts get-caller-identity",
                    "AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN are used before the role",
                ),
                code="fetch-no-credentials",
            )
        reason = f" ({problem()})" if problem() else ""
        return FetchError(
            f"{self.uri} cannot be {self.verb} without credentials",
            why=f"{self.why}; neither the environment nor the instance metadata service has credentials{reason}",
            remedy=(
                "curl -sS -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
                "give the instance a role; on head and login nodes only root can use the metadata service",
            ),
            code="fetch-no-credentials",
        )

    def _other(self) -> FetchError:
        if self.status in (404, 410):
            return FetchError(
                f"{self.uri} does not exist", why=self.why, remedy=look_up(self.uri), code="fetch-missing"
            )
        what = f"the server does not let this node use {self.uri}"
        return FetchError(what, why=self.why, remedy=look_up(self.uri), code="fetch-refused")


LIST_BUCKET = "; S3 also answers 403 for a missing key if the role lacks s3:ListBucket"


def check(uri: str, answer: Any, *, region: str, signed: bool, deadline: float, verb: str = "read") -> None:
    """Raises the Refusal of an answer of requests, unless it is the object, a part of it, or 416."""
    if answer.status_code in (200, 201, 204, 206, 416):
        return
    text = text_of(answer, deadline) if region else ""
    code = element(text, "Code")[:100]
    raise Refusal(uri, verb, answer.status_code, code, text, answer.headers, region, signed)


def text_of(answer: Any, deadline: float) -> str:
    """The body of an answer: at most 64 KiB, and only the part that arrives before ``deadline``."""
    data = b""
    while len(data) < MOST_TEXT and (block := answer.raw.read1(MOST_TEXT, decode_content=True)):
        data += block
        if time.monotonic() > deadline:
            break
    return data[:MOST_TEXT].decode(errors="replace")


def look_up(uri: str) -> str:
    """The command that shows whether a remote object exists."""
    return shlex.join(["aws", "s3", "ls", uri] if uri.startswith("s3://") else ["curl", "-sSIL", uri])


def element(text: str, name: str) -> str:
    """The text of an XML element without children. No parser: its input could be hostile, and the format is fixed."""
    _, _, rest = text.partition(f"<{name}>")
    content, end, _ = rest.partition(f"</{name}>")
    return unescape(content).strip() if end else ""
