"""Text for messages."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")


def at_most(limit: int, items: Sequence[object], noun: str = "") -> list[str]:
    """The first items as text, and how many more there are."""
    more = len(items) - limit
    return [*map(str, items[:limit]), *([f"and {more} more{noun}"] if more > 0 else [])]


def not_reached(items: Sequence[object], noun: str, seconds: float) -> str:
    """What a scan did not reach within its time, for the end of a sentence; empty if it reached everything."""
    return f"; not reached within {seconds:.0f} s: {', '.join(at_most(1, items, noun))}" if items else ""


def cut(value: Any, length: int) -> Any:
    """JSON values with texts of at most ``length`` characters, in ASCII because JSON makes six of each other one."""
    if isinstance(value, str):
        return value[:length].encode("ascii", "replace").decode("ascii")
    if isinstance(value, Mapping):
        return {key: cut(item, length) for key, item in value.items()}
    return [cut(item, length) for item in value] if isinstance(value, (list, tuple)) else value


def count(number: int, noun: str) -> str:
    """``1 package``, ``2 packages``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def quoted(value: object) -> str:
    """A path or another text of this machine as one word of a command that an operator copies into a shell."""
    return shlex.quote(str(value))


def grouped(pairs: Iterable[tuple[K, V]]) -> dict[K, list[V]]:
    """The values of each key, in their order."""
    groups: dict[K, list[V]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def human(number: int) -> str:
    """``1.5 GiB``."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
