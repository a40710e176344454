"""How old the time of a record is."""

from __future__ import annotations

import calendar
import time

TIME = "%Y-%m-%dT%H:%M:%SZ"
UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def seconds_of(text: str) -> float | None:
    """A time as records hold it, in seconds since 1970; None for another text."""
    try:
        return float(calendar.timegm(time.strptime(text, TIME)))
    except ValueError:
        return None


def age_of(text: str, now: float | None = None) -> str:
    """How long ago a record's time was, in one unit: ``12 min``."""
    then = seconds_of(text)
    if then is None:
        return "unknown time"
    seconds = max(0.0, (time.time() if now is None else now) - then)
    unit = next(((size, name) for size, name in UNITS if seconds >= size), (1, "s"))
    return f"{seconds // unit[0]:.0f} {unit[1]}"
