"""The lines by which the tasks of a job report: a JSON object on each.

srun mixes the output of several tasks in pieces of 1,024 bytes (slurmstepd's MAX_MSG_LEN) and keeps only shorter lines
in one piece.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LINE_BYTES = 1000
TEXT_LENGTHS = (400, 200, 100, 30)  # ten texts of the last length make a short line


def short_line(facts: Mapping[str, Any]) -> str:
    """The line of ``facts``; its texts are cut until it is short enough, except the node, by which lines are joined."""
    for length in TEXT_LENGTHS:
        line = json.dumps({**cut(facts, length), "node": facts["node"]})
        if len(line) < LINE_BYTES:
            break
    return line


def cut(value: Any, length: int) -> Any:
    """``value`` with texts of at most ``length`` characters, in ASCII because JSON makes six of each other one."""
    if isinstance(value, str):
        return value[:length].encode("ascii", "replace").decode("ascii")
    if isinstance(value, Mapping):
        return {key: cut(item, length) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [cut(item, length) for item in value]
    return value
