"""The standard streams of the process: closed, full or given up by their reader, they never end a command."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any

_lost: list[str] = []  # why output of this process could not be written


class _Stream(io.FileIO):
    """A descriptor whose first failed write is remembered and sends the rest to /dev/null.

    A closed pipe does not count: ``head -1`` ends when it has its line.
    """

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a full pipe that another process made non-blocking
                import select

                select.select((), (self,), ())
        except OSError as error:
            if error.errno != errno.EPIPE:
                _lost.append(error.strerror or str(error))
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return len(data)
        return written


def open_streams() -> None:
    """Makes stdout and stderr usable. A closed one becomes /dev/null: the next opened file would get its number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout, sys.stderr = _text(1), _text(2)


def _text(descriptor: int) -> io.TextIOWrapper:
    stream = _Stream(descriptor, "w", closefd=False)
    buffered = io.BufferedWriter(stream)
    return io.TextIOWrapper(buffered, "utf-8", "backslashreplace", line_buffering=descriptor == 2 or stream.isatty())


def lost() -> int:
    """1 if output was lost, else 0: a program that reads the output must not take a part of it for the whole."""
    sys.stdout.flush()
    if not _lost:
        return 0
    sys.stderr.write(f"petal-node: the output could not be written: {_lost[0]}\n")
    return 1
