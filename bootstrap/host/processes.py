"""Running processes: the run that a process belongs to, and how to end one with all its descendants."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Marks every process of a run, because Spack's builders outlive their parents.
RUN_MARK = "PETAL_RUN_ID"
KILL_GRACE = 5.0
MARK_ROUNDS = 5


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


def interrupts_end() -> None:
    """Lets Ctrl-C end this process as it ends other programs, without a traceback, unless its parent ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it Ctrl-C raises KeyboardInterrupt, so that records are closed and jobs cancelled."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
        start: the result of ``own_start`` in that process, in this boot; excludes a later process with the same number.
    """
    state, started = _stat(pid)
    if not state:
        return _is_hidden(pid)
    return state not in ("Z", "X") and start in (None, started)


def _is_hidden(pid: int) -> bool:
    """True for a process of another user that /proc does not show to this one (proc(5), hidepid)."""
    try:
        os.kill(pid, 0)
    except (PermissionError, ProcessLookupError, OverflowError) as error:
        return isinstance(error, PermissionError)
    return False


def own_start() -> float:
    """The start time of this process in seconds since the boot, which does not change if the clock is set."""
    return _stat(os.getpid())[1]


def age_of_init() -> float:
    """The age of process 1 in seconds: the time since the boot, in a container too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - _stat(1)[1]


def _stat(pid: int) -> tuple[str, float]:
    """State and start time of a process (proc_pid_stat(5)); an empty state if the process is missing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return "", 0.0
    return fields[0], int(fields[19]) / os.sysconf("SC_CLK_TCK")


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
    """The other runs, build jobs and solves included, that have a process of this user: others can set any mark."""
    import psutil

    return frozenset(filter(None, map(_own_mark_of, psutil.process_iter()))) - {run_id}


def _own_mark_of(process: Any) -> str | None:
    import psutil

    try:
        return _mark_of(process) if process.uids().effective == os.geteuid() else None
    except psutil.Error:
        return None


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
