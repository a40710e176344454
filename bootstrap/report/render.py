"""The only module that prints: results as text or as one JSON envelope, and progress.

Text is ASCII, because it also goes to logs that are read with any locale; other characters are escaped. Colours are
used only on a terminal, and not with NO_COLOR.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TextIO

from ..core.deadlines import HEARTBEAT
from ..core.model import Outcome, Result, Status, StepReport, plain
from ..core.options import Options
from .lines import Line, error_lines, for_tree, step_lines
from .views import text_lines

ENVELOPE = 1  # the version of the one shape of --json
COLOURS = {
    "ok": "green",
    "=": "green",
    "+": "cyan",
    "~": "cyan",
    ">": "cyan",
    "!": "yellow",
    "warn": "yellow",
    "x": "red",
    "FAIL": "red",
}

FAILED = ("x", "!", "warn", "FAIL")


def show(result: Result[Any], options: Options, *, steps_shown: bool = False) -> None:
    """Prints the answer to stdout, without the steps that were shown while they ran, and errors to stderr."""
    if options.json:
        envelope = {
            "petal": ENVELOPE,
            "command": result.command,
            "status": result.status.value,
            "exit_code": result.exit_code,
            "run_id": result.run_id,
            "data": {} if result.data is None else plain(result.data),
            "errors": [dict(error) for error in result.errors],
        }
        _write(sys.stdout, [json.dumps(_for_tree(envelope, options), ensure_ascii=True, sort_keys=True)])
        return
    lines = text_lines(result, steps_shown=steps_shown)
    _print(sys.stdout, failures(lines) if options.quiet else lines, options)
    if result.errors and result.status in (Status.FAILED, Status.DEGRADED):
        _print(sys.stderr, error_lines(result.errors), options)


def _for_tree(value: Any, options: Options) -> Any:
    """A part of the envelope whose remedies act on the same tree as this command line."""
    if isinstance(value, dict):
        return {
            key: [for_tree(line, options) for line in each] if key == "remedy" else _for_tree(each, options)
            for key, each in value.items()
        }
    return [_for_tree(each, options) for each in value] if isinstance(value, list) else value


def tell(line: str) -> None:
    """Prints one line and flushes it, from a process that may hang or be killed next."""
    _write(sys.stdout, [line])


def failures(lines: Iterable[Line]) -> Iterator[Line]:
    """The failed lines with the reasons and remedies below them, and the names of the nodes above them."""
    nodes: Line | None = None
    failed = False
    for line in lines:
        if line.mark:
            failed = line.mark in FAILED
        elif line.heading or line.indent <= Line.indent:  # no detail of a step or finding
            nodes, failed = line if line.indent == 0 else None, False
        if failed:
            if nodes:
                yield nodes
                nodes = None
            yield line


def _print(stream: TextIO, lines: Iterable[Line], options: Options) -> None:
    lines = [replace(line, text=for_tree(line.text, options)) if line.commands else line for line in lines]
    if not _wants_colour(stream):
        _write(stream, map(str, lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(file=stream, highlight=False, soft_wrap=True)
    for line in lines:
        plain = str(line)
        text = Text(_ascii(plain))
        if line.mark and (colour := COLOURS.get(line.mark)):
            start = plain.index(line.mark)
            text.stylize(colour, start, start + len(line.mark))
        if line.heading:
            text.stylize("bold")
        console.print(text)


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    """Other characters than ASCII are escaped; ``streams`` makes sure that it never fails."""
    stream.writelines(_ascii(line) + "\n" for line in lines)
    stream.flush()


def _ascii(text: str) -> str:
    """Escapes what could break the encoding of a log or control a terminal."""
    shown = "".join(character if character >= " " or character == "\t" else repr(character)[1:-1] for character in text)
    return shown.encode("ascii", "backslashreplace").decode("ascii")


def _wants_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


class Progress:
    """Prints each step when it ends. A terminal also gets a spinner with the activity, a log gets a line a minute."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._silent = options.json or options.quiet
        self._status: Any = None
        self._beat = time.monotonic()
        self.shown = False

    def step(self, report: StepReport) -> None:
        if self._silent:
            return
        self.shown = True
        if report.outcome is Outcome.RUNNING:
            self.note(f"{report.name}: {report.headline}")
        elif report.outcome is not Outcome.SKIPPED:  # those are printed at the end, grouped by reason
            self.close()
            _print(sys.stdout, step_lines([report]), self._options)

    def note(self, text: str) -> None:
        if self._silent:
            return
        if _wants_colour(sys.stdout):
            if self._status is None:
                from rich.console import Console

                self._status = Console(highlight=False).status(_ascii(text))
                self._status.start()
            self._status.update(_ascii(text)[:100])
        elif time.monotonic() - self._beat > HEARTBEAT:
            self._beat = time.monotonic()
            _write(sys.stdout, [f"  ..  {text}"])

    def close(self) -> None:
        """Removes the spinner."""
        if self._status is not None:
            self._status.stop()
            self._status = None
