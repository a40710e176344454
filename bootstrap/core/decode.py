"""Reads documents into frozen dataclasses: each field by its annotation, or TypeError or ValueError.

``state.store.shaped`` converts these into an error that names the file.
"""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from enum import Enum
from typing import Any, TypeVar, cast

T = TypeVar("T")
# A part of a path: a release, a version, a node.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,254}\Z")
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
LARGEST = 1 << 53  # exact in every JSON parser (RFC 8259)

# For annotations of fields whose values are read more strictly than their types say: see the functions below.
Name = str
Sha256 = str
RelativePath = str
ErrorDict = Mapping[str, Any]


def build(kind: type[T], raw: Any) -> T:
    """The dataclass ``kind`` from a mapping. A missing key gives the field's default; unknown keys are ignored.

    Raises:
        KeyError: a field without a default is missing.
        TypeError, ValueError: a value does not fit the annotation of its field.
    """
    given, described = mapping(raw), cast("Any", kind)
    values = {}
    for field in fields(described):
        if field.name in given or (field.default is MISSING and field.default_factory is MISSING):
            values[field.name] = _reader(str(field.type), kind.__module__)(given[field.name])
    return kind(**values)


@functools.cache
def _reader(annotation: str, module: str) -> Callable[[Any], Any]:
    """The reader for an annotation as written in ``module``; Python 3.9 cannot evaluate ``str | None``."""
    if annotation in _READERS:
        return _READERS[annotation]
    if annotation.endswith(" | None"):
        inner = _reader(annotation[: -len(" | None")], module)
        return lambda value: maybe(value, inner)
    if annotation.startswith("tuple["):
        inner = _reader(annotation[len("tuple[") : -len(", ...]")], module)
        return lambda value: items(value, inner)
    if annotation.startswith("Mapping["):
        of_key, of_value = (_reader(part, module) for part in annotation[len("Mapping[") : -1].split(", ", 1))
        return lambda value: {of_key(key): of_value(item) for key, item in mapping(value).items()}
    kind = getattr(sys.modules[module], annotation)
    return kind if issubclass(kind, Enum) else functools.partial(build, kind)


def text(value: Any) -> str:
    """A string that is valid in a line of a terminal and as an argument of a program."""
    if not isinstance(value, str) or any("\ud800" <= character <= "\udfff" or character == "\0" for character in value):
        raise TypeError(f"{value!r:.80} is not a string")
    return value


def storable(value: str) -> str:
    """``value`` as ``text`` accepts it: the bytes of a file name that are not UTF-8, and NUL, become escapes."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\0")


def name(value: Any) -> str:
    """A string that is safe as a part of a path."""
    if not NAME.match(text(value)):
        raise ValueError(f"{value!r:.80} is not a name")
    return str(value)


def sha256(value: Any) -> str:
    if not SHA256.match(text(value)):
        raise ValueError(f"{value!r:.80} is not a SHA-256")
    return str(value)


def relative_path(value: Any) -> str:
    """A path that stays inside of its directory."""
    if text(value).startswith("/") or ".." in value.split("/"):
        raise ValueError(f"{value!r:.80} leads out of its directory")
    return str(value)


def whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST:
        raise TypeError(f"{value!r:.80} is not an integer")
    return value


def number(value: Any) -> float:
    return value if isinstance(value, float) else float(whole(value))


def boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.80} is not true or false")
    return value


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
    return {"path": text(raw["path"]), "message": text(raw["message"]), "place": text(raw.get("place", ""))}


def pair(value: Any) -> tuple[str, str]:
    first, second = items(value, text)
    return first, second


_READERS: dict[str, Callable[[Any], Any]] = {
    "str": text,
    "int": whole,
    "float": number,
    "bool": boolean,
    "Any": lambda value: value,
    "tuple[str, str]": pair,
    "Name": name,
    "Sha256": sha256,
    "RelativePath": relative_path,
    "ErrorDict": error,
}
