"""The node's one log: JSON lines with time, run id and step in /var/log/petal-node.log, written here and read here.

A process that opens it when it has more than ``MOST`` bytes renames it first. Spack's output is in
/var/log/petal-node.
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
from dataclasses import dataclass, fields
from pathlib import Path

from ..core.errors import redacted
from .times import timestamp

MOST = 10 << 20
KEEP_LOGS = 20
KEEP_SECONDS = 3600.0
LEVELS = ("debug", "info", "warning", "error", "critical")

LOG = logging.getLogger("petal")
LOG.addHandler(logging.NullHandler())  # before the log is open nothing goes to stderr


class _JsonLines(logging.Formatter):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "run_id": self._run_id,
            "step": getattr(record, "step", None),
            "message": redacted(record.getMessage()),
        }
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=True)


def open_log(path: Path, run_id: str) -> None:
    """Sends everything to ``path`` from now on. A log that cannot be written costs the log, never the run."""
    LOG.setLevel(logging.DEBUG)
    LOG.propagate = False
    close_log()
    LOG.addHandler(_handler(path, run_id))


def _handler(path: Path, run_id: str) -> logging.Handler:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _put_aside(path)
        handler: logging.Handler = logging.FileHandler(path, encoding="utf-8")
        with suppress(FileNotFoundError):  # put aside by another run at this moment
            path.chmod(0o640)
    except OSError:
        return logging.NullHandler()
    handler.setFormatter(_JsonLines(run_id))
    return handler


def older(path: Path) -> Path:
    """Where the log before this one is."""
    return path.with_name(f"{path.name}.1")


def _put_aside(path: Path) -> None:
    """A log that has grown becomes the older one; runs that have it open go on writing there.

    Of two processes that see it at once the second finds another file at its place, or none, and leaves that alone. One
    that cannot be moved goes on growing, which is better than none.
    """
    with suppress(OSError), path.open("rb") as grown:
        if os.fstat(grown.fileno()).st_size <= MOST:
            return
        fcntl.flock(grown, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(grown.fileno()), path.stat()):
            path.rename(older(path))


def prune_logs(folder: Path) -> None:
    """Removes what Spack said, but for the newest runs and all that are young: one may go on.

    Args:
        folder: ``Paths.logs``, with ``spack-RUN.log``; ids of runs sort by time.
    """
    for path in sorted(folder.glob("spack-*.log"))[:-KEEP_LOGS]:
        with suppress(OSError):  # housekeeping costs no run its end
            if time.time() - path.stat().st_mtime > KEEP_SECONDS:
                path.unlink()


@dataclass(frozen=True)
class Entry:
    """One line; ``time`` is UTC. A line in another format, or a cut one, is a ``message`` without the other fields."""

    message: str
    time: str = ""
    level: str = "warning"
    run_id: str = ""
    step: str = ""
    traceback: str = ""


_NAMES = tuple(field.name for field in fields(Entry))
_HOOK_SCRIPT = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ) (petal-node \w+: .*)")  # a failure of actions/on_node.sh


def entries(path: Path) -> Iterator[Entry]:
    """Every line, the older log's first; a run that had that one open when it was put aside wrote its last lines there.

    Raises:
        OSError: it cannot be read, but for one that is not there, which is empty.
    """
    for file in (older(path), path):
        try:
            with file.open(encoding="utf-8", errors="replace") as lines:
                yield from map(_entry, lines)
        except FileNotFoundError:
            continue


def _entry(line: str) -> Entry:
    try:
        raw = json.loads(line)
        texts = {name: raw.get(name) or "" for name in _NAMES}
    except (ValueError, AttributeError, RecursionError):
        script = _HOOK_SCRIPT.match(line)
        return Entry(script[2], script[1], "error") if script else Entry(line.rstrip("\n"))
    if texts["level"] not in LEVELS or not all(isinstance(text, str) for text in texts.values()):
        return Entry(line.rstrip("\n"))
    return Entry(**texts)


def close_log() -> None:
    """Closes what ``open_log`` opened."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
