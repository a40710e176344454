"""Running processes: the run that a process belongs to, and how to end one with all its descendants."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# Marks every process of a run, because Spack's builders outlive their parents.
RUN_MARK = "PETAL_RUN_ID"
KILL_GRACE = 5.0
MARK_ROUNDS = 5
# The kernel counts a start from the boot, and the time of the boot moves a little if the clock is set.
SAME_START = 2.0


class Terminated(BaseException):
    """The process received SIGTERM or SIGHUP."""


@contextmanager
def terminable() -> Iterator[None]:
    """Within it SIGTERM and SIGHUP raise Terminated, so that records are closed and jobs cancelled."""
    before = {number: signal.signal(number, _terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise Terminated


def mark_run(run_id: str) -> None:
    """Marks every program that this process starts from now on."""
    os.environ[RUN_MARK] = run_id


def run_mark() -> dict[str, str]:
    """The environment variable of the mark, empty before ``mark_run``."""
    return {RUN_MARK: os.environ[RUN_MARK]} if RUN_MARK in os.environ else {}


def has_process(pid: int, start: float | None = None) -> bool:
    """True if a process with this number runs on this machine and is not a zombie.

    Args:
        start: the result of ``own_start`` in that process; excludes a later process with the same number.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        created, ended = float(process.create_time()), process.status() == psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
    return not ended and (start is None or abs(created - start) < SAME_START)


def own_start() -> float:
    """The start time of this process in seconds since 1970."""
    import psutil

    return float(psutil.Process().create_time())


def end_tree(pid: int) -> None:
    """Ends a process and its descendants: SIGTERM, ``KILL_GRACE`` seconds, SIGKILL.

    The tree is listed first, because Spack's builders outlive their parent and may leave its process group.
    """
    import psutil

    try:
        parent = psutil.Process(pid)
        family = [parent, *parent.children(recursive=True), *_session(pid)]
    except psutil.Error:
        family = _session(pid)
    _end(family)


def end_marked(run_id: str) -> int:
    """Ends every process with the mark of a run except this process and its ancestors; returns their number."""
    import psutil

    spared = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    count = 0
    for _ in range(MARK_ROUNDS):  # a process that is being forked appears in the next round
        found = [process for process in psutil.process_iter() if process.pid not in spared]
        family = [process for process in found if _mark_of(process) == run_id]
        if not family:
            break
        count += len(family)
        spared |= _end(family)
    return count


def other_runs(run_id: str) -> frozenset[str]:
    """The other runs, build jobs and solves included, that have a process on this machine."""
    import psutil

    return frozenset(filter(None, map(_mark_of, psutil.process_iter()))) - {run_id}


def _mark_of(process: Any) -> str | None:
    import psutil

    try:
        mark: str | None = process.environ().get(RUN_MARK)
    except (OSError, psutil.Error):
        return None
    return mark


def _end(family: list[Any]) -> set[int]:
    """Returns the processes that SIGKILL does not end: they hang in the kernel, on a dead mount."""
    import psutil

    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in family:
            try:
                process.send_signal(number)
            except psutil.Error:
                continue
        _, family = psutil.wait_procs(family, timeout=KILL_GRACE)
        if not family:
            break
    return {process.pid for process in family}


def _session(leader: int) -> list[Any]:
    """The processes of a session except its leader, which may have ended."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != leader and os.getsid(process.pid) == leader:
                found.append(process)
        except (OSError, psutil.Error):
            continue
    return found
