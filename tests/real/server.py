"""A web server with configurable faults, in place of S3, of a package's site and of the metadata service."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bootstrap.remote import attempts, fetch, look


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append({**dict(self.headers), "path": self.path})
        self.server.behave(self, len(self.server.requests))

    do_PUT = do_POST = do_HEAD = do_CONNECT = do_GET  # noqa: N815 - the base class has such names

    def log_message(self, *_args: object) -> None:
        """Print nothing."""


Behaviour = Callable[[Handler, int], None]


class Server(ThreadingHTTPServer):
    """Answer the n-th request by ``behave``, and record all requests.

    ``ended`` is set at the end of the test; late or missing answers wait for it.
    """

    daemon_threads = True

    def __init__(self, behave: Behaviour) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave = behave
        self.requests: list[dict[str, str]] = []
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        """Its address; a certificate of this module is valid for localhost only."""
        scheme, host = ("https", "localhost") if isinstance(self.socket, ssl.SSLSocket) else ("http", "127.0.0.1")
        return f"{scheme}://{host}:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [request["path"] for request in self.requests]

    def handle_error(self, *_args: object) -> None:
        """Ignore clients that close the connection, which many tests provoke."""


@contextmanager
def serving(behave: Behaviour, key: Path | None = None, certificate: Path | None = None) -> Iterator[Server]:
    """A running server; with a certificate it uses TLS."""
    server = Server(behave)
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def made_certificate(place: Path) -> tuple[Path, Path]:
    """Create the key and certificate of a server on localhost; skip if openssl is not installed."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key, certificate = place / "key.pem", place / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return key, certificate


def issued_certificate(place: Path) -> tuple[Path, Path]:
    """The key and the certificate of a server on localhost, which ``place/ca/ca.crt`` has issued as openssl does."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    (place / "ca").mkdir()
    (place / "ext").write_text("subjectAltName=DNS:localhost\n")
    for command in (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=Site -keyout ca.key -out ca/ca.crt",
        "req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout site.key -out site.csr",
        "x509 -req -in site.csr -CA ca/ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out site.crt",
    ):
        subprocess.run(["openssl", *command.split()], check=True, capture_output=True, cwd=place)
    return place / "site.key", place / "site.crt"


def dated_certificate(place: Path, name: str, start: int, end: int) -> tuple[Path, Path]:
    """The key and the certificate of a server ``name`` that is valid from and until so many days from now."""
    x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    made = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now + timedelta(days=start)).not_valid_after(now + timedelta(days=end))
    made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    pem = serialization.Encoding.PEM
    (place / "dated.pem").write_bytes(made.sign(key, hashes.SHA256()).public_bytes(pem))
    form, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (place / "dated.key").write_bytes(key.private_bytes(pem, form, plain))
    return place / "dated.key", place / "dated.pem"


def hurry(monkeypatch: pytest.MonkeyPatch, seconds: float = 1.0) -> None:
    """Give every transfer of this process so many seconds, whatever its caller gives."""

    def limited(uri: str, region: str | None, _: float, *rest: Any) -> Any:
        return attempts.with_retries(uri, region, seconds, *rest)

    for module in (fetch, look):
        monkeypatch.setattr(module, "with_retries", limited)


def answer(handler: Handler, code: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
    """Send one complete answer, or a truncated one if ``length`` is larger than the data."""
    handler.send_response(code)
    for name, value in {"Content-Length": str(len(body) if length is None else length), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)
    if length is not None:
        handler.close_connection = True


def content(data: bytes) -> Behaviour:
    """Send ``data``, or the part that a Range requests."""

    def behave(handler: Handler, _: int) -> None:
        wanted = handler.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        place = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if wanted else {}
        answer(handler, 206 if wanted else 200, data[start:], **place)

    return behave


def always(code: int, body: bytes = b"<Error/>") -> Behaviour:
    """Always send the same answer."""
    return lambda handler, _: answer(handler, code, body)


def leads_to(address: str) -> Behaviour:
    """Redirect every request."""

    def behave(handler: Handler, _: int) -> None:
        handler.send_response(307)
        handler.send_header("Location", address)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return behave


def first(times: int, bad: Behaviour, then: Behaviour) -> Behaviour:
    """Misbehave at first, and answer correctly later."""
    return lambda handler, number: (bad if number <= times else then)(handler, number)


def cut_off(data: bytes, at: int) -> Behaviour:
    """Announce all of ``data`` and send only the beginning."""
    return lambda handler, _: answer(handler, 200, data[:at], len(data))


def dripping(data: bytes, seconds: float) -> Behaviour:
    """Send ``data`` byte by byte: never silent, and never complete in time."""

    def behave(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        for number in range(len(data)):
            if handler.server.ended.wait(seconds):
                break
            handler.wfile.write(data[number : number + 1])

    return behave


def endless(handler: Handler, _: int, location: str = "") -> None:
    """Send chunks (HTTP/1.1) until the client closes the connection; with ``location`` it is a redirect."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(307 if location else 200)
    if location:
        handler.send_header("Location", location)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    block = b"# padding\n" * 6554
    with suppress(OSError):
        while not handler.server.ended.is_set():
            handler.wfile.write(b"%x\r\n%b\r\n" % (len(block), block))


def silent(handler: Handler, _: int) -> None:
    """Accept the request and never answer, as if a firewall dropped the packets."""
    handler.server.ended.wait(600)
