"""The log of the node, /var/log/petal-node.log: JSON lines with time, run id and step.

A process that opens a log of more than ``MOST`` bytes renames it first. The output of Spack is in /var/log/petal-node.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..core import decode
from ..core.deadlines import RECENT
from ..core.errors import redacted
from ..core.options import LOG_LEVELS
from .times import timestamp

MOST = 10 << 20
KEEP_LOGS = 20
LEVELS = (*LOG_LEVELS, "critical")

LOG = logging.getLogger("petal")
LOG.addHandler(logging.NullHandler())  # nothing goes to stderr before the log is open


class _JsonLines(logging.Formatter):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "run_id": self._run_id,
            "step": getattr(record, "step", ""),
            "message": decode.storable(redacted(record.getMessage())),
        }
        if record.exc_info:
            line["traceback"] = decode.storable(redacted(self.formatException(record.exc_info)))
        return json.dumps(line, ensure_ascii=True)


class _LogFile(logging.FileHandler):
    """A line that does not fit on a full disk is lost, without a traceback: the run may free space."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - its name in logging
        pass


def open_log(path: Path, run_id: str) -> None:
    """Logs to ``path`` from now on. If it cannot be written, the run continues without a log."""
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    close_log()
    handler: logging.Handler = logging.NullHandler()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        _rotate(path)
        handler = _LogFile(path, encoding="utf-8")
        with suppress(FileNotFoundError):  # another run renames it at this moment
            path.chmod(0o640)
    handler.setFormatter(_JsonLines(run_id))
    LOG.addHandler(handler)


def older(path: Path) -> Path:
    """The path of the previous log."""
    return path.with_name(f"{path.name}.1")


def _rotate(path: Path) -> None:
    """Renames a log that is too large; runs that have it open continue to write to it.

    If two processes do this at once, the second one finds another file at ``path``, or none, and does nothing. A log
    that cannot be renamed continues to grow.
    """
    with suppress(OSError), path.open("rb") as log:
        if os.fstat(log.fileno()).st_size <= MOST:
            return
        fcntl.flock(log, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(log.fileno()), path.stat()):
            path.rename(older(path))


def prune_logs(folder: Path) -> None:
    """Removes the output of Spack of old runs; recent files may belong to a run that continues.

    Args:
        folder: ``Paths.logs``, with ``spack-RUN.log``; run ids sort by time.
    """
    for path in sorted(folder.glob("spack-*.log"))[:-KEEP_LOGS]:
        with suppress(OSError):  # no run fails because of this
            if time.time() - path.stat().st_mtime > RECENT:
                path.unlink()


@dataclass(frozen=True)
class Entry:
    """One line; ``time`` is UTC. An incomplete line, or one in another format, has only a ``message``."""

    message: str
    time: str = ""
    level: str = "warning"
    run_id: str = ""
    step: str = ""
    traceback: str = ""


_HOOK_SCRIPT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (petal-node \w+: .*)")  # a failure of actions/on_node.sh


def entries(path: Path) -> Iterator[Entry]:
    """Every line of the previous log and of this one; a missing log has no lines.

    Raises:
        OSError: a log cannot be read.
    """
    for file in (older(path), path):
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from map(_entry, lines)
        except FileNotFoundError:
            continue


def _entry(line: str) -> Entry:
    try:
        entry = decode.build(Entry, json.loads(line))
        if entry.level in LEVELS:
            return entry
    except (ValueError, TypeError, KeyError, RecursionError):
        script = _HOOK_SCRIPT.match(line)
        if script:
            return Entry(script[2], script[1], "error")
    return Entry(line.rstrip("\n"))


def close_log() -> None:
    """Closes the log."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        with suppress(OSError):  # the disk is full
            handler.close()
    LOG.addHandler(logging.NullHandler())
