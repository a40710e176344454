"""What the keys of one mirror mean together, and what contradicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError

NO_SOURCES = "Spack reads sources from s3:// with boto3 only, which nodes lack: use https://BUCKET.s3... or a directory"
NO_TRUST = "whose packages are taken? List the public keys that sign them as keys, or write signed: false"


def of_sources(url: str) -> dict[str, Any]:
    """What a mirror means that is a URI and no more."""
    return {"url": url, "binaries": False}


def check(data: Mapping[str, Any]) -> None:
    """Looks at a mirror whose values are right one by one.

    Raises:
        marshmallow.ValidationError: with the key.
    """
    signed = data.get("signed", True)
    if data["url"].startswith("s3://") and data.get("sources"):
        raise ValidationError(NO_SOURCES, "sources")
    if not data.get("binaries", True):
        _check_sources(data)
        return
    if signed and not data.get("keys"):
        raise ValidationError(NO_TRUST, "keys")
    if not signed and (data.get("keys") or data.get("signing_key")):
        raise ValidationError("contradicts the keys beside it: nobody would look at them", "signed")
    if data.get("push"):
        _check_push(data, signed)


def _check_sources(data: Mapping[str, Any]) -> None:
    if data["url"].startswith("s3://"):
        raise ValidationError(f"{NO_SOURCES}. Packages can be taken from there: {{url: ..., keys: [...]}}", "url")
    if data.get("sources") is False:
        raise ValidationError("leaves nothing to take from the mirror", "binaries")
    if data.get("push"):
        raise ValidationError("is for a mirror that gives packages too: binaries: true", "push")


def _check_push(data: Mapping[str, Any], signed: bool) -> None:
    if data["url"].startswith("https://"):
        raise ValidationError("goes to s3:// or a directory only: nothing can be written to https://", "push")
    if signed and not data.get("signing_key"):
        raise ValidationError("is needed to push signed packages: {source: PATH} of the secret key", "signing_key")
