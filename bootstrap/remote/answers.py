"""The answers of servers that are not the object: a reason to try again, or an error in S3's own words."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import unescape
from typing import Any, NamedTuple

from ..core.errors import FetchError, PetalError, redacted
from ..host.systemd import taken_environment
from . import s3
from .client import origin_of
from .metadata import problem_of_role

MOST_TEXT = 1 << 16
MOST_SHOWN = 500
TEMPORARY_STATUS = frozenset({408, 425, 429})
PERMANENT_STATUS = frozenset({501, 505, 507})  # not implemented, HTTP version, insufficient storage
TEMPORARY = re.compile(
    r"SlowDown|Throttl|RequestTimeout$|RequestLimitExceeded|BandwidthLimitExceeded|TooManyRequests|InternalError"
    r"|ServiceUnavailable|OperationAborted|PriorRequestNotComplete"
)
CREDENTIALS = re.compile(r"ExpiredToken|TokenRefreshRequired|InvalidToken|InvalidAccessKeyId|SignatureDoesNotMatch")
REGION_CODES = re.compile(
    r"AuthorizationHeaderMalformed|PermanentRedirect|TemporaryRedirect|IllegalLocationConstraint|IncorrectEndpoint"
)

# Of the metadata service, about a role that it has (EC2 user guide, troubleshoot-instance-profile).
ROLE_CODES = re.compile(r"^it answered (?:AssumeRole|InstanceProfile|Failed)")
FORBIDDEN = (401, 403)
UPLOAD = "correct the URI, or upload the object"
# A region in a host name, and in "The eu-central-1 location constraint is incompatible".
ENDPOINT = re.compile(rf"\bs3[.-](?:dualstack\.)?({s3.REGION.pattern})\.")
LOCATION = re.compile(rf"\bThe ({s3.REGION.pattern}|unspecified) location constraint")
POLICIES = r"no ((?:service control |resource control |session )policy|permissions boundary) allows"
NAMES = re.compile(r'"[^"]*"|arn:\S+')  # of objects and roles in a message: these may have any word


class _Kind(NamedTuple):
    """Refusals of one kind: the condition, the error's code, sentence and remedy, and words to add to the reason.

    Args:
        may_be_missing: the server answers so for a missing object too.
        remedy_below: the remedy for all objects below a directory, if ``remedy`` is for one object only.
    """

    matches: Callable[[Refusal], Any]
    code: str
    what: str
    remedy: tuple[str, ...]
    why: str = ""
    may_be_missing: bool = False
    remedy_below: tuple[str, ...] = ()


def _s3(pattern: str) -> Callable[[Refusal], Any]:
    """The condition that ``CODE: MESSAGE`` of S3, without the names in it, has a pattern."""
    return lambda refusal: refusal.region and re.search(pattern, NAMES.sub("", refusal.words))


_KINDS = (
    _Kind(
        _s3(r"VPC endpoint policy"),
        "fetch-forbidden",
        "the policy of a VPC endpoint does not let this node use {uri}",
        ("allow {action} on it in the policy of that endpoint: aws ec2 describe-vpc-endpoints --region {region}",),
    ),
    _Kind(
        _s3(r"KMS\.(?:Disabled|KMSInvalidState|NotFound)"),
        "fetch-forbidden",
        "the KMS key of {uri} is disabled, missing or pending deletion",
        (
            "aws kms describe-key --key-id {kms_key}    # then: aws kms enable-key, or cancel-key-deletion",
            "or encrypt the object again, with another key",
        ),
    ),
    _Kind(
        _s3(POLICIES),
        "fetch-forbidden",
        "a {policy} does not let this node use {uri}",
        ("allow {action} in that {policy}: the rights of the role alone do not suffice",),
    ),
    _Kind(
        _s3(r"^KMS\.|perform: kms:|AWS ?KMS|KMS key"),
        "fetch-forbidden",
        "{uri} is encrypted with a KMS key that this node may not use",
        ("allow kms:Decrypt on the key, to write also kms:GenerateDataKey: in the role's policy and in the key's",),
    ),
    _Kind(
        _s3(r"RequestTimeTooSkewed|RequestExpired|Request has expired|Signature (?:expired|not yet)"),
        "fetch-refused",
        "the clock of this node differs from the clock of S3, so {uri} could not be {verb}",
        ("timedatectl", "chronyc makestep    # or correct the time source: 169.254.169.123 on EC2"),
    ),
    _Kind(
        _s3(r"InvalidObjectState"),
        "fetch-refused",
        "{uri} is archived, and S3 reads it only after it was restored",
        ("aws s3api restore-object --bucket {bucket} --key {key} --restore-request {restore}",),
        remedy_below=(
            (
                "aws s3api list-objects-v2 --bucket {bucket} --prefix {prefix} --output text --query "
                "\"Contents[?contains('{classes}', StorageClass)].[Key]\" | while IFS= read -r key; do "
                'aws s3api restore-object --bucket {bucket} --key "$key" --restore-request {restore}; done'
            ),
        ),
    ),
    _Kind(
        _s3(r"(?i)requester.?pays"),
        "fetch-refused",
        "{uri} is in a bucket with requester pays, and petal-node does not pay for requests",
        ("copy it into a bucket of yours: aws s3 cp --request-payer requester {source} s3://BUCKET/KEY",),
        remedy_below=(
            "copy them into a bucket of yours: aws s3 cp --recursive --request-payer requester {source} s3://BUCKET/KEY/",
        ),
    ),
    _Kind(
        _s3(r"explicit deny"),
        "fetch-forbidden",
        "a policy denies this node the use of {uri}",
        ("correct that Deny statement: it counts more than the rights of the role",),
    ),
    _Kind(
        _s3(r"NoSuchBucket|InvalidBucketName|NoSuchAccessPoint"),
        "fetch-missing",
        "the bucket of {uri} does not exist",
        ("correct the URI, or create the bucket",),
    ),
    _Kind(
        lambda refusal: refusal.signed and refusal.refuses_credentials,
        "fetch-no-credentials",
        "S3 does not accept the credentials of this node for {uri}",
        ("aws sts get-caller-identity", "AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN are used before the role"),
    ),
    _Kind(
        lambda refusal: refusal.lacks_credentials and ROLE_CODES.search(problem_of_role()),
        "fetch-no-credentials",
        "{uri} cannot be {verb}: the role of this instance gives no credentials",
        (
            "let ec2.amazonaws.com assume the role, in its trust policy: aws iam get-role --role-name ROLE",
            "aws ec2 describe-iam-instance-profile-associations    # associate the profile again if it was replaced",
        ),
        "; of the instance metadata service{service}",
    ),
    _Kind(
        lambda refusal: refusal.lacks_credentials,
        "fetch-no-credentials",
        "{uri} cannot be {verb} without credentials",
        (
            "curl -m 5 -sSX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token",
            "give the instance a role; on head and login nodes only root can use the metadata service",
            'profiles (AWS_PROFILE, ~/.aws) are not read: eval "$(aws configure export-credentials --format env)"',
        ),
        "; neither the environment nor the instance metadata service has credentials{service}",
    ),
    _Kind(
        lambda refusal: refusal.is_elsewhere and refusal.headers.get("x-amz-bucket-region") == refusal.region,
        "fetch-region",
        "{uri} is in the region {region}, and {endpoint} cannot serve it",
        ("{right_endpoint}", "{look_up}"),
    ),
    _Kind(
        lambda refusal: refusal.is_elsewhere,
        "fetch-region",
        "{uri} is not in the region {region}",
        ("{right_region}", "{look_up}"),
    ),
    _Kind(
        lambda refusal: refusal.region and refusal.status in FORBIDDEN,
        "fetch-forbidden",
        "{uri} may not be {verb} by this node",
        ("{look_up}", "head and queues: Iam/S3Access; login nodes: Iam/AdditionalIamPolicies"),
        "; S3 also answers 403 for a missing key if the role lacks s3:ListBucket",
        may_be_missing=True,
    ),
    _Kind(
        lambda refusal: refusal.status in FORBIDDEN,
        "fetch-forbidden",
        "{uri} may not be {verb} by this node",
        (
            "{look_up}",
            "petal-node sends no credentials over https://; use s3:// for an object that the role may read",
        ),
        may_be_missing=True,
    ),
    _Kind(lambda refusal: refusal.status in (404, 410), "fetch-missing", "{uri} does not exist", ("{look_up}", UPLOAD)),
    _Kind(lambda _: True, "fetch-refused", "the server does not let this node use {uri}", ("{look_up}",)),
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
        if self.status in PERMANENT_STATUS:
            return False
        return self.status >= 500 or self.status in TEMPORARY_STATUS or bool(TEMPORARY.search(self.code))

    @property
    def refuses_credentials(self) -> bool:
        """True if S3 does not accept the credentials of the request. HEAD and some endpoints give no code."""
        return bool(CREDENTIALS.search(self.code))

    @property
    def lacks_credentials(self) -> bool:
        """True if S3 refuses because the request was not signed."""
        return bool(self.region and not self.signed and (self.refuses_credentials or self.status in FORBIDDEN))

    @property
    def is_elsewhere(self) -> bool:
        """True if S3 refuses because it has the bucket in another place."""
        return bool(self.region and (REGION_CODES.search(self.code) or self.status in (301, 307)))

    @property
    def right_region(self) -> str:
        """The region that S3 names instead of that of the request, else empty."""
        header = self.headers.get("x-amz-bucket-region", "")
        expected = re.search(rf"expecting '({s3.REGION.pattern})'", self.text)
        name = header or element(self.text, "Region") or (expected[1] if expected else "")
        if not name and self.is_elsewhere:
            host = ENDPOINT.search(f"{element(self.text, 'Endpoint')} {self.headers.get('Location', '')}")
            found = host or LOCATION.search(element(self.text, "Message"))
            name = found[1].replace("unspecified", "us-east-1") if found else ""
        return name if s3.REGION.fullmatch(name) and name != self.region else ""

    @property
    def words(self) -> str:
        """S3's code and message."""
        return f"{self.code}: {element(self.text, 'Message')}"

    @property
    def kind(self) -> _Kind:
        """The first kind whose condition it meets."""
        return next(kind for kind in _KINDS if kind.matches(self))

    def error(self) -> FetchError:
        """The error with its remedy."""
        kind, values = self.kind, self._values()
        why = self.why + ("" if kind.may_be_missing and self.verb == "written" else kind.why.format(**values))
        remedy = [line.format(**values) for line in kind.remedy]
        what, hides = kind.what.format(**values), kind.may_be_missing
        return FetchError(what, why=why, remedy=remedy, code=kind.code, may_be_missing=hides)

    def remedy_below(self, directory: str) -> tuple[str, ...]:
        """The remedy for all objects below ``s3://BUCKET/KEY/`` that S3 refuses as it refused this one."""
        values = self._values()
        if self.region:
            prefix = s3.parse(f"{directory}object").key.removesuffix("object")
            values |= {"source": shlex.quote(directory), "prefix": shlex.quote(prefix)}
        return tuple(line.format(**values) for line in self.kind.remedy_below or self.kind.remedy)

    def _values(self) -> dict[str, str]:
        """The values of the fields in the texts of a kind."""
        where = s3.parse(self.uri) if self.region else s3.Object("", "")
        action = re.search(r"perform: ([\w:]+)", self.words)
        policy, kms_key = re.search(POLICIES, self.words), re.search(r"arn:[\w:/-]+:key/[\w-]+", self.words)
        tier = element(self.text, "StorageClass") == "INTELLIGENT_TIERING"
        name, problem = self.right_region, problem_of_role()
        variable = s3.endpoint_variable()
        return {
            "uri": self.uri,
            "endpoint": f"the endpoint {os.environ[variable]}" if variable else "the endpoint of that region",
            "right_endpoint": f"correct {variable} {origin_of(variable)}" if variable else "try again later",
            "source": shlex.quote(self.uri),
            "look_up": look_up(self.uri),
            "verb": self.verb,
            "region": self.region,
            "right_region": f"set AWS_REGION={name}" if name else "check AWS_REGION and AWS_ENDPOINT_URL",
            "bucket": shlex.quote(where.bucket),
            "key": shlex.quote(where.key),
            "action": action[1] if action else "s3:GetObject",
            "policy": policy[1] if policy else "policy",
            "kms_key": kms_key[0] if kms_key else "KEY",
            "restore": "'{}'" if tier else "Days=7",
            "classes": "INTELLIGENT_TIERING" if tier else "GLACIER DEEP_ARCHIVE",
            "service": f" ({problem})" if problem else "",
        }


