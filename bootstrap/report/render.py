"""The only module that prints: results as text or as one JSON envelope, and progress.

Text is ASCII, because it also goes to logs that are read with any locale; other characters are escaped. Colours are
used only on a terminal, and not with NO_COLOR.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, TextIO

from ..core.deadlines import HEARTBEAT
from ..core.errors import ExitCode
from ..core.model import NodeReport, Outcome, Result, Role, Status, StepReport, plain
from ..core.options import Options
from .checks_view import answer_line
from .lines import Line, error_lines, step_lines
from .remedies import repeats, runnable
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

ToType = Callable[[str], Optional[str]]
FAILED = ("x", "!", "warn", "FAIL")


def show(result: Result[Any], options: Options, archive: Path | None = None, *, steps_shown: bool = False) -> None:
    """Prints the answer to stdout, without the steps that were shown while they ran, and errors to stderr.

    Args:
        archive: the running petal-node, which commands name before it is installed.
    """
    to_type = _remedies(options, archive, result.exit_code, on_head=getattr(result.data, "role", None) == Role.HEAD)
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
        _write(sys.stdout, [json.dumps(_with_remedies(envelope, to_type), ensure_ascii=True, sort_keys=True)])
        return
    lines = text_lines(result, steps_shown=steps_shown)
    is_wrong = result.status in (Status.FAILED, Status.DEGRADED)
    if options.quiet:
        shown = [*failures(lines)]
        if not shown and is_wrong and not result.errors:
            shown = [line for line in lines if line.heading][-1:]
        lines = shown
    _print(sys.stdout, lines, to_type)
    if result.errors and is_wrong:
        _print(sys.stderr, error_lines(result.errors), to_type)


def _remedies(options: Options, archive: Path | None, exit_code: int, *, on_head: bool = False) -> ToType:
    """A function from a line of a remedy to the line to print, None for the failed command itself."""

    def to_type(line: str) -> str | None:
        return None if repeats(line, options, exit_code, on_head=on_head) else runnable(line, options, archive)

    return to_type


def _with_remedies(value: Any, to_type: ToType) -> Any:
    """A part of the envelope with the remedies to print."""
    if isinstance(value, dict):
        return {
            key: [*filter(None, map(to_type, each))] if key == "remedy" else _with_remedies(each, to_type)
            for key, each in value.items()
        }
    return [_with_remedies(each, to_type) for each in value] if isinstance(value, list) else value


def tell(line: str) -> None:
    """Prints one line and flushes it, from a process that may hang or be killed next."""
    _write(sys.stdout, [line])


def failures(lines: Iterable[Line]) -> Iterator[Line]:
    """The failed lines with the reasons and remedies below them, and the names of the nodes above them."""
    nodes: Line | None = None
    failed = False
    for line in lines:
        if line.mark or line.problem:
            failed = line.problem or line.mark in FAILED
        elif line.heading or line.indent <= Line.indent:  # no detail of a step or finding
            nodes, failed = line if line.indent == 0 else None, False
        if failed:
            if nodes:
                yield nodes
                nodes = None
            yield line


def _print(stream: TextIO, lines: Iterable[Line], to_type: ToType) -> None:
    lines = [*_with_commands(lines, to_type)]
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


def _with_commands(lines: Iterable[Line], to_type: ToType) -> Iterator[Line]:
    for line in lines:
        text = to_type(line.text) if line.commands else line.text
        if text is not None:
            # Elsewhere a line end is escaped: a user's text could look like a line of petal-node.
            first, *rest = text.splitlines() or [""] if line.lead and not line.commands else [text]
            yield replace(line, text=first)
            column = len(str(replace(line, text="|"))) - 1
            yield from (Line(more, indent=column) for more in rest)


def _write(stream: TextIO, lines: Iterable[str]) -> None:
    """Other characters than ASCII are escaped; ``streams`` makes sure that it never fails."""
    stream.writelines(_ascii(line) + "\n" for line in lines)
    stream.flush()


def _ascii(text: str) -> str:
    """Escapes what could break the encoding of a log or control a terminal."""
    shown = "".join(sign if sign.isprintable() or sign == "\t" else repr(sign)[1:-1] for sign in text)
    return shown.encode("ascii", "backslashreplace").decode("ascii")


def _wants_colour(stream: TextIO) -> bool:
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


class Progress:
    """Prints each step when it ends. A terminal also gets a spinner with the activity, a log gets a line a minute."""

    def __init__(self, options: Options, archive: Path | None = None) -> None:
        self._options, self._archive = options, archive
        self._silent = options.json or options.quiet
        self._status: Any = None
        self._beat = time.monotonic()
        self.shown = False

    def step(self, report: StepReport) -> None:
        if self._silent:
            return
        self.shown = True
        if report.outcome is Outcome.RUNNING and not report.error:
            self.note(f"{report.name}: {report.headline}")
        elif report.outcome is not Outcome.SKIPPED:  # those are printed at the end, grouped by reason
            self.close()
            _print(
                sys.stdout,
                step_lines([report]),
                _remedies(self._options, self._archive, report.exit or ExitCode.FAILED),
            )

    def note(self, text: str) -> None:
        if self._silent:
            return
        if _wants_colour(sys.stdout):
            if self._status is None:
                from rich.console import Console

                self._status = Console(highlight=False).status("")
                self._status.start()
            from rich.text import Text

            self._status.update(Text(_ascii(text)[:100]))  # a string would be read as markup
        elif time.monotonic() - self._beat > HEARTBEAT:
            self._beat = time.monotonic()
            _write(sys.stdout, [f"  ..  {text}"])

    def answer(self, report: NodeReport) -> None:
        """Prints the answer of a node to stderr when it comes; the table of all nodes follows on stdout."""
        if not self._silent:
            self.close()
            _print(sys.stderr, [answer_line(report)], lambda line: line)

    def close(self) -> None:
        """Removes the spinner."""
        if self._status is not None:
            self._status.stop()
            self._status = None
