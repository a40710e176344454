"""What was published, what a rollback did, what may go."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from ..core.model import Result
from .lines import Line

SHOWN = 10


def releases_view(result: Result, _told: bool) -> list[Line]:
    """One line a release, the newest first, with what it was made of below it."""
    data = result.data
    lines = []
    for one in data["releases"]:
        state = _state(data, one)
        when = _when(one)
        size = f", {human(one['bytes'])}" if one["bytes"] is not None else ""
        counts = f"{one['modules']} modules, {one['packages']} packages{size}"
        lines.append(Line(f"{when}  {counts}  {state}".rstrip(), "=" if state == "current" else "", one["release"]))
        if one["problem"]:
            lines.append(Line(one["problem"], "!"))
        if one["specs"]:
            lines.append(Line(_some(one["specs"]), indent=7))
    back = f"; petal-node rollback leads to {data['before']}" if data["before"] else ""
    return [*lines, Line(f"{_count(data['releases'], 'release')} in {data['root']}{back}", heading=True)]


def _when(one: Any) -> str:
    if one["published"]:
        return f"published {one['published']}"
    return f"made {one['created']}" if one["created"] else "never published"


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
        Line("to prove it from the compute nodes: petal-node check --nodes all", "~"),
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
    what = f"{_count(data['drop'], 'release')} and {_count(packages, 'package')}, {human(data['bytes'])}"
    if not data["drop"] and not packages:
        return [*lines, Line("nothing to remove", heading=True)]
    do = f"petal-node gc --keep {data['newest']} --yes"
    return [*lines, Line(f"removed {what}" if data["done"] else f"{what}.  Do it: {do}", heading=True)]


def _count(things: Sized, word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"


def human(number: int) -> str:
    """``1.5 GiB``."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
