"""``log``: the lines of this node's log."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from ..core.errors import NotRoot, UsageError
from ..core.model import Result, Status
from ..core.options import Options
from ..host.log import LEVELS, Entry, entries
from ..state.context import Services


@dataclass(frozen=True)
class LogLines:
    """Lines of the log at ``log``, and the files with Spack's output of the same runs."""

    log: str
    entries: tuple[Entry, ...]
    spack_logs: tuple[str, ...]


def log(options: Options, _: Services) -> Result[LogLines]:
    """The newest lines, or all of the run whose id begins with ``--run``, from ``--level`` on.

    Raises:
        NotRoot: only root may read the log.
        OSError: it cannot be read.
        UsageError: it has no line of the run, or the prefix matches several runs.
    """
    paths, run, least = options.paths, options.run, LEVELS.index(options.level)
    matching: dict[str, None] = {}  # the runs whose ids begin with --run, in the order of the log
    shown: deque[Entry] = deque(maxlen=options.number if run is None else None)
    try:
        for entry in entries(paths.log):
            if run is None or entry.run_id.startswith(run):
                matching[entry.run_id] = None
                if LEVELS.index(entry.level) >= least:
                    shown.append(entry)
    except PermissionError as error:
        if not paths.live:
            raise
        raise NotRoot(f"only root may read {paths.log}", remedy=options.typed) from error
    if run in matching:
        shown = deque(entry for entry in shown if entry.run_id == run)
    elif run is not None and len(matching) > 1:
        newest = [*matching][:-6:-1]
        why = f"they are {', '.join(newest)}{', ...' if len(matching) > 5 else ''}"
        raise UsageError(f"{run} matches {len(matching)} runs", why=why, remedy=f"petal-node log --run {newest[0]}")
    if run is not None and not matching:
        why = "it did not run on this node, or its lines were rotated away"
        raise UsageError(f"the log has no run {run}", why=why, remedy="petal-node status")
    spack = [paths.spack_log(run_id) for run_id in dict.fromkeys(entry.run_id for entry in shown)]
    data = LogLines(str(paths.log), tuple(shown), tuple(str(path) for path in spack if path.is_file()))
    return Result("log", Status.OK, data)
