"""The node's one log: JSON lines with time, run id and step in /var/log/petal-node.log, written here and read here.

It is put aside when it has grown, so that two files of ``MOST`` bytes are all that it ever takes. Beside it, in
/var/log/petal-node, stands what Spack and failed packages said; the newest runs' is kept.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

from .errors import redacted

MOST = 10 << 20
KEEP_RUNS = 20
LEVELS = ("debug", "info", "warning", "error", "critical")

LOG = logging.getLogger("petal")
LOG.addHandler(logging.NullHandler())  # before the log is open nothing goes to stderr


class _JsonLines(logging.Formatter):
    def __init__(self, run_id: str) -> None:
        super().__init__()
        self._run_id = run_id

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
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
    """A log that has grown becomes the older one; runs that have it open go on writing there, and lose nothing.

    Of two processes that see it at once the second finds another file at its place, or none, and leaves that alone.
    """
    with suppress(FileNotFoundError), path.open("rb") as grown:
        if os.fstat(grown.fileno()).st_size <= MOST:
            return
        fcntl.flock(grown, fcntl.LOCK_EX)
        if os.path.samestat(os.fstat(grown.fileno()), path.stat()):
            path.rename(older(path))


def prune_logs(folder: Path) -> None:
    """Removes what Spack and failed packages said in all but the newest runs.

    Args:
        folder: ``Paths.logs``, with ``spack-RUN.log`` and the directories ``RUN``.
    """
    logs: dict[str, list[Path]] = {}
    for path in folder.glob("*"):
        logs.setdefault(path.name.removeprefix("spack-").removesuffix(".log"), []).append(path)
    for run_id in sorted(logs)[:-KEEP_RUNS]:
        for path in logs[run_id]:
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Entry:
    """One line. ``time`` is UTC; of a line that is none of ours, or was cut off, all is ``message``.

    ``why`` and ``remedy`` are the hook scripts' (``write_log`` of actions/common.sh).
    """

    message: str
    time: str = ""
    level: str = "warning"
    run_id: str = ""
    step: str = ""
    why: str = ""
    remedy: str = ""
    traceback: str = ""


def entries(path: Path) -> Iterator[Entry]:
    """Every line of the log, the oldest first.

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
        texts = {field.name: raw.get(field.name) or "" for field in fields(Entry)}
    except (ValueError, AttributeError):
        return Entry(line.rstrip("\n"))
    if texts["level"] not in LEVELS or not all(isinstance(text, str) for text in texts.values()):
        return Entry(line.rstrip("\n"))
    return Entry(**texts)


def close_log() -> None:
    """Closes what ``open_log`` opened."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
