"""Typed readers for documents: each returns the value in its type, or raises TypeError or ValueError.

``state.store.shaped`` converts these into an error that names the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")
# A part of a path: a release, a version, a node.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}\Z")
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
LARGEST = 1 << 53  # exact in every JSON parser (RFC 8259)


def text(value: Any) -> str:
    """A string that is valid in a line of a terminal and as an argument of a program."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" or character == "\0" for character in value):
        raise TypeError(f"{value!r:.80} is not a string")
    return value


def name(value: Any) -> str:
    """A string that is safe as a part of a path."""
    if not NAME.match(text(value)):
        raise ValueError(f"{value!r:.80} is not a name")
    return str(value)


def sha256(value: Any) -> str:
    if not SHA256.match(text(value)):
        raise ValueError(f"{value!r:.80} is not a SHA-256")
    return str(value)


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise TypeError(f"{value!r:.80} is not an integer")
    return value


def number(value: Any) -> float:
    return value if isinstance(value, float) else float(whole(value))


def mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{value!r:.80} is not a mapping")
    return dict(value)


def items(value: Any, of: Callable[[Any], T]) -> tuple[T, ...]:
    """A list as a tuple, each item read by ``of``."""
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{value!r:.80} is not a list")
    return tuple(of(item) for item in value)


def maybe(value: Any, of: Callable[[Any], T]) -> T | None:
    """None, or the value as ``of`` reads it."""
    return None if value is None else of(value)


def error(value: Any) -> dict[str, Any]:
    """An error as ``PetalError.to_dict`` writes it; that of a step may have only its code."""
    raw = mapping(value)
    read: dict[str, Any] = {key: text(raw.get(key, "")) for key in ("code", "what", "why")}
    read["remedy"] = list(items(raw.get("remedy", ()), text))
    if "problems" in raw:
        read["problems"] = list(items(raw["problems"], _problem))
    return read


def _problem(value: Any) -> dict[str, str]:
    raw = mapping(value)
    return {"path": text(raw["path"]), "message": text(raw["message"])}
