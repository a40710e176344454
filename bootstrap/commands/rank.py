"""``mpi-rank``: one rank of the MPI job of ``check.mpi``; only a job script runs it."""

from __future__ import annotations

from ..core.model import Lines, Result, Status
from ..core.options import Options
from ..prove.mpi_rank import run
from ..report.render import tell
from ..state.context import Services


def rank(options: Options, _: Services) -> Result[Lines]:
    """Runs the stages of a rank; each line is printed at once, because a stage may hang in MPI."""
    code = run(tell, options.loaded)
    return Result(options.command, Status.FAILED if code else Status.OK, Lines(), exit=code)
