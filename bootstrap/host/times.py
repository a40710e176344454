"""Times as records hold them: UTC in ISO 8601, and ids of runs that sort by time."""

from __future__ import annotations

import calendar
import secrets
import time
from pathlib import Path

FORMAT = "%Y-%m-%dT%H:%M:%SZ"
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def timestamp(seconds: float | None = None) -> str:
    """``2026-11-24T08:14:05Z``; by default the current time."""
    return time.strftime(FORMAT, time.gmtime(seconds))


def new_run_id() -> str:
    """``20261124T081405.123Z-1a2b3c``."""
    now = time.time()
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z-{secrets.token_hex(3)}"


def seconds_of(text: str) -> float | None:
    """A timestamp in seconds since 1970; None for another text."""
    try:
        return float(calendar.timegm(time.strptime(text, FORMAT)))
    except ValueError:
        return None


def age_of(text: str, now: float | None = None) -> str:
    """The age of a timestamp in one unit: ``12 min``."""
    then = seconds_of(text)
    if then is None:
        return "unknown time"
    age = max(0.0, (time.time() if now is None else now) - then)
    size, name = next((unit for unit in UNITS if age >= unit[0]), UNITS[-1])
    return f"{age // size:.0f} {name}"


def age_of_file(path: Path) -> float:
    """Seconds since a file was written; 0 if another process has just removed it."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
