"""What a rank tells, one short line before each stage, so that whoever reads knows how far it came whatever ends it.

srun mixes the output of its tasks in pieces of 1,024 bytes and keeps only shorter lines whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

TEXT = 200  # characters of a text in a line: four of them, all escaped, still make a short one
LINE_BYTES = 1000
BULK_BYTES = 4 << 20  # far beyond what any fabric sends with the first packet


class Stage(str, Enum):
    """What a rank is about to do, in order; ``DONE`` is the end."""

    START = "start"
    LOAD = "load"
    INIT = "init"
    EXCHANGE = "exchange"
    BULK = "bulk"
    FINALIZE = "finalize"
    DONE = "done"

    @property
    def talks(self) -> bool:
        """The ranks send each other messages."""
        return self in (Stage.EXCHANGE, Stage.BULK, Stage.FINALIZE)

    def __str__(self) -> str:
        return WORDS[self]


WORDS = {
    Stage.START: "the start",
    Stage.LOAD: "the loading of the library",
    Stage.INIT: "MPI_Init",
    Stage.EXCHANGE: "the first exchange (MPI_Allreduce)",
    Stage.BULK: "the exchange of a large message (MPI_Sendrecv)",
    Stage.FINALIZE: "MPI_Finalize",
    Stage.DONE: "the end",
}


@dataclass
class Rank:
    """One rank, as its lines tell of it.

    Args:
        number: Slurm's number of the task.
        stage: the last one that it began.
        error: what went wrong in that stage, in its own words; ``hangs``: it did not come back from it.
        facts: all else that it said.
    """

    number: int
    node: str
    stage: Stage = Stage.START
    error: str = ""
    hangs: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        """How many ranks MPI says there are, None before MPI_Init has ended."""
        size = self.facts.get("size")
        return size if isinstance(size, int) else None

    @property
    def library(self) -> str:
        """Its path, for a command that somebody may type: empty where it has other characters than paths need."""
        path = str(self.facts.get("library") or "")
        return path if re.fullmatch(r"[\w./+-]+", path) else ""

    @property
    def version(self) -> str:
        return str(self.facts.get("version") or "")

    @property
    def has_pmix(self) -> bool:
        """Slurm's PMIx plugin has given it what it needs to find the others."""
        return bool(self.facts.get("pmix"))

    def __str__(self) -> str:
        return f"rank {self.number} on {self.node}"


def line(number: int, node: str, stage: Stage, facts: Mapping[str, Any]) -> str:
    """One line; texts that are too long lose their end, and all texts more of it until the line is short enough."""
    for length in (TEXT, TEXT // 2, TEXT // 10):
        cut = {name: value[:length] if isinstance(value, str) else value for name, value in facts.items()}
        text = json.dumps({"rank": number, "node": node[:64], "stage": stage.value, **cut})
        if len(text) < LINE_BYTES:
            break
    return text


def ranks_of(lines: Iterable[str]) -> dict[int, Rank]:
    """The ranks that a job's output tells of, by number; lines of others are noise."""
    found: dict[int, Rank] = {}
    for text in lines:
        try:
            raw = json.loads(text[max(text.find('{"rank"'), 0) :])
            number, node, stage = int(raw.pop("rank")), str(raw.pop("node")), Stage(raw.pop("stage"))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        rank = found.setdefault(number, Rank(number, node))
        rank.stage = stage
        rank.error, rank.hangs = str(raw.pop("error", "")), raw.pop("hangs", False) is True
        rank.facts.update(raw)
    return found
