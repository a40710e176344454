"""Processes that are there already: which run one belongs to, and how it ends with all that came from it."""

from __future__ import annotations

import os
import signal
from typing import Any

# Marks every process of a run, whatever its parent has become: Spack's builders outlive theirs.
RUN_MARK = "PETAL_RUN_ID"
KILL_GRACE = 5.0
MARK_ROUNDS = 5
# The kernel counts starts from the boot, whose time moves a little when the clock is set.
SAME_START = 2.0


def mark_run(run_id: str) -> None:
    """From now on every program that this process starts carries the mark of the run."""
    os.environ[RUN_MARK] = run_id


def run_mark() -> dict[str, str]:
    """The mark as a part of an environment, empty before ``mark_run``."""
    return {RUN_MARK: os.environ[RUN_MARK]} if RUN_MARK in os.environ else {}


def has_process(pid: int, start: float | None = None) -> bool:
    """True when a process with this number runs here; one that has ended and was not waited for does not.

    Args:
        start: when it was started, by ``own_start``; one that got the same number later is another process.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        created, ended = float(process.create_time()), process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return not ended and (start is None or abs(created - start) < SAME_START)


def own_start() -> float:
    """When this process was started, in seconds since the epoch."""
    import psutil

    return float(psutil.Process().create_time())


def end_tree(pid: int, grace: float = KILL_GRACE) -> None:
    """Ends a process and all that came from it: SIGTERM, ``grace`` seconds, SIGKILL.

    Spack's builders outlive their parent and may leave its group, so the tree is listed before anything is killed.
    """
    import psutil

    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True), *_session(pid)]
    except psutil.Error:
        family = _session(pid)
    _end(family, grace)


def end_marked(run_id: str, grace: float = KILL_GRACE) -> int:
    """Ends every process that carries the mark of a run, but not this one nor what it came from.

    Returns:
        How many there were.
    """
    import psutil

    spared = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    count = 0
    for _ in range(MARK_ROUNDS):  # one that is just being forked shows in the next round
        family = [process for process in psutil.process_iter() if process.pid not in spared and _is_of(process, run_id)]
        if not family:
            break
        count += len(family)
        spared |= _end(family, grace)
    return count


def other_runs(run_id: str) -> frozenset[str]:
    """The runs, but this one, of which a process lives on this machine: of build jobs and of solving too."""
    import psutil

    return frozenset(filter(None, map(_mark_of, psutil.process_iter()))) - {run_id}


def _is_of(process: Any, run_id: str) -> bool:
    return _mark_of(process) == run_id


def _mark_of(process: Any) -> str | None:
    import psutil

    try:
        mark: str | None = process.environ().get(RUN_MARK)
    except (OSError, psutil.Error):
        return None
    return mark


def _end(family: list[Any], grace: float) -> set[int]:
    """Returns those that even SIGKILL does not end: they hang in the kernel, on a dead mount."""
    import psutil

    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in family:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        _, family = psutil.wait_procs(family, timeout=grace)
        if not family:
            break
    return {process.pid for process in family}


def _session(leader: int) -> list[Any]:
    """What is left of a session, also when its leader has ended."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found
