"""Clocks of two machines, and how old a time of a record is."""

from __future__ import annotations

import calendar
import time

from ..core.model import Finding, Mark

SKEW_SECONDS = 5.0  # from here on make and logs mislead
MUNGE_SECONDS = 300.0  # a credential is refused from here on (munged(8), TTL)
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


def ahead(before: float, after: float, other: float) -> float:
    """How far a clock that showed ``before`` and ``after`` is ahead of another that showed ``other`` in between."""
    return max(0.0, before - other) or min(0.0, after - other)


def skew_finding(skew: float) -> Finding:
    """What a difference of clocks means, in seconds that a node is ahead."""
    if abs(skew) < SKEW_SECONDS:
        return Finding("clock", Mark.OK, f"within {SKEW_SECONDS:.0f} s of the others")
    message = f"the clock is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"
    remedy = ("chronyc -a makestep", "chronyc tracking")
    if abs(skew) < MUNGE_SECONDS:
        why = "make builds what is new, or leaves what is old; logs do not fit together"
        return Finding("clock", Mark.WARN, message, why, remedy)
    why = f"munge refuses what is older than {MUNGE_SECONDS:.0f} s, so no job starts"
    return Finding("clock", Mark.FAIL, message, why, remedy)
