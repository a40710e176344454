"""Real transfers: moto's S3 for the protocol, and a server with all known faults."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import pytest

from bootstrap.core.errors import ConfigError, FetchError
from bootstrap.host import systemd
from bootstrap.host.yaml_text import read_document
from bootstrap.remote import attempts, client
from bootstrap.remote.answers import look_up
from bootstrap.remote.fetch import Source, download, read, require_writable, upload
from tests.deadlines import SOON
from tests.disks import mounted
from tests.real.server import (
    Behaviour,
    Handler,
    Server,
    always,
    answer,
    content,
    cut_off,
    dated_certificate,
    endless,
    first,
    issued_certificate,
    leads_to,
    made_certificate,
    serving,
    silent,
)

DATA = bytes(range(256)) * 4096
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Behaviour], Server]]:
    """Start a server and make it the S3 endpoint."""
    with ExitStack() as servers:

        def start(behave: Behaviour) -> Server:
            server = servers.enter_context(serving(behave))
            monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
            return server

        yield start


@pytest.fixture
def tls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[Behaviour], Server]]:
    """Start a server with TLS whose certificate is trusted."""
    key, certificate = made_certificate(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    with ExitStack() as servers:
        yield lambda behave: servers.enter_context(serving(behave, key, certificate))


def source(seconds: float = 20.0, sha256: str | None = SHA, uri: str = "s3://bucket/key") -> Source:
    return Source(uri, sha256, "us-east-1", seconds)


def test_a_signed_request_fetches_the_object(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(content(DATA))
    download(source(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests[0]["path"] == "/bucket/key"
    assert "Credential=key/" in server.requests[0]["Authorization"]
    download(source(), tmp_path / "x")
    assert len(server.requests) == 1, "a file with the expected checksum is not fetched again"


def test_a_server_error_is_retried(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(first(2, always(500), content(DATA)))
    download(source(), tmp_path / "x")
    assert len(server.requests) == 3


def test_an_interrupted_transfer_is_resumed(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(first(1, cut_off(DATA, 300_000), content(DATA)))
    download(source(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert server.requests[1]["Range"] == "bytes=300000-"


def test_a_server_without_ranges_sends_the_object_again(serve: Callable[..., Server], tmp_path: Path) -> None:
    def whole(handler: Handler, _: int) -> None:
        answer(handler, 200, DATA)

    serve(first(1, cut_off(DATA, 1000), whole))
    download(source(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


@pytest.mark.parametrize(
    ("status", "code"), [(403, "fetch-forbidden"), (401, "fetch-forbidden"), (404, "fetch-missing")]
)
def test_a_definite_denial_is_not_retried(serve: Callable[..., Server], tmp_path: Path, status: int, code: str) -> None:
    server = serve(always(status))
    with pytest.raises(FetchError) as caught:
        download(source(), tmp_path / "x")
    assert caught.value.code == code
    assert caught.value.remedy
    assert len(server.requests) == 1
    assert list(tmp_path.iterdir()) == []


def test_another_object_is_refused_and_not_kept(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(lambda handler, _: answer(handler, 200, b"evil"))
    with pytest.raises(FetchError) as caught:
        download(source(), tmp_path / "x")
    assert caught.value.code == "fetch-checksum"
    assert list(tmp_path.iterdir()) == []


def test_the_deadline_includes_all_attempts(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(always(503))
    started = time.monotonic()
    with pytest.raises(FetchError) as caught:
        download(source(seconds=2), tmp_path / "x")
    assert caught.value.code == "fetch-unreachable"
    assert "503" in caught.value.why
    assert time.monotonic() - started < SOON
    assert len(server.requests) > 1


def test_a_silent_server_is_given_up_at_the_deadline(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(silent)
    started = time.monotonic()
    with pytest.raises(FetchError):
        download(source(seconds=1), tmp_path / "x")
    assert time.monotonic() - started < SOON


def test_a_closed_port_is_reported_as_unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError) as caught:
        download(source(seconds=1), tmp_path / "x")
    assert caught.value.code == "fetch-unreachable"


def test_an_https_server_that_refuses_is_reported_without_advice_about_s3(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        download(source(uri="https://127.0.0.1:9/x", seconds=0.1), tmp_path / "x")
    assert caught.value.why.startswith("127.0.0.1:9: Connection refused")
    assert "curl -sSIL https://127.0.0.1:9/x" in caught.value.remedy
    assert not any("s3" in line.lower() for line in caught.value.remedy)


def test_the_command_for_a_missing_object_can_be_typed(tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        download(source(uri=f"{tmp_path}/a b"), tmp_path / "x")
    assert caught.value.remedy == (f"ls -ld '{tmp_path}/a b'",)
    assert look_up("s3://bucket/a b?c&d") == "aws s3api head-object --bucket bucket --key 'a b?c&d'"


def test_a_directory_is_not_called_missing(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match=f"{tmp_path} is not a file") as caught:
        download(source(uri=str(tmp_path)), tmp_path / "x")
    assert caught.value.code == "fetch-missing"


@pytest.mark.parametrize(
    ("uri", "code"),
    [
        ("http://127.0.0.1/x", "fetch-scheme"),
        ("ftp://x/y", "fetch-scheme"),
        ("s3://bucket", "fetch-scheme"),
        ("file:///no/such/file", "fetch-missing"),
        ("/no/such/file", "fetch-missing"),
    ],
)
def test_an_invalid_uri_is_refused(uri: str, code: str, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as caught:
        download(source(uri=uri, seconds=1), tmp_path / "x")
    assert caught.value.code == code


def test_a_uri_without_a_host_is_not_retried(tmp_path: Path) -> None:
    started = time.monotonic()
    for uri in ("https://", "https:///x"):
        with pytest.raises(FetchError) as caught:
            download(source(uri=uri, seconds=60), tmp_path / "x")
        assert caught.value.code == "fetch-scheme"
        assert caught.value.remedy
    assert time.monotonic() - started < 30


def test_a_redirect_of_s3_is_not_followed(serve: Callable[..., Server], tmp_path: Path) -> None:
    """The other host would get the session token, and the signature would be invalid there."""
    other = serve(lambda handler, _: answer(handler, 200, DATA))
    serve(leads_to(f"{other.url}/elsewhere"))
    with pytest.raises(FetchError) as caught:
        download(source(seconds=1), tmp_path / "x")
    assert "307" in caught.value.why
    assert other.requests == []


@pytest.mark.parametrize("hops", [1, 2])
def test_a_redirect_from_https_through_http_is_refused(
    hops: int, tls: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The http server sends the request on to https, where a certificate of the attacker is valid."""
    end = tls(content(DATA))
    with serving(leads_to(f"{end.url}/x")) as unsafe:
        site = tls(leads_to(f"{unsafe.url}/x"))
        for _ in range(hops - 1):
            site = tls(leads_to(f"{site.url}/x"))
        with pytest.raises(FetchError, match="redirects away from https") as caught:
            download(source(uri=f"{site.url}/x"), tmp_path / "x")
        assert (caught.value.code, unsafe.requests, end.requests) == ("fetch-scheme", [], [])
    named = "\u00fc".encode().decode("latin1")  # http.server sends it as UTF-8
    download(source(uri=f"{tls(leads_to(f'{end.url}/{named}')).url}/x"), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert end.paths == ["/%C3%BC"]


def test_redirects_in_a_circle_end(tls: Callable[..., Server], tmp_path: Path) -> None:
    site = tls(leads_to("/x"))
    with pytest.raises(FetchError, match="redirects more than 10 times"):
        download(source(uri=f"{site.url}/x"), tmp_path / "x")
    assert len(site.paths) == 11


@pytest.mark.parametrize("location", ["https://[x", "//[", "mailto:a@b", "https:"])
def test_a_redirect_to_no_address_is_an_error_of_the_server(
    location: str, tls: Callable[..., Server], tmp_path: Path
) -> None:
    with pytest.raises(FetchError) as caught:
        download(source(uri=f"{tls(leads_to(location)).url}/x", seconds=5), tmp_path / "x")
    assert location in f"{caught.value} {caught.value.why}"


def test_a_url_in_a_query_is_not_the_server() -> None:
    assert client.way_to("https://host.invalid/get?url=https://mirror.other/x").host == "host.invalid"


@pytest.mark.parametrize(
    "proxy", ["socks5://u:p@127.0.0.1:1", "u:p@127.0.0.1:1", "http://", "http://[bad", "http://a:b"]
)
def test_a_wrong_address_in_the_environment_is_not_a_mistake_of_the_uri(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    with pytest.raises(FetchError, match="could not be reached") as caught:
        download(source(uri="https://files.corp/x", seconds=5), tmp_path / "x")
    assert caught.value.code == "fetch-unreachable"
    assert f"the proxy {proxy.replace('u:p@', '')}" in caught.value.why
    assert caught.value.remedy[0] == "correct HTTPS_PROXY of this shell, or except files.corp in NO_PROXY"
    for endpoint in ("s3.corp:9000", "garbage", "https://", "ftp://s3"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with pytest.raises(FetchError, match="could not be reached: AWS_ENDPOINT_URL is not a URL") as caught:
            download(source(uri="s3://b/k", seconds=5), tmp_path / "x")
        assert caught.value.remedy[0] == "correct AWS_ENDPOINT_URL of this shell"


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("variable", "value", "uri", "server", "hint"),
    [
        ("HTTPS_PROXY", "http://p.invalid:3128", "https://a.corp/x", "", "or except a.corp in NO_PROXY"),
        ("all_proxy", "http://127.0.0.1:1", "https://a.corp/x", "the proxy http://127.0.0.1:1: ", ""),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1", "s3://b/x", "the endpoint http://127.0.0.1:1: ", ""),
    ],
)
def test_the_host_that_was_not_reached_is_named_with_its_variable_and_where_that_is_set(
    variable: str,
    value: str,
    uri: str,
    server: str,
    hint: str,
    stored: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "http://u:password@p"
    stored_env = {variable: value, "ftp_proxy": secret, "HTTP_PROXY": secret} if stored else {}
    file = tmp_path / "environment"
    file.write_text(systemd.environment_file(stored_env))
    monkeypatch.setattr(systemd, "ENVIRONMENT", file)
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", secret) if variable != "AWS_ENDPOINT_URL_S3" else None
    monkeypatch.setenv(variable, value)
    with pytest.raises(FetchError) as caught:
        read(source(uri=uri, seconds=0.5), tmp_path)
    error, (first, second) = caught.value, caught.value.remedy
    assert (server or "the name of the proxy http://p.invalid:3128 is unknown") in error.why
    known = "of the last hook (/var/lib/petal-node/environment)" if stored else "of this shell"
    command = f"curl -sSIL {uri}" if uri.startswith("https") else "aws s3api head-object --bucket b --key x"
    if not server:
        assert (first, second) == ("getent hosts p.invalid", f"correct {variable} {known}, {hint}")
    else:
        assert first.startswith(f"correct {variable} {known}")
        assert second == (f"{variable}={value} {command}" if stored else command)
    assert "password" not in str(error) + "".join(error.remedy)


def test_the_endless_body_of_a_redirect_is_not_read(
    tls: Callable[..., Server], serve: Callable[..., Server], tmp_path: Path
) -> None:
    end = tls(content(DATA))
    site = tls(partial(endless, location=f"{end.url}/x"))
    download(source(uri=f"{site.url}/x", seconds=5), tmp_path / "x")
    serve(partial(endless, location=f"{end.url}/x"))
    started = time.monotonic()
    with pytest.raises(FetchError, match="is not in the region us-east-1"):
        download(source(), tmp_path / "y")
    assert time.monotonic() - started < SOON
    assert end.paths == ["/x"]


def test_a_configuration_that_is_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 100)
    with pytest.raises(FetchError) as caught:
        read(Source(str(tmp_path / "big")), tmp_path, limit=10)
    assert caught.value.code == "fetch-too-large"
    assert read(Source(str(tmp_path / "big")), tmp_path) == b"x" * 100


def test_an_object_of_moto_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")
    server = pytest.importorskip("moto.server", reason="moto is not installed").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ACCESS_KEY_ID", "k"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_ENDPOINT_URL", f"http://{host}:{port}"),
        ):
            monkeypatch.setenv(name, value)
        client = boto3.client("s3", region_name="us-east-1")
        client.create_bucket(Bucket="petal")
        client.put_object(Bucket="petal", Key="a b/ü+#?.tar", Body=DATA)
        download(source(uri="s3://petal/a b/ü+#?.tar"), tmp_path / "x")
        with pytest.raises(FetchError) as caught:
            download(source(uri="s3://petal/absent"), tmp_path / "y")
    finally:
        server.stop()
    assert (tmp_path / "x").read_bytes() == DATA
    assert caught.value.code == "fetch-missing"


