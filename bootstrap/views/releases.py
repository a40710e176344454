"""What was published, what a rollback did, what may go."""

from __future__ import annotations

from typing import Any

from ..model import Result
from .lines import Line

SHOWN = 10


def releases_view(result: Result, _told: bool) -> list[Line]:
    """One line a release, the newest first, with what it was made of below it."""
    data = result.data
    lines = []
    for one in data["releases"]:
        state = _state(data, one)
        when = f"published {one['published']}" if one["published"] else f"made {one['created'] or 'never whole'}"
        size = f", {human(one['bytes'])}" if one["bytes"] is not None else ""
        counts = f"{one['modules']} modules, {one['packages']} packages{size}"
        lines.append(Line(f"{when}  {counts}  {state}".rstrip(), "=" if state == "current" else "", one["release"]))
        if one["trouble"]:
            lines.append(Line(one["trouble"], "!"))
        if one["specs"]:
            lines.append(Line(_some(one["specs"]), indent=7))
    number = len(data["releases"])
    back = f"; petal-node rollback leads to {data['before']}" if data["before"] else ""
    return [*lines, Line(f"{number} release{'s' if number != 1 else ''} in {data['root']}{back}", heading=True)]


def _state(data: Any, one: Any) -> str:
    if one["release"] == data["current"]:
        return "current"
    return "" if one["complete"] else "not complete"


def _some(words: list[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if words[SHOWN:] else ""
    return ", ".join(words[:SHOWN]) + more


def rollback_view(result: Result, _told: bool) -> list[Line]:
    """Which release new shells get, and how to come back."""
    data = result.data
    if not data["changed"]:
        return [Line(f"release {data['release']} is current already: nothing was changed", heading=True)]
    return [
        Line(f"new shells get release {data['release']}, published {data['published']}", "+"),
        Line("shells and jobs that run keep theirs", "="),
        Line(f"back: petal-node rollback {data['left']}", heading=True),
    ]


def gc_view(result: Result, _told: bool) -> list[Line]:
    """What stays with its reason, what goes with its size."""
    data = result.data
    mark = "+" if data["done"] else "~"
    lines = [Line(f"stays: {why}", "=", release) for release, why in data["keep"].items()]
    lines += [Line(f"{'removed' if data['done'] else 'goes'}, {human(size)} of its own", mark, release)
              for release, size in data["drop"].items()]  # fmt: skip
    packages = data["packages"]
    lines += [Line(f"{human(one['size']):>10}  {one['prefix']}", mark) for one in packages[:SHOWN]]
    lines += [Line(f"and {len(packages) - SHOWN} more packages", mark)] if packages[SHOWN:] else []
    lines += [Line(f"left: {words}", "!") for words in data["left"]]
    what = f"{len(data['drop'])} releases and {len(packages)} packages, {human(data['bytes'])}"
    if not data["drop"] and not packages:
        return [*lines, Line("nothing to remove", heading=True)]
    return [*lines, Line(f"removed {what}" if data["done"] else f"{what}.  Do it: petal-node gc --yes", heading=True)]


def human(number: int) -> str:
    """``1.5 GiB``."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
