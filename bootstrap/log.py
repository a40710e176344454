"""The node's one log: JSON lines with time, run id and step in /var/log/petal-node.log."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path

from .errors import redacted

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
        handler: logging.Handler = logging.FileHandler(path, encoding="utf-8")
        path.chmod(0o640)
    except OSError:
        return logging.NullHandler()
    handler.setFormatter(_JsonLines(run_id))
    return handler


def close_log() -> None:
    """Closes what ``open_log`` opened."""
    for handler in list(LOG.handlers):
        LOG.removeHandler(handler)
        handler.close()
