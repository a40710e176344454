"""Text of ``releases``, ``rollback`` and ``gc``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..core.model import Result
from ..core.text import at_most, count, human
from .lines import Line, finding_lines, remedy_lines

if TYPE_CHECKING:
    from ..commands.releases import ReleaseList, Rollback
    from ..releases.gc import Cleanup

MAX_SHOWN = 10


def releases_view(result: Result[ReleaseList]) -> list[Line]:
    """Each release, newest first, with its specs below it."""
    data = result.data
    lines = []
    for release in data.releases:
        current = release.release == data.current
        state = "  current" if current else "" if release.complete else "  incomplete"
        date = f"created {release.created}" if release.created else "never published"
        if release.published:
            date = f"published {release.published}"
        lines.append(Line(date + state, "=" if current else "", release.release))
        size = f", {human(release.bytes)}" if release.bytes is not None else ""
        lines.append(Line(f"{count(release.modules, 'module')}, {count(release.packages, 'package')}{size}", indent=7))
        if release.specs:
            lines.append(Line(", ".join(at_most(MAX_SHOWN, release.specs)), indent=7))
        lines += [Line(release.problem, "!", release.release)] if release.problem else []
    lines.append(Line(f"{count(len(data.releases), 'release')} in {data.root}", heading=True))
    return lines + ([Line(f"petal-node rollback makes {data.before} current", commands=True)] if data.before else [])


def rollback_view(result: Result[Rollback]) -> list[Line]:
    """The current release, and how to go back."""
    data = result.data
    if not data.changed:
        return [Line(f"release {data.release} is already current: nothing changed", heading=True)]
    if data.left == data.release:
        return [Line(f"release {data.release} stays current, and its configuration is the desired one again", "+")]
    back = Line(f"undo: {data.undo}", heading=True, commands=True)
    return [
        Line(f"new shells get release {data.release}, published {data.published}", "+"),
        Line("running shells and jobs keep their release", "="),
        Line("prove it on the compute nodes: petal-node check --nodes all", "~", commands=True),
        *finding_lines(data.findings),
        *([back] if data.undo else []),
    ]


def gc_view(result: Result[Cleanup]) -> list[Line]:
    """The kept releases with the reason, and the removed releases, packages and files with their size."""
    data = result.data
    mark, verb = ("+", "removed") if data.done else ("~", "remove")
    lines = [Line(f"keep: {why}", "=", release) for release, why in data.keep.items()]
    lines += [Line(f"{verb}, {human(size)}", mark, release) for release, size in data.drop.items()]
    for unused, noun in ((data.packages, " packages"), (data.files, " files")):
        entries = [f"{human(each.size):>10}  {each.path}" for each in unused]
        lines += [Line(text, mark) for text in at_most(MAX_SHOWN, entries, noun)]
    lines += [Line(f"not removed: {reason}", "!") for reason in data.left]
    if data.is_empty:
        return [*lines, Line("nothing to remove", heading=True)]
    numbers = ((data.drop, "release"), (data.packages, "package"), (data.files, "other file"))
    what = f"{', '.join(count(len(items), noun) for items, noun in numbers if items)}: {human(data.bytes)}"
    if data.done:
        return [*lines, Line(f"removed {what}", heading=True)]
    return [*lines, Line(what, heading=True), *remedy_lines([f"petal-node gc --keep {data.newest} --yes"], 2)]
