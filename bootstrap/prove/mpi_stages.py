"""The lines of a rank: one before each stage, so that its last stage is known whatever ends it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from ..core.text import cut

BULK_BYTES = 4 << 20  # more than any fabric sends with the first packet
# srun mixes the output of several tasks in pieces of 1,024 bytes (slurmstepd's MAX_MSG_LEN); shorter lines stay whole.
LINE_BYTES = 1000
TEXT_LENGTHS = (400, 200, 100, 30)  # ten texts of the last length make a short line


class Stage(str, Enum):
    """The stages of a rank, in order; ``DONE`` is the end."""

    START = "start"
    LOAD = "load"
    INIT = "init"
    EXCHANGE = "exchange"
    BULK = "bulk"
    FINALIZE = "finalize"
    DONE = "done"

    def __str__(self) -> str:
        return {
            "start": "the start",
            "load": "the loading of the library",
            "init": "MPI_Init",
            "exchange": "the first exchange (MPI_Allreduce)",
            "bulk": "the exchange of a large message (MPI_Sendrecv)",
            "finalize": "MPI_Finalize",
            "done": "the end",
        }[self.value]


@dataclass
class Rank:
    """One rank, from its lines.

    Args:
        number: Slurm's number of the task.
        stage: the last one that it began.
        error: the error in that stage; ``hangs``: the stage did not return.
        facts: everything else in its lines.
    """

    number: int
    node: str
    stage: Stage = Stage.START
    error: str = ""
    hangs: bool = False
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def size(self) -> int | None:
        """The number of ranks (MPI_Comm_size), None before MPI_Init has returned."""
        size = self.facts.get("size")
        return size if isinstance(size, int) else None

    @property
    def library(self) -> str:
        """Its path for a remedy; empty if it has characters that a path does not need, because a user wrote it."""
        path = str(self.facts.get("library") or "")
        return path if re.fullmatch(r"/[\w./+-]+", path) else ""

    @property
    def version(self) -> str:
        return str(self.facts.get("version") or "")

    @property
    def pmix_version(self) -> str:
        return str(self.facts.get("pmix_version") or "unknown")

    def __str__(self) -> str:
        return f"rank {self.number} on {self.node}"


def line(number: int, node: str, stage: Stage, facts: Mapping[str, Any]) -> str:
    """One line; its texts are cut until it is short enough, except the node."""
    for length in TEXT_LENGTHS:
        text = json.dumps({**cut({"rank": number, "stage": stage.value, **facts}, length), "node": node})
        if len(text) < LINE_BYTES:
            break
    return text


def ranks_of(lines: Iterable[str], nodes: Sequence[str]) -> dict[int, Rank]:
    """The ranks in a job's output, by number; other lines are ignored.

    Args:
        lines: each starts with the number of its task, which srun writes (``--label``). A task cannot write the line of
            another one, and its node is the one on which Slurm started it, whatever the line says.
        nodes: those of the job, in the order of its tasks.
    """
    ranks: dict[int, Rank] = {}
    for labelled in lines:
        label, _, text = labelled.partition(": ")
        text = text[max(text.find('{"rank"'), 0) :]
        if len(text) >= LINE_BYTES:
            continue
        try:
            raw = json.loads(text)
            number, stage = int(label), Stage(raw.pop("stage"))
            node = dict(enumerate(nodes))[number]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            continue
        rank = ranks.setdefault(number, Rank(number, node))
        rank.stage = stage
        rank.error, rank.hangs = str(raw.pop("error", "")), raw.pop("hangs", False) is True
        rank.facts.update(raw)
    return ranks
