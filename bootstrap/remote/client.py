"""One HTTP client for all transfers: the certificates that it trusts, proxies, and the reasons why a request failed.

Programs of a node differ in the variable that they read (the AWS CLI, requests, curl, OpenSSL). petal-node trusts the
system's store and the certificates in each of these variables, as ``actions/on_node.sh`` does.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from ..host.systemd import ENVIRONMENT, taken_environment

CONNECT_TIMEOUT = 5.0
READ_TIMEOUT = 20.0
STORES = (  # Debian, Red Hat and Amazon, SUSE
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
)
TUNNEL = re.compile(r"Tunnel connection failed: (?P<status>\d+)[\w ]*")  # http.client: the answer of a proxy to CONNECT
CA_VARIABLES = ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


def session() -> Any:
    """A session of requests with the proxies of the environment. It follows no redirects."""
    import requests
    from requests.adapters import HTTPAdapter

    # glibc waits 5 s for each name server, twice (resolv.conf(5))
    os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:2")
    context = _context(tuple(_stores()))

    class Trusting(HTTPAdapter):
        """Uses ``context`` instead of the one bundle that requests would load."""

        def send(self, *args: Any, **kwargs: Any) -> Any:
            return super().send(*args, **{**kwargs, "verify": True})

        def cert_verify(self, *_: Any) -> None:
            """The context has all certificates."""

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
            return super().init_poolmanager(*args, ssl_context=context, **kwargs)

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            return super().proxy_manager_for(*args, ssl_context=context, proxy_ssl_context=context, **kwargs)

    made = requests.Session()
    # requests would read the whole body of a redirect, which may be endless, also with allow_redirects=False
    made.get_redirect_target = lambda _: None  # type: ignore[assignment, method-assign]
    made.headers["Accept-Encoding"] = "identity"  # a server that compresses would change the length and the checksum
    made.mount("https://", Trusting())
    made.mount("http://", Trusting())  # an https proxy
    return made


def _stores() -> Iterator[str]:
    yield from [path for path in STORES if Path(path).is_file()][:1]
    for name in CA_VARIABLES:
        value = os.environ.get(name, "")
        yield from filter(None, value.split(os.pathsep) if name == "SSL_CERT_DIR" else [value])


@lru_cache(maxsize=8)
def _context(stores: tuple[str, ...]) -> Any:
    import ssl

    from urllib3.util.ssl_ import create_urllib3_context

    # Python 3.13 would refuse the authorities of many sites (VERIFY_X509_STRICT); curl and the AWS CLI do not
    context = create_urllib3_context(verify_flags=getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0x80000))
    context.load_default_certs()
    for path in map(Path, stores):
        if path.is_dir():
            context.load_verify_locations(capath=path)
            for file in sorted(path.iterdir()):  # a directory that c_rehash(1) has not seen
                if file.suffix in (".crt", ".pem", ".cer"):
                    _load(context, file)
        else:
            _load(context, path)
    if not context.cert_store_stats()["x509_ca"]:  # a machine without a store
        import certifi

        context.load_verify_locations(certifi.where())
    return context


def _load(context: Any, path: Path) -> None:
    import ssl

    from ..host.log import LOG

    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        LOG.warning("the certificates in %s cannot be read: %s", path, error)


def timeout(left: float) -> tuple[float, float]:
    """The timeouts of a request that has ``left`` seconds."""
    return min(CONNECT_TIMEOUT, left), min(READ_TIMEOUT, left)


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error, and the errors that caused it."""
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        below = (cause.__cause__, cause.__context__, *cause.args, getattr(cause, "reason", None))
        cause = next((entry for entry in below if isinstance(entry, BaseException)), None)


class Way(NamedTuple):
    """The host that a request connects to.

    Args:
        server: its address, with ``the proxy`` or ``the endpoint`` before it.
        host: its name.
        remedy: to correct the variable that names it, with the origin of that; empty without a variable.
    """

    server: str
    host: str
    remedy: str


