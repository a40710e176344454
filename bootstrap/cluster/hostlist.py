"""Node names as Slurm writes many of them (the hostlist of scontrol(1))."""

from __future__ import annotations

import re
from collections.abc import Iterable


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts q1-2 before q1-10."""
    parts = re.split(r"(\d+)", name)
    return [(int(part) if part.isdigit() else -1, part) for part in parts]


def folded(names: Iterable[str]) -> str:
    """Names as a hostlist of scontrol(1): ``q1-st-c5-[1-3,7],login``."""
    groups: dict[tuple[str, bool], list[list[int]]] = {}  # ranges of numbers, by the text before them
    for name in sorted(set(names), key=natural):
        match = re.search(r"(0|[1-9]\d*)\Z", name)
        if match is None:
            groups[name, False] = []
            continue
        number, ranges = int(match[0]), groups.setdefault((name[: match.start()], True), [])
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    texts = []
    for (stem, _), ranges in groups.items():
        text = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
        texts.append(f"{stem}[{text}]" if "," in text or "-" in text else stem + text)
    return ",".join(texts)