def kind_of(error: PetalError) -> str:
    """Equal for errors of one kind, whichever object they concern."""
    return error.__cause__.kind.what if isinstance(error.__cause__, Refusal) else error.code


def remedy_below(error: PetalError, directory: str) -> tuple[str, ...]:
    """The remedy of an error of one object, for all objects below a directory that may have the same error."""
    return error.__cause__.remedy_below(directory) if isinstance(error.__cause__, Refusal) else error.remedy


def text_of(answer: Any, deadline: float) -> str:
    """The body of an answer: at most 64 KiB, and only the part that arrives before ``deadline``."""
    data = b""
    while len(data) < MOST_TEXT and (block := answer.raw.read1(MOST_TEXT, decode_content=True)):
        data += block
        if time.monotonic() > deadline:
            break
    return data[:MOST_TEXT].decode(errors="replace")


def look_up(uri: str) -> str:
    """The command that shows whether a remote object exists, with the rights and through the servers that a read needs.

    It has the variables that this process got from the last hook, except those with a password.
    """
    words = ["curl", "-sSIL", uri]
    if uri.startswith("s3://"):
        where = s3.parse(uri)
        words = ["aws", "s3api", "head-object", "--bucket", where.bucket, "--key", where.key]
        if uri.endswith("/"):  # a directory was listed
            words = ["aws", "s3", "ls", uri]
    taken = {name: value for name, value in taken_environment().items() if redacted(value) == value}
    names = [name for name in sorted(taken) if words[0] == "aws" or not name.startswith("AWS_")]
    return " ".join((*(f"{name}={shlex.quote(taken[name])}" for name in names), shlex.join(words)))


CDATA = ("<![CDATA[", "]]>")


def element(text: str, name: str) -> str:
    """The text of an XML element without children. No parser: its input could be hostile, and the format is fixed."""
    _, _, rest = text.partition(f"<{name}>")
    content, end, _ = rest.partition(f"</{name}>")
    literal = content.strip()
    if literal.startswith(CDATA[0]) and literal.endswith(CDATA[1]):  # servers that imitate S3 write it so
        return literal[len(CDATA[0]) : -len(CDATA[1])].strip() if end else ""
    return unescape(content).strip() if end else ""
