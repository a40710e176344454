"""Addresses of S3: the same as those of botocore."""

from __future__ import annotations

from typing import Any

import pytest

from bootstrap.config.values import uri_problem
from bootstrap.core.errors import FetchError
from bootstrap.remote import answers
from bootstrap.remote.metadata import Credentials
from bootstrap.remote.s3 import REGION, region, s3_auth, s3_url

ARN = "arn:aws:s3:eu-west-1:111122223333:accesspoint"


@pytest.fixture(scope="module")
def botocore() -> Any:
    return pytest.importorskip("botocore.session", reason="botocore is not installed").get_session()


def test_each_region_has_the_dns_suffix_of_its_partition(botocore: Any) -> None:
    partitions = botocore.get_component("data_loader").load_data("partitions")["partitions"]
    assert len(partitions) >= 8
    for partition in partitions:
        for name in partition["regions"]:
            if not name.endswith("-global"):
                assert s3_url("s3://b/k", name) == f"https://b.s3.{name}.{partition['outputs']['dnsSuffix']}/k"
                assert REGION.fullmatch(name)


@pytest.mark.parametrize(
    ("bucket", "endpoint"),
    [
        (f"{ARN}/site-tools", None),
        (f"{ARN}:site-tools", None),
        ("arn:aws-us-gov:s3:us-gov-west-1:111122223333:accesspoint/x-y", None),
        ("arn:aws-cn:s3:cn-north-1:111122223333:accesspoint/tools", None),
        ("site-tools-abcdef0123456789-s3alias", None),
        ("dots.in.name", None),
        ("OldBucket_1", None),
        ("bucket", "https://files.corp:8443"),
        (f"{ARN}/site-tools", "https://files.corp:8443"),
    ],
)
def test_an_address_is_that_of_the_aws_cli(
    botocore: Any, monkeypatch: pytest.MonkeyPatch, bucket: str, endpoint: str | None
) -> None:
    uri = f"s3://{bucket}/a key/petal.yaml"
    assert uri_problem(uri) is None
    name = region(uri, None if bucket.startswith("arn:") else "eu-west-1")
    client = botocore.create_client(
        "s3", region_name=name, endpoint_url=endpoint, aws_access_key_id="k", aws_secret_access_key="s"
    )
    expected = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "a key/petal.yaml"})
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "https://other")
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    assert s3_url(uri, name) == expected.partition("?")[0].replace("s3.amazonaws.com", "s3.eu-west-1.amazonaws.com")


@pytest.mark.parametrize("kinds", [("FIPS",), ("DUALSTACK",), ("FIPS", "DUALSTACK")])
@pytest.mark.parametrize(
    ("bucket", "name"),
    [("bucket", "us-gov-west-1"), ("bucket", "us-east-1"), (f"{ARN.replace('eu-west-1', 'us-east-1')}/x", "us-east-1")],
)
def test_endpoints_for_fips_and_ipv6_are_those_of_the_aws_cli(
    botocore: Any, monkeypatch: pytest.MonkeyPatch, bucket: str, name: str, kinds: tuple[str, ...]
) -> None:
    from botocore.config import Config

    chosen = Config(use_fips_endpoint="FIPS" in kinds, use_dualstack_endpoint="DUALSTACK" in kinds)
    keys = {"aws_access_key_id": "k", "aws_secret_access_key": "s"}
    client = botocore.create_client("s3", region_name=name, config=chosen, **keys)
    expected = client.generate_presigned_url("get_object", {"Bucket": bucket, "Key": "k"})
    for kind in kinds:
        monkeypatch.setenv(f"AWS_USE_{kind}_ENDPOINT", "true")
    assert s3_url(f"s3://{bucket}/k", name) == expected.partition("?")[0]


@pytest.mark.parametrize(
    "key", ["k", "a key+1", "a//b", "/k", "a/b/", "\u00fc/\u00f6", "a=b&c", "a@b:c;d,e$(f)'!*", "k?x=1#y", "100%", "~"]
)
@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_a_signature_is_that_of_botocore(botocore: Any, key: str, sha256: str | None) -> None:
    assert botocore
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from requests import Request

    found = Credentials("AKIDEXAMPLE", "secret", "token")
    sent = Request("GET", s3_url(f"s3://b/{key}", "us-east-1"), auth=s3_auth(found, "us-east-1", sha256)).prepare()
    header = sent.headers["Authorization"]
    names = header.partition("SignedHeaders=")[2].partition(",")[0].split(";")
    assert "x-amz-security-token" in names
    headers = {name: sent.headers.get(name, "b.s3.us-east-1.amazonaws.com") for name in names}
    same = AWSRequest("GET", sent.url, headers)
    same.context["timestamp"] = sent.headers["x-amz-date"]

    class Signer(S3SigV4Auth):  # type: ignore[misc]
        def payload(self, _: Any) -> str:
            return str(sent.headers["x-amz-content-sha256"])

    signer = Signer(botocore_credentials(found), "s3", "us-east-1")
    text = signer.string_to_sign(same, signer.canonical_request(same))
    assert header.endswith(f"Signature={signer.signature(text, same)}")


def botocore_credentials(found: Credentials) -> Any:
    from botocore.credentials import Credentials as Keys

    return Keys(*found)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("s3://b--use1-az4--x-s3/k", "directory buckets"),
        ("s3://b/./petal.yaml", "a part of its key is . or .."),
        ("s3://b/a/../petal.yaml", "a part of its key is . or .."),
    ],
)
def test_an_object_that_would_be_another_one_is_refused(uri: str, why: str) -> None:
    with pytest.raises(FetchError, match=why) as caught:
        s3_url(uri, "us-east-1")
    assert caught.value.code == "fetch-scheme"


@pytest.mark.parametrize(
    "bucket",
    [
        "arn:aws:s3::111122223333:accesspoint/mfzwi23gnjvgw.mrap",
        "arn:aws:s3-object-lambda:eu-west-1:111122223333:accesspoint/x",
        "arn:aws:s3:eu-west-1:111122223333:bucket/x",
    ],
)
def test_other_arns_are_refused(bucket: str) -> None:
    with pytest.raises(FetchError, match="access points of S3 in one region only"):
        region(f"s3://{bucket}/key")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Error><Message>a &lt;b&gt;</Message></Error>", "a <b>"),
        ("<Error><Message><![CDATA[a &lt;b&gt;]]></Message></Error>", "a &lt;b&gt;"),
        ("<Error><Message>a", ""),
        ("<Error/>", ""),
    ],
)
def test_the_text_of_an_element_is_read_as_xml_has_it(text: str, message: str) -> None:
    assert answers.element(text, "Message") == message
