"""A lockfile is written to a disk and to S3: moto's S3 for the protocol, and a server that refuses."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.core.errors import FetchError, UsageError
from bootstrap.remote.destination import check_output, place_of
from bootstrap.remote.fetch import Source, read, upload
from tests.real.server import always, answer, first, serving

DATA = b'{"_meta": {}}\n' * 1000
SHA = hashlib.sha256(DATA).hexdigest()
NAMED = f"spack-{SHA[:12]}.lock"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    return monkeypatch


def test_the_destination_may_be_a_file_or_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = {
        "spack.lock": tmp_path / "spack.lock",
        "locks/": tmp_path / "locks" / NAMED,
        str(tmp_path): tmp_path / NAMED,
        f"file://{tmp_path}/a.lock": tmp_path / "a.lock",
        "s3://b/k.lock": "s3://b/k.lock",
        "s3://b/locks/": f"s3://b/locks/{NAMED}",
    }
    assert {output: place_of(output, DATA, "spack.lock") for output in places} == {
        output: str(place) for output, place in places.items()
    }
    for output in places:
        check_output(output)


@pytest.mark.parametrize("output", ["", "https://h/x", "http://h/x", "s3://bucket", "s3:///key", "git+ssh://h/x"])
def test_an_invalid_destination_is_refused(output: str) -> None:
    with pytest.raises(UsageError):
        check_output(output)


def test_a_file_and_its_directory_are_created(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b.lock"
    upload(DATA, str(place))
    assert place.read_bytes() == DATA


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "file-no-space"), (errno.EROFS, "file-read-only"), (errno.EACCES, "fetch-forbidden")],
)
def test_a_file_that_cannot_be_written_is_an_error_with_the_kernels_reason(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("bootstrap.remote.fetch.shutil.copyfileobj", refuse)
    with pytest.raises(FetchError) as caught:
        upload(DATA, str(tmp_path / "b.lock"))
    assert (caught.value.code, caught.value.why.endswith(os.strerror(number))) == (code, True)


@pytest.mark.usefixtures("keys")
def test_an_object_is_written_to_moto_and_read_back(tmp_path: Path, keys: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        keys.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="petal")
        upload(DATA, "s3://petal/locks/a b+.lock")
        assert read(Source("s3://petal/locks/a b+.lock", SHA), tmp_path) == DATA
        with pytest.raises(FetchError) as caught:
            upload(DATA, "s3://absent/spack.lock")
    finally:
        server.stop()
    assert caught.value.code == "fetch-missing"


def test_the_request_is_signed_and_a_server_error_is_retried(keys: pytest.MonkeyPatch) -> None:
    with serving(first(2, always(503), lambda handler, _: answer(handler, 200))) as server:
        keys.setenv("AWS_ENDPOINT_URL", server.url)
        upload(b"x", "s3://bucket/key")
    assert server.paths == ["/bucket/key"] * 3
    assert "Credential=key/" in server.requests[-1]["Authorization"]


@pytest.mark.parametrize(
    ("code", "said"), [(403, "fetch-forbidden"), (301, "fetch-region"), (500, "fetch-unreachable")]
)
def test_a_refused_upload_is_an_error(code: int, said: str, keys: pytest.MonkeyPatch) -> None:
    with serving(always(code)) as server:
        keys.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(FetchError) as caught:
            upload(b"x", "s3://bucket/key", seconds=1)
    assert caught.value.code == said
    assert caught.value.remedy
