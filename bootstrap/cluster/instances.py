"""Which CPU, and which GPU, an EC2 instance family has: the table in ``instances.json``, and nothing else.

Every row says in words what AWS's pages of instance types call the processor. Where a family comes with one of
several CPUs, the row holds the least of them.
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
    """What the family of ``c7i-flex.large`` is; None where the table does not have it."""
    return _table().get(instance_type.partition(".")[0])


@functools.cache
def _table() -> dict[str, Family]:
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return {name: Family(row["cpu"], row.get("cuda", "")) for row in rows for name in row["families"].split()}
