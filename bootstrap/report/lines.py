"""What all views are made of: a line, and steps, errors and counts as lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.model import Outcome, StepReport

MARKS = {
    Outcome.OK: "=",
    Outcome.CHANGED: "+",
    Outcome.WOULD_CHANGE: "~",
    Outcome.SKIPPED: "-",
    Outcome.BLOCKED: "!",
    Outcome.FAILED: "x",
    Outcome.RUNNING: ">",
    Outcome.WAITING: "..",
}
WORDS = {
    Outcome.OK: "as it was",
    Outcome.CHANGED: "changed",
    Outcome.WOULD_CHANGE: "to change",
    Outcome.SKIPPED: "not for this node or run",
    Outcome.BLOCKED: "blocked",
    Outcome.FAILED: "failed",
    Outcome.RUNNING: "running",
    Outcome.WAITING: "waiting",
}


@dataclass(frozen=True)
class Line:
    """One line: an optional mark that may be coloured, a label of fixed width, and text."""

    text: str
    mark: str = ""
    label: str = ""
    heading: bool = False
    indent: int = 2

    def __str__(self) -> str:
        if not self.mark and not self.label:
            return (" " * (0 if self.heading else self.indent) + self.text).rstrip()
        label = f"{self.label:<10} " if self.label else ""
        return f"{' ' * self.indent}{self.mark:<5}{label}{self.text}".rstrip()


def under(text: str, word: str) -> Line:
    return Line(f"{word:<4} {text}", indent=18)


def step_lines(step: StepReport) -> list[Line]:
    """One step, with what it would change, or why it failed and what to do."""
    reason, *rest = step.reason.splitlines() or [""]
    code = f" [{step.error['code']}]" if step.error else ""
    lines = [Line(reason + code, MARKS[step.outcome], step.name)]
    lines += [Line(more, indent=23) for more in rest]
    if step.outcome is Outcome.WOULD_CHANGE:
        lines += [Line(f"  {text}", indent=18) for text in step.changes]
    if step.error or step.outcome is Outcome.BLOCKED:
        lines += [under(text, "try") for text in step.remedy]
    return lines


def folded_lines(steps: Iterable[StepReport]) -> list[Line]:
    """The steps that are not for this node or run, one line a reason."""
    groups: dict[str, list[str]] = {}
    for step in steps:
        if step.outcome is Outcome.SKIPPED:
            groups.setdefault(step.reason, []).append(step.name)
    return [Line(f"{', '.join(names)}: {reason}", MARKS[Outcome.SKIPPED]) for reason, names in groups.items()]


def told_lines(steps: Iterable[StepReport]) -> list[Line]:
    return [line for step in steps if step.outcome is not Outcome.SKIPPED for line in step_lines(step)]


def error_lines(error: Mapping[str, Any]) -> list[Line]:
    """An error on its own: what, each mistake or the reason, the remedy."""
    lines = [Line(f"petal-node: {error['what']} [{error['code']}]", heading=True)]
    problems = error.get("problems") or ()
    if problems:
        lines += [Line(f"{problem['path']}: {problem['message']}") for problem in problems]
    elif error.get("why"):
        lines += [
            Line(("why  " if number == 0 else "     ") + text)
            for number, text in enumerate(str(error["why"]).splitlines())
        ]
    return lines + [Line(f"try  {text}") for text in error.get("remedy", ())]


def summary(steps: Iterable[StepReport]) -> str:
    """``2 changed, 5 as it was``: how many steps ended in which way."""
    counts: dict[Outcome, int] = {}
    for step in steps:
        counts[step.outcome] = counts.get(step.outcome, 0) + 1
    return ", ".join(f"{counts[outcome]} {WORDS[outcome]}" for outcome in Outcome if outcome in counts) or "no step ran"


def steps_of(raw: Iterable[Mapping[str, Any]]) -> list[StepReport]:
    return [StepReport.from_dict(step) for step in raw]
