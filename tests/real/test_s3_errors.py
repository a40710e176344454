"""S3's own error documents, the credentials of an instance, and regions: a server answers as AWS does."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
import requests

from bootstrap.core.errors import FetchError
from bootstrap.host.system import System
from bootstrap.remote import attempts, metadata
from bootstrap.remote.fetch import Source, exists, read, upload
from tests.deadlines import SOON
from tests.real.server import Behaviour, Handler, Server, always, answer, content, first, serving

Serve = Callable[[Behaviour], Server]
DENIED = 'User: arn:aws:sts::1:assumed-role/r/i-0 is not authorized to perform: {} on resource: "{}" because {}'
BUCKET = "arn:aws:s3:::b/kms/petal.yaml"
KEY = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd"


def refuses(status: int, code: str, message: str = "", more: str = "", **headers: str) -> Behaviour:
    """An error document of S3."""
    text = f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"

    def behave(handler: Handler, _: int) -> None:
        handler.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(text))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(text.encode())

    return behave


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    """Start a server and make it the S3 endpoint, for requests with keys."""
    monkeypatch.setattr(metadata, "_service", metadata._Service())
    monkeypatch.setattr(attempts, "_regions", {})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    with named_in(monkeypatch, "AWS_ENDPOINT_URL") as start:
        yield start


@contextmanager
def named_in(monkeypatch: pytest.MonkeyPatch, variable: str) -> Iterator[Serve]:
    """Start servers whose addresses a variable of the environment has."""
    with ExitStack() as servers:

        def start(behave: Behaviour) -> Server:
            server = servers.enter_context(serving(behave))
            monkeypatch.setenv(variable, server.url)
            return server

        yield start


def refused(tmp_path: Path, seconds: float = 20) -> FetchError:
    with pytest.raises(FetchError) as caught:
        read(Source("s3://b/petal.yaml", None, "us-east-1", seconds), tmp_path)
    return caught.value


REFUSALS = {
    "endpoint policy": (
        refuses(
            403,
            "AccessDenied",
            DENIED.format("s3:GetObject", BUCKET, "no VPC endpoint policy allows the s3:GetObject action"),
        ),
        "fetch-forbidden",
        "policy of a VPC endpoint",
        "allow s3:GetObject on it",
    ),
    "kms": (
        refuses(
            403, "AccessDenied", DENIED.format("kms:Decrypt", KEY, "no identity-based policy allows the kms:Decrypt")
        ),
        "fetch-forbidden",
        "KMS key",
        "kms:Decrypt",
    ),
    "kms key is disabled": (
        refuses(400, "KMS.DisabledException", f"{KEY} is disabled."),
        "fetch-forbidden",
        "the KMS key of s3://b/petal.yaml is disabled",
        f"aws kms describe-key --key-id {KEY} ",
    ),
    "kms key will be deleted": (
        refuses(400, "KMS.KMSInvalidStateException", f"{KEY} is pending deletion."),
        "fetch-forbidden",
        "pending deletion",
        "cancel-key-deletion",
    ),
    "boundary": (
        refuses(
            403,
            "AccessDenied",
            DENIED.format("s3:GetObject", BUCKET, "no permissions boundary allows the s3:GetObject action"),
        ),
        "fetch-forbidden",
        "a permissions boundary does not let this node use",
        "allow s3:GetObject in that permissions boundary",
    ),
    "organization": (
        refuses(
            403,
            "AccessDenied",
            DENIED.format("s3:GetObject", BUCKET, "no service control policy allows the s3:GetObject action"),
        ),
        "fetch-forbidden",
        "a service control policy does not let this node use",
        "allow s3:GetObject in that service control policy",
    ),
    "clock": (
        refuses(
            403,
            "RequestTimeTooSkewed",
            "The difference between the request time and the current time is too large.",
            "<RequestTime>20261130T010000Z</RequestTime><ServerTime>2026-11-30T11:00:00Z</ServerTime>",
        ),
        "fetch-refused",
        "the clock of this node differs",
        "timedatectl",
    ),
    "archived": (
        refuses(
            403,
            "InvalidObjectState",
            "The operation is not valid for the object&apos;s storage class",
            "<StorageClass>GLACIER</StorageClass>",
        ),
        "fetch-refused",
        "is archived",
        "aws s3api restore-object --bucket b --key petal.yaml --restore-request Days=7",
    ),
    "archived by access": (
        refuses(403, "InvalidObjectState", "no", "<StorageClass>INTELLIGENT_TIERING</StorageClass>"),
        "fetch-refused",
        "is archived",
        "--restore-request '{}'",
    ),
    "requester pays": (
        refuses(403, "AccessDenied", "Bucket is requester pays bucket but no requester pays header is specified."),
        "fetch-refused",
        "with requester pays, and petal-node does not pay",
        "--request-payer requester",
    ),
    "explicit deny": (
        refuses(
            403,
            "AccessDenied",
            DENIED.format("s3:GetObject", BUCKET, "with an explicit deny in a resource-based policy"),
        ),
        "fetch-forbidden",
        "a policy denies",
        "Deny statement",
    ),
    "no right": (
        refuses(
            403,
            "AccessDenied",
            DENIED.format("s3:GetObject", BUCKET, "no identity-based policy allows the s3:GetObject"),
        ),
        "fetch-forbidden",
        "may not be read by this node",
        "Iam/S3Access",
    ),
    "no right, and names with the words of other kinds": (
        refuses(
            403,
            "AccessDenied",
            "User: arn:aws:sts::1:assumed-role/AWSKMS-requester-pays/i-0 is not authorized to perform: s3:GetObject on"
            ' resource: "arn:aws:s3:::b/KMS key/VPC endpoint policy/explicit deny" because no policy allows it',
        ),
        "fetch-forbidden",
        "may not be read by this node",
        "Iam/S3Access",
    ),
    "unknown key": (
        refuses(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        "fetch-no-credentials",
        "does not accept the credentials",
        "aws sts get-caller-identity",
    ),
    "no bucket": (
        refuses(404, "NoSuchBucket", "The specified bucket does not exist"),
        "fetch-missing",
        "the bucket of s3://b/petal.yaml does not exist",
        "correct the URI, or create the bucket",
    ),
    "unknown code": (
        refuses(400, "InvalidRequest", "\x1b[31mObject is \x00 encrypted with a customer key\n"),
        "fetch-refused",
        "does not let this node use",
        "aws s3api head-object --bucket b --key petal.yaml",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_of_s3_has_its_own_words_and_is_not_retried(serve: Serve, tmp_path: Path, name: str) -> None:
    behave, code, what, remedy = REFUSALS[name]
    server = serve(behave)
    error = refused(tmp_path)
    assert (error.code, what in error.what) == (code, True), error
    assert remedy in "\n".join(error.remedy)
    assert "the server answered 4" in error.why
    assert len(error.why.split(": ")) >= 3, "S3's code and message are missing"
    assert error.why.isprintable()
    assert len(server.requests) == 1
    if name == "clock":
        assert "(node 20261130T010000Z, S3 2026-11-30T11:00:00Z)" in error.why


@pytest.mark.parametrize(
    ("status", "code"),
    [(503, "SlowDown"), (429, "TooManyRequests"), (500, "InternalError"), (400, "RequestTimeout"), (400, "Throttling")],
)
def test_a_temporary_refusal_is_retried(serve: Serve, tmp_path: Path, status: int, code: str) -> None:
    server = serve(first(1, refuses(status, code, "Please reduce your request rate."), content(b"stack: none")))
    assert read(Source("s3://b/petal.yaml", None, "us-east-1", 20), tmp_path) == b"stack: none"
    assert len(server.requests) == 2


def region_of(request: dict[str, str]) -> str:
    return request["Authorization"].split("/")[2]


REGIONS = {
    "named in the text": refuses(
        400,
        "AuthorizationHeaderMalformed",
        "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-central-1'",
        "<Region>eu-central-1</Region>",
    ),
    "named in the message": refuses(
        400, "AuthorizationHeaderMalformed", "the region 'us-east-1' is wrong; expecting 'eu-central-1'"
    ),
    "named in the header": refuses(301, "PermanentRedirect", "no", x_amz_bucket_region="eu-central-1"),
    "header without a text": refuses(400, "", "", x_amz_bucket_region="eu-central-1"),
    "named by the endpoint": refuses(
        307,
        "TemporaryRedirect",
        "Please re-send",
        "<Endpoint>b.s3.eu-central-1.amazonaws.com</Endpoint>",
        Location="http://x/",
    ),
    "of a bucket whose name has a region": refuses(
        307,
        "TemporaryRedirect",
        "Please re-send",
        "<Endpoint>b-us-west-2.s3.eu-central-1.amazonaws.com</Endpoint><Bucket>b-us-west-2</Bucket>",
    ),
    "an opt-in region": refuses(
        400, "IllegalLocationConstraintException", "The eu-central-1 location constraint is incompatible"
    ),
}


@pytest.mark.parametrize("name", REGIONS)
def test_the_region_that_s3_names_is_followed(serve: Serve, tmp_path: Path, name: str) -> None:
    server = serve(first(1, REGIONS[name], content(b"stack: none")))
    for _ in range(2):
        assert read(Source("s3://b/petal.yaml", None, "us-east-1", 20), tmp_path) == b"stack: none"
    assert list(map(region_of, server.requests)) == ["us-east-1", "eu-central-1", "eu-central-1"]


def test_a_region_is_followed_once(serve: Serve, tmp_path: Path) -> None:
    regions = ["eu-central-1", "eu-west-1", "eu-west-2"]
    server = serve(
        lambda handler, number: refuses(301, "PermanentRedirect", "no", x_amz_bucket_region=regions[number - 1])(
            handler, number
        )
    )
    error = refused(tmp_path)
    assert (error.code, len(server.requests)) == ("fetch-region", 2)
    assert "PermanentRedirect" in error.why
    assert "set AWS_REGION=eu-west-1" in error.remedy


def test_an_endpoint_that_cannot_serve_the_region_is_named(serve: Serve, tmp_path: Path) -> None:
    server = serve(refuses(301, "PermanentRedirect", "no", x_amz_bucket_region="us-east-1"))
    error = refused(tmp_path)
    assert error.what == f"s3://b/petal.yaml is in the region us-east-1, and the endpoint {server.url} cannot serve it"
    assert error.remedy[0] == "correct AWS_ENDPOINT_URL of this shell"


def test_an_upload_follows_the_region_too(serve: Serve) -> None:
    server = serve(first(1, REGIONS["named in the text"], always(200)))
    upload(b"data", "s3://b/key", region="us-east-1", seconds=10)
    assert list(map(region_of, server.requests)) == ["us-east-1", "eu-central-1"]


# credentials of the instance


class Imds:
    """A metadata service whose role has keys that expire; ``bad`` requests are refused first."""

    def __init__(self, lasts: timedelta = timedelta(hours=6), bad: int = 0, status: int = 503) -> None:
        self.lasts, self.bad, self.status = lasts, bad, status
        self.keys = 0

    def __call__(self, handler: Handler, number: int) -> None:
        if number <= self.bad:
            return answer(handler, self.status)
        if handler.path.endswith("/api/token"):
            return answer(handler, 200, b"t")
        if handler.path.endswith("security-credentials/"):
            return answer(handler, 200, b"role")
        self.keys += 1
        ends = datetime.now(timezone.utc) + self.lasts
        keys = {"AccessKeyId": f"key{self.keys}", "SecretAccessKey": "s", "Token": "t"}
        return answer(handler, 200, json.dumps({**keys, "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}).encode())


@pytest.fixture
def role(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Behaviour], Server]]:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with named_in(monkeypatch, "AWS_EC2_METADATA_SERVICE_ENDPOINT") as start:
        yield start


def test_credentials_are_fetched_once_and_before_they_expire(role: Serve, serve: Serve, tmp_path: Path) -> None:
    imds = Imds()
    role(imds)
    server = serve(content(b"x"))
    for _ in range(3):
        read(Source("s3://b/k", None, "us-east-1"), tmp_path)
    assert imds.keys == 1
    metadata._service.keep_until = time.time() - 1
    read(Source("s3://b/k", None, "us-east-1"), tmp_path)
    assert imds.keys == 2
    assert "Credential=key2/" in server.requests[-1]["Authorization"]
    assert 290 < metadata._service.expires - metadata._service.keep_until < 310


def test_expired_credentials_are_renewed_once(role: Serve, serve: Serve, tmp_path: Path) -> None:
    imds = Imds()
    role(imds)
    expired = refuses(400, "ExpiredToken", "The provided token has expired.")
    server = serve(first(1, expired, content(b"x")))
    assert read(Source("s3://b/k", None, "us-east-1"), tmp_path) == b"x"
    assert ["key1" in server.requests[0]["Authorization"], imds.keys] == [True, 2]
    server = serve(expired)
    error = refused(tmp_path)
    assert (error.code, len(server.requests)) == ("fetch-no-credentials", 2)
    assert "ExpiredToken: The provided token has expired." in error.why


@pytest.mark.parametrize("status", [429, 503])
def test_a_metadata_service_that_limits_the_rate_is_asked_again(
    role: Serve, serve: Serve, tmp_path: Path, status: int
) -> None:
    role(Imds(bad=3, status=status))
    server = serve(content(b"x"))
    read(Source("s3://b/k", None, "us-east-1"), tmp_path)
    assert "Credential=key1/" in server.requests[0]["Authorization"]


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (
            {"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume it"},
            "AssumeRoleUnauthorizedAccess: EC2",
        ),
        ({"Code": "Failed", "AccessKeyId": "", "SecretAccessKey": "", "Token": ""}, "it answered Failed"),
        ({"Code": "Success", "AccessKeyId": "", "SecretAccessKey": "", "Token": ""}, "an empty access key"),
        ({"AccessKeyId": None, "SecretAccessKey": 1, "Token": "t"}, "an empty access key"),
        ([], "no access key"),
    ],
)
def test_a_role_without_keys_is_reported_with_the_reason_of_the_service(
    role: Serve, serve: Serve, tmp_path: Path, document: object, why: str
) -> None:
    texts = {"/latest/api/token": "t", f"/latest/{metadata.ROLE}": "role"}
    role(lambda handler, _: answer(handler, 200, texts.get(handler.path, json.dumps(document)).encode()))
    serve(refuses(403, "AccessDenied", "Access Denied"))
    error = refused(tmp_path)
    assert (error.code, why in error.why) == ("fetch-no-credentials", True), error.why
    has_role = why.startswith(("AssumeRole", "it answered Failed"))
    advice = "let ec2.amazonaws.com assume the role" if has_role else "give the instance a role"
    assert advice in "".join(error.remedy)


def test_a_key_of_the_environment_is_used_without_its_line_end(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(content(b"x"))
    for name in metadata.VARIABLES:
        monkeypatch.setenv(name, f"{name.lower()}\r\n")
    read(Source("s3://b/k", None, "us-east-1"), tmp_path)
    assert "Credential=aws_access_key_id/" in server.requests[0]["Authorization"]
    assert server.requests[0]["x-amz-security-token"] == "aws_session_token"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a\u201cb")
    error = refused(tmp_path)
    assert (error.code, error.what) == (
        "fetch-no-credentials",
        "AWS_SECRET_ACCESS_KEY has characters that no access key has",
    )
    assert "\u201c" not in f"{error}{error.remedy}"


def test_metadata_are_read_over_ipv6_with_that_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def fail(_: object, url: str, **__: object) -> None:
        asked.add(url)
        raise requests.ConnectionError("Network is unreachable")

    monkeypatch.setattr("requests.Session.put", fail)
    monkeypatch.setattr(metadata, "_service", metadata._Service())
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6")
    assert metadata.metadata("meta-data/placement/region") is None
    assert asked == {"http://[fd00:ec2::254]/latest/api/token"}


def test_missing_credentials_are_not_a_missing_object(role: Serve, serve: Serve) -> None:
    service = role(always(403))
    serve(refuses(403, "AccessDenied", "Access Denied"))
    with pytest.raises(FetchError, match="it answered 403 to /latest/api/token") as caught:
        exists("s3://b/k", region="us-east-1")
    assert caught.value.code == "fetch-no-credentials"
    assert len(service.requests) == 1


def test_the_reason_of_missing_credentials_is_that_of_the_last_question_for_them(role: Serve) -> None:
    role(always(404))
    assert metadata.credentials() is None
    role(always(403))
    assert metadata.metadata("meta-data/placement/region") is None
    assert metadata.problem_of_role() == "it answered 404 to /latest/api/token"
    role(Imds())
    metadata._service.keep_until = 0.0
    assert metadata.credentials()
    assert metadata.problem_of_role() == ""


def test_an_object_that_may_be_missing_does_not_exist(serve: Serve) -> None:
    serve(refuses(403, "AccessDenied", "Access Denied"))
    assert not exists("s3://b/k", region="us-east-1")
    serve(refuses(404, "NoSuchKey", "no"))
    assert not exists("s3://b/k", region="us-east-1")


def test_an_error_of_a_child_process_shows_that_the_object_may_be_missing(serve: Serve, tmp_path: Path) -> None:
    serve(refuses(403, "AccessDenied", "Access Denied"))
    with pytest.raises(FetchError) as caught:
        System().with_deadline(lambda: read(Source("s3://b/k", None, "us-east-1"), tmp_path), SOON)
    assert caught.value.may_be_missing


@pytest.mark.parametrize("name", ["clock", "archived", "kms", "endpoint policy", "explicit deny", "unknown code"])
def test_an_object_that_this_node_cannot_use_is_not_a_missing_one(serve: Serve, name: str) -> None:
    behave, code, _, _ = REFUSALS[name]
    serve(behave)
    with pytest.raises(FetchError) as caught:
        exists("s3://b/k", region="us-east-1")
    assert caught.value.code == code


def test_a_server_that_only_answers_with_errors_is_not_a_fault_of_the_network(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time of the hook script does not count for petal-node."""
    monkeypatch.setenv("PETAL_FETCH_SECONDS", "60")
    server = serve(refuses(503, "SlowDown", "Please reduce your request rate."))
    error = refused(tmp_path, seconds=1)
    assert (error.code, "within 1 s" in error.what, len(server.requests) > 1) == ("fetch-unreachable", True, True)
    assert "SlowDown: Please reduce your request rate." in error.why
    assert not re.search(r"route|gateway", "\n".join(error.remedy))


def test_an_error_document_that_comes_slowly_does_not_pass_the_deadline(serve: Serve, tmp_path: Path) -> None:
    def slowly(handler: Handler, _: int) -> None:
        handler.send_response(403)
        handler.end_headers()
        while not handler.server.ended.wait(0.1):
            handler.wfile.write(b" ")

    serve(slowly)
    started = time.monotonic()
    assert refused(tmp_path, seconds=1).code == "fetch-forbidden"
    assert time.monotonic() - started < SOON