def slowly(data: bytes) -> Behaviour:
    """Send a quarter of the object, then nothing."""

    def behave(handler: Handler, _: int) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(data) - start))
        handler.end_headers()
        handler.wfile.write(data[start : start + len(data) // 4])
        handler.server.ended.wait(5)

    return behave


def test_a_transfer_is_resumed_by_the_next_run(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(slowly(DATA))
    for _ in range(4):
        with suppress(FetchError):
            download(source(seconds=0.3), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    starts = [request.get("Range", "bytes=0-") for request in server.requests]
    assert starts == [f"bytes={number * len(DATA) // 4}-" for number in range(4)]
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("left", [b"another object", DATA + b"more"], ids=["shorter", "longer"])
def test_the_part_of_another_object_is_not_used(serve: Callable[..., Server], tmp_path: Path, left: bytes) -> None:
    def behave(handler: Handler, _: int) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        answer(handler, 416) if start >= len(DATA) else content(DATA)(handler, 1)

    serve(behave)
    (tmp_path / ".x.part").write_bytes(left)
    download(source(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA


def test_an_object_that_is_replaced_during_its_transfer_is_not_mixed(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    """A configuration has no checksum that would show it."""
    new = bytes(reversed(DATA))

    def behave(handler: Handler, number: int) -> None:
        if number == 1:
            answer(handler, 200, DATA[: len(DATA) // 2], length=len(DATA))
        else:
            content(new)(handler, number)

    serve(behave)
    assert read(source(sha256=None), tmp_path) == new


def test_two_processes_do_not_write_the_same_part(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(content(DATA))
    with (tmp_path / ".x.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        download(source(), tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == DATA
    assert (tmp_path / ".x.part").read_bytes() == b""


def test_an_endless_configuration_is_refused_while_it_comes(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(endless)
    started = time.monotonic()
    with pytest.raises(FetchError, match="is larger than 1048576 bytes") as caught:
        read(source(sha256=None), tmp_path)
    assert caught.value.code == "fetch-too-large"
    assert time.monotonic() - started < SOON
    serve(lambda handler, _: answer(handler, 200, b"x", 1 << 40))
    with pytest.raises(FetchError, match="is larger than 1048576 bytes"):
        read(source(sha256=None), tmp_path)


def test_an_object_larger_than_the_disk_is_refused(serve: Callable[..., Server], tmp_path: Path) -> None:
    """With and without a Content-Length; the disk is never full."""
    with mounted(tmp_path / "disk", 16) as disk:
        for behave in (endless, lambda handler, _: answer(handler, 200, b"x", 1 << 30)):
            serve(behave)
            with pytest.raises(FetchError, match="does not fit on the disk") as caught:
                download(source(), disk / "x")
            assert caught.value.code == "file-no-space"
            assert list(disk.iterdir()) == []


# certificates, proxies, names


@pytest.mark.parametrize(
    "variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "store"]
)
def test_a_sites_own_authority_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    """Also one without the extensions that Python 3.13 wants, and one in a directory without hashes."""
    key, certificate = issued_certificate(tmp_path)
    monkeypatch.setenv("no_proxy", "localhost")
    with serving(content(DATA), key, certificate) as server:
        with pytest.raises(FetchError, match="certificate of the server is not accepted") as caught:
            download(source(uri=f"{server.url}/x"), tmp_path / "x")
        assert "AWS_CA_BUNDLE" in caught.value.remedy[1]
        if variable == "SSL_CERT_DIR":
            monkeypatch.setenv(variable, f"/missing:{tmp_path / 'ca'}")
        elif variable == "store":
            monkeypatch.setattr(client, "STORES", (str(tmp_path / "ca" / "ca.crt"),))
        else:
            monkeypatch.setenv(variable, str(tmp_path / "ca" / "ca.crt"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/missing") if variable == "AWS_CA_BUNDLE" else None
        download(source(uri=f"{server.url}/x"), tmp_path / "x")
        assert server.paths == ["/x"]


@pytest.mark.parametrize(
    ("days", "name", "why", "remedy"),
    [
        ((1, 2), "localhost", "not yet valid", "timedatectl"),
        ((-2, -1), "localhost", "expired", "timedatectl"),
        ((-1, 1), "other", "Hostname mismatch", "correct the host name of the URI"),
    ],
)
def test_a_certificate_is_refused_with_its_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    days: tuple[int, int],
    name: str,
    why: str,
    remedy: str,
) -> None:
    key, certificate = dated_certificate(tmp_path, name, *days)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("no_proxy", "localhost")
    message = "certificate of the server is not accepted"
    with serving(content(DATA), key, certificate) as server, pytest.raises(FetchError, match=message) as caught:
        download(source(uri=f"{server.url}/x"), tmp_path / "x")
    assert why in caught.value.why
    assert remedy in caught.value.remedy[0]
    assert "authority" not in "".join(caught.value.remedy)


def test_a_server_without_tls_is_reported_in_a_sentence(serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(content(DATA))
    uri = f"https://localhost:{server.server_port}/x"
    with pytest.raises(FetchError, match="does not answer with valid TLS: wrong version number") as caught:
        download(source(uri=uri, seconds=1), tmp_path / "x")
    assert "Pool" not in caught.value.why


@pytest.mark.parametrize("password", ["hid[den", "hid/den", "hid#den", "hid@den", "hid?den"])
def test_the_password_of_a_proxy_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, password: str
) -> None:
    """A user forgot to encode it."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{password}@127.0.0.1:9")
    with pytest.raises(FetchError) as caught:
        download(source(uri="https://files.corp/x", seconds=1), tmp_path / "x")
    text = f"{caught.value}{caught.value.remedy}{caplog.text}"
    assert "hid" not in text
    assert "correct HTTPS_PROXY of this shell" in caught.value.remedy[0]


def test_a_proxy_that_refuses_is_not_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(always(407)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(FetchError, match=f"the proxy {proxy.url}: Tunnel connection failed: 407") as caught:
            download(source(uri="https://files.corp/x"), tmp_path / "x")
        assert "NO_PROXY" in caught.value.remedy[0]
        assert proxy.paths == ["files.corp:443"]
        monkeypatch.setenv("NO_PROXY", "files.corp,127.0.0.1")
        with pytest.raises(FetchError, match=r"name of files\.corp is unknown"):
            download(source(uri="https://files.corp/x", seconds=1), tmp_path / "x")


def test_an_unknown_host_is_given_up_soon_with_one_line_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert attempts.NAME_SECONDS < 10
    monkeypatch.setattr(attempts, "NAME_SECONDS", 1.5)
    started = time.monotonic()
    with pytest.raises(FetchError, match=r"the name of files\.invalid is unknown") as caught:
        download(source(uri="https://files.invalid/x", seconds=60), tmp_path / "x")
    assert time.monotonic() - started < SOON
    assert re.search(r"\(\d+ attempts\)", caught.value.why)
    assert caught.value.remedy[0] == "getent hosts files.invalid"
    assert len(caplog.records) == 1


def test_an_upload_has_the_checksum_that_a_bucket_with_object_lock_requires(serve: Callable[..., Server]) -> None:
    server = serve(always(200))
    upload(b"data", "s3://bucket/key", region="us-east-1")
    digest = base64.b64encode(hashlib.sha256(b"data").digest()).decode()
    assert server.requests[0]["x-amz-checksum-sha256"] == digest
    assert "x-amz-checksum-sha256" in server.requests[0]["Authorization"]


@pytest.mark.parametrize("status", [501, 505, 507])
def test_a_request_that_a_server_never_carries_out_is_not_repeated(
    serve: Callable[..., Server], tmp_path: Path, status: int
) -> None:
    server = serve(always(status))
    with pytest.raises(FetchError, match=f"the server answered {status}") as caught:
        download(source(), tmp_path / "x")
    assert (caught.value.code, len(server.requests)) == ("fetch-refused", 1)


def test_s3_over_https_is_quoted_too(tls: Callable[..., Server], tmp_path: Path) -> None:
    body = b"<Error><Code>InvalidObjectState</Code><Message>It is archived</Message></Error>"
    server = tls(lambda handler, _: answer(handler, 403, body))
    with pytest.raises(FetchError, match="the server answered 403: InvalidObjectState: It is archived"):
        download(source(uri=f"{server.url}/x"), tmp_path / "x")


def test_a_page_of_a_proxy_is_named(serve: Callable[..., Server], tmp_path: Path) -> None:
    serve(content(b"\n<!DOCTYPE html><html>Blocked"))
    with pytest.raises(FetchError, match="it is an HTML page") as caught:
        download(source(), tmp_path / "x")
    assert caught.value.code == "fetch-checksum"
    with pytest.raises(ConfigError, match="it is an HTML page"):
        read_document(read(source(sha256=None), tmp_path), "petal.yaml")


@pytest.mark.parametrize("kind", ["pipe", "link to a device"])
def test_a_destination_that_is_not_a_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "x"
    os.mkfifo(target) if kind == "pipe" else target.symlink_to("/dev/null")
    before = target.lstat().st_ino
    for write in (require_writable, partial(upload, b"data")):
        with pytest.raises(FetchError, match="is not a file"):
            write(target.as_uri())
    assert target.lstat().st_ino == before
