"""Where something may come from: the one rule for a URI in petal.yaml and for ``--config``."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit

from ..core.errors import SECRET_NAME

PLACES = re.compile(r"(s3://[^/]+/.|https://[^/]+/.|file:///|/)")
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")


def problem_of(uri: str) -> str:
    """What is wrong with a URI, or an empty string."""
    if CONTROL.search(uri):
        return "must be one line without control characters"
    if uri.startswith("http://"):
        return "is http://, which is not read, since anybody on the way could change it: use https://"
    if not PLACES.match(uri):
        return "must be s3://BUCKET/KEY, https://HOST/PATH, file:///PATH or an absolute path"
    return _problem_of_address(uri) if uri.startswith("https://") else ""


def _problem_of_address(uri: str) -> str:
    try:
        parts = urlsplit(uri)
        host = parts.hostname and parts.port != 0
    except ValueError as error:
        return f"is no address: {error}"
    if not host:
        return "must be https://HOST/PATH"
    if "@" in parts.netloc or any(SECRET_NAME.search(name) for name, _ in parse_qsl(parts.query, True)):
        return "holds a password or a signature, which every record would show: use s3:// and the node's role"
    return ""
