"""Text for messages."""

from __future__ import annotations

from collections.abc import Sequence


def at_most(limit: int, items: Sequence[object], noun: str = "") -> list[str]:
    """The first items as text, and how many more there are."""
    more = len(items) - limit
    return [*map(str, items[:limit]), *([f"and {more} more{noun}"] if more > 0 else [])]
