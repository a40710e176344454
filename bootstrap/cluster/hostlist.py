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
    groups: dict[str, list[int]] = {}
    order: dict[str, None] = {}
    for name in sorted(dict.fromkeys(names), key=natural):
        match = re.fullmatch(r"(.*?)(0|[1-9]\d*)", name)
        key = match.group(1) if match else name
        order[key if match else name] = None
        if match:
            groups.setdefault(key, []).append(int(match.group(2)))

    def ranges(numbers: list[int]) -> str:
        runs: list[list[int]] = []
        for number in numbers:
            if runs and number == runs[-1][-1] + 1:
                runs[-1][1:] = [number]
            else:
                runs.append([number])
        text = ",".join("-".join(map(str, run)) for run in runs)
        return text if len(numbers) == 1 else f"[{text}]"

    return ",".join(f"{key}{ranges(groups[key])}" if key in groups else key for key in order)
