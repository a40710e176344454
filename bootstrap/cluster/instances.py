"""The CPU and GPU of EC2 instance families, from the table in ``instances.json``.

Each row quotes the processor's name on AWS's pages of instance types. If a family has one of several CPUs, the row
holds the least capable one.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Family:
    """``cpu`` by archspec's name; ``cuda`` is the GPU's compute capability without its point (``90``), or empty."""

    cpu: str
    cuda: str = ""


def family_of(instance_type: str) -> Family | None:
    """The family of an instance type such as ``c7i-flex.large``; None if the table lacks it."""
    return _table().get(instance_type.partition(".")[0])


@functools.cache
def _table() -> dict[str, Family]:
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: Family(row["cpu"], row.get("cuda", "")) for row in rows for name in row["families"].split()}
