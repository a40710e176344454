"""``log``: what happened on this node, out of its one log, for people."""

from __future__ import annotations

from collections import deque

from ..core.errors import NotRoot, UsageError
from ..core.model import Result, Status, plain
from ..core.options import Options
from ..host.log import LEVELS, Entry, entries
from .common import Services


def log(options: Options, _: Services) -> Result:
    """The newest lines, or all of one run, from a level on.

    Raises:
        NotRoot: the log is root's.
        OSError: it cannot be read.
        UsageError: no such run is in it.
    """
    path, least, run = options.paths.log, LEVELS.index(options.level), options.run
    known = False
    shown: deque[Entry] = deque(maxlen=options.number if run is None else None)
    try:
        for entry in entries(path):
            if run is not None and not entry.run_id.startswith(run):
                continue
            known = True
            if LEVELS.index(entry.level) >= least:
                shown.append(entry)
    except PermissionError as error:
        if not options.paths.live:
            raise
        raise NotRoot(f"{path} is root's", remedy="sudo petal-node log") from error
    if run is not None and not known:
        what = f"no run {run} is in the log"
        why = "it never ran here, or so long ago that its lines are gone"
        raise UsageError(what, why=why, remedy="petal-node status")
    spack = [options.paths.spack_log(run_id) for run_id in dict.fromkeys(entry.run_id for entry in shown)]
    data = {
        "log": str(path),
        "entries": [plain(entry) for entry in shown],
        "spack_logs": [str(path) for path in spack if path.is_file()],
    }
    return Result("log", "log", Status.OK, data)
