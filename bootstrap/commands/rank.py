"""``mpi-rank``: one rank of the MPI job of ``check.mpi``; nobody types it."""

from __future__ import annotations

from collections.abc import Callable

from ..core.model import Result, Status
from ..prove.mpi_rank import run
from .common import Asked


def rank(asked: Asked, loaded: int, tell: Callable[[str], None]) -> Result:
    """Goes through the stages of a rank.

    Args:
        loaded: how ``module load`` ended.
        tell: prints a line at once, since MPI may not come back from a stage.
    """
    code = run(tell, loaded)
    return Result(asked.command, "lines", Status.FAILED if code else Status.OK, {"lines": []}, exit=code)
