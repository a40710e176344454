"""Text for messages."""

from __future__ import annotations

import re
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


COMMAND_LENGTH = 4096


def first_words(text: str, length: int) -> str:
    """``text``, or the words that fit into ``length`` characters: a word, which may be a path, is never cut."""
    if len(text) <= length:
        return text
    fitting = re.match(rf"(?s).{{0,{length - 4}}}(?=\s)", text)
    return f"{fitting[0].rstrip()} ..." if fitting else "..."


def cut(value: Any, length: int) -> Any:
    """JSON values with texts of one line and at most ``length`` characters.

    Texts are in ASCII, because JSON makes six characters of each other one.

    A line of a ``remedy`` is a command: it stays whole, or is left out if it has more than ``COMMAND_LENGTH``.
    """
    if isinstance(value, str):
        line = " / ".join(value.splitlines())
        return first_words(line, length).encode("ascii", "replace").decode("ascii")
    if isinstance(value, Mapping):
        return {key: _commands(item) if key == "remedy" else cut(item, length) for key, item in value.items()}
    return [cut(item, length) for item in value] if isinstance(value, (list, tuple)) else value


def _commands(lines: Any) -> list[Any]:
    lines = lines if isinstance(lines, (list, tuple)) else []
    return [line for line in lines if isinstance(line, str) and len(line) <= COMMAND_LENGTH]


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


A_PAGE = "it is an HTML page, perhaps of a proxy, which answered instead of the server"
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)


def is_page(data: bytes) -> bool:
    """True for an HTML page, for which ``A_PAGE`` is the reason."""
    return bool(_PAGE.match(data))
