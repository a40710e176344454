"""``log``: what happened on this node, out of its one log, for people."""

from __future__ import annotations

from ..errors import NotRoot, UsageError
from ..log import LEVELS, Entry, entries
from ..model import Result, Status, plain
from .common import Asked


def log(asked: Asked, run: str | None, level: str, number: int) -> Result:
    """The newest lines, or all of one run.

    Args:
        run: how a run's id begins.
        level: the least that is of interest, one of ``log.LEVELS``.
        number: how many lines, without ``run``.

    Raises:
        NotRoot: the log is root's.
        UsageError: no such run is in it.
    """
    path = asked.paths().log
    try:
        found = list(entries(path))
    except PermissionError as error:
        raise NotRoot(f"{path} is root's", remedy="sudo petal-node log") from error
    if run is not None:
        found = _of_run(found, run)
    told = [entry for entry in found if LEVELS.index(entry.level) >= LEVELS.index(level)]
    shown = told if run is not None else told[-number:]
    spack = [asked.paths().spack_log(run_id) for run_id in dict.fromkeys(entry.run_id for entry in shown)]
    data = {
        "log": str(path),
        "entries": [plain(entry) for entry in shown],
        "spack_logs": [str(path) for path in spack if path.is_file()],
    }
    return Result("log", "log", Status.OK, data)


def _of_run(found: list[Entry], run: str) -> list[Entry]:
    mine = [entry for entry in found if entry.run_id.startswith(run)]
    if not mine:
        what = f"no run {run} is in the log"
        why = "it never ran here, or so long ago that its lines are gone"
        raise UsageError(what, why=why, remedy="petal-node status")
    return mine
