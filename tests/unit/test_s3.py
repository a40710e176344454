"""Addresses of S3: the same as those of botocore."""

from __future__ import annotations

from typing import Any

import pytest

from bootstrap.config.values import uri_problem
from bootstrap.core.errors import FetchError
from bootstrap.remote import answers
from bootstrap.remote.s3 import REGION, region, s3_url

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