def way_to(url: str, variable: str = "") -> Way:
    """The way of a request to ``url``, through the proxy of the environment if that names one.

    Args:
        variable: the one that names the server of ``url``.
    """
    from requests.utils import get_environ_proxies, select_proxy

    host, kind, instead = urlsplit(url).hostname, "the endpoint " if variable else "", ""
    proxy = select_proxy(url, get_environ_proxies(url))
    if proxy:
        names = sorted(name for name in os.environ if name.lower().endswith("_proxy") and os.environ[name] == proxy)
        variable = next((name for name in names if name.lower() == f"{urlsplit(url).scheme}_proxy"), names[0])
        url, kind, instead = proxy, "the proxy ", f", or except {host} in NO_PROXY"
    scheme, _, rest = url.partition("://") if "://" in url else ("", "", url)
    if proxy:  # its password may have any character, also one that it may have only as %XX
        rest = rest.rpartition("@")[2]
    address = rest.partition("/")[0].rpartition("@")[2]
    server = f"{kind}{scheme}://{address}" if kind and scheme else f"{kind}{address}"
    remedy = f"correct {variable} {origin_of(variable)}{instead}" if variable else ""
    return Way(server, re.sub(r":\d*\Z", "", address).strip("[]"), remedy)


def origin_of(variable: str) -> str:
    """Names the source of a variable of the environment: the last hook, or this shell."""
    return f"of the last hook ({ENVIRONMENT})" if variable in taken_environment() else "of this shell"


CLOCK = ("timedatectl", "chronyc makestep    # if the clock of this node is wrong")
# X509_V_ERR_* of OpenSSL (x509_vfy.h) and what to do; other errors are of an authority that this machine does not know.
CERTIFICATES = {
    9: CLOCK,  # not yet valid
    10: (*CLOCK, "if the clock is right, the server needs a new certificate"),
    62: ("correct the host name of the URI or of the endpoint: the certificate is of another host",),
    64: ("name the server by the host name of its certificate, not by its address",),
}
AUTHORITY = (
    "add its authority to the store of this machine: update-ca-certificates, or update-ca-trust",
    "or name its certificate in AWS_CA_BUNDLE",
)


class NoAnswer(NamedTuple):
    """Why a request got no answer.

    Args:
        why: the text of the system call if there is one, for example ``Connection refused``.
        is_final: another attempt fails in the same way: a certificate, or a proxy that refuses.
        is_unknown_name: the name of the server, or of the proxy, could not be resolved.
        remedy: for a certificate that is not accepted.
    """

    why: str
    is_final: bool
    is_unknown_name: bool
    remedy: tuple[str, ...] = ()


def no_answer(error: BaseException, way: Way | None = None) -> NoAnswer:
    """The reason in an exception of requests or urllib3."""
    import ssl

    from requests.exceptions import ConnectionError as NotConnected
    from requests.exceptions import Timeout

    chain = tuple(causes(error))
    tunnel = TUNNEL.search(str(error))
    certificate = next((cause for cause in chain if isinstance(cause, ssl.SSLCertVerificationError)), None)
    calls = [cause for cause in chain if isinstance(cause, OSError) and not isinstance(cause, ssl.SSLError)]
    why = tunnel[0] if tunnel else next((str(call.strerror) for call in calls if call.strerror), "")
    tls = next((cause for cause in chain if isinstance(cause, ssl.SSLError) and cause.reason), None)
    is_unknown = any(isinstance(cause, socket.gaierror) for cause in chain)
    server = way.server if way else "the service"
    if certificate:
        why = f"the certificate of the server is not accepted: {certificate.verify_message}"
    elif tls:
        why = f"{server} does not answer with valid TLS: {tls.reason.replace('_', ' ').lower()}"
    elif isinstance(error, Timeout) and not why:
        why = f"{server} did not answer in time"
    elif why and way and isinstance(error, NotConnected):
        why = f"the name of {way.server} is unknown: {why}" if is_unknown else f"{way.server}: {why}"
    refuses = tunnel and tunnel["status"].startswith("4") and tunnel["status"] not in ("408", "429")
    remedy = CERTIFICATES.get(certificate.verify_code, AUTHORITY) if certificate else ()
    return NoAnswer(why or str(error), bool(certificate or refuses), is_unknown, remedy)
