"""Node names as Slurm writes many of them (the hostlist of scontrol(1))."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product
from math import prod

MOST = 65536  # names of one list: Slurm's MAX_RANGE


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


def unfolded(text: str) -> tuple[str, ...]:
    """The names of a hostlist (``q1-[1-2,07],login``), each once.

    Raises:
        ValueError: with the mistake.
    """
    names: dict[str, None] = {}
    for item in re.findall(r"(?:\[[^\[\]]*\]|[^,\s])+", text):
        parts = re.split(r"\[([^\[\]]*)\]", item)
        if any(sign in part for part in parts[::2] for sign in "[]"):
            raise ValueError(f"a bracket of {item} has no counterpart")
        choices = [_numbers(part) if number % 2 else [part] for number, part in enumerate(parts)]
        if prod(map(len, choices)) > MOST:
            raise ValueError(f"{item} has more than {MOST} names")
        names |= dict.fromkeys("".join(chosen) for chosen in product(*choices))
    return tuple(names)


def _numbers(text: str) -> list[str]:
    """The numbers in brackets, with the zeros before the first one of a range."""
    numbers: list[str] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        first, last = (match[1], match[2] or match[1]) if match else ("", "")
        if match is None or int(last) < int(first):
            raise ValueError(f"[{text}] is not a range of numbers")
        if int(last) - int(first) >= MOST:
            raise ValueError(f"[{text}] has more than {MOST} numbers")
        numbers += [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
    return numbers
