"""Lines of text, and the lines of steps, findings and errors that several views share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..core.model import Finding, Outcome, Severity, StepReport

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
LABEL_WIDTH = 13  # of the names of steps and the ids of releases
TEXT = 2 + 5 + LABEL_WIDTH + 1  # the column after mark and label
CHECK_MARKS = {Severity.OK: "ok", Severity.WARN: "warn", Severity.FAIL: "FAIL", Severity.SKIP: "-"}


@dataclass(frozen=True)
class Line:
    """One line: an optional mark, which a terminal shows in colour, a label of fixed width, and text."""

    text: str
    mark: str = ""
    label: str = ""
    heading: bool = False
    indent: int = 2

    def __str__(self) -> str:
        if not self.mark and not self.label:
            return (" " * (0 if self.heading else self.indent) + self.text).rstrip()
        label = f"{self.label:<{LABEL_WIDTH}} " if self.label else ""
        return f"{' ' * self.indent}{self.mark:<5}{label}{self.text}".rstrip()


def step_lines(step: StepReport) -> list[Line]:
    """One step, with the changes that it would make, or the reason and the remedy if it failed."""
    reason, *rest = step.reason.splitlines() or [""]
    code = f" [{step.error['code']}]" if step.error else ""
    lines = [Line(reason + code, MARKS[step.outcome], step.name)]
    lines += [Line(text, indent=TEXT + 2) for text in rest]
    if step.outcome is Outcome.WOULD_CHANGE:
        lines += [Line(text, indent=TEXT + 2) for text in step.changes]
    if step.error or step.outcome is Outcome.BLOCKED:
        lines += [Line(f"try  {text}", indent=TEXT) for text in step.remedy]
    return lines


def steps_lines(steps: Iterable[StepReport]) -> list[Line]:
    """All steps but the skipped ones."""
    return [line for step in steps if step.outcome is not Outcome.SKIPPED for line in step_lines(step)]


def skipped_lines(steps: Iterable[StepReport]) -> list[Line]:
    """The skipped steps, one line for each reason."""
    groups: dict[str, list[str]] = {}
    for step in steps:
        if step.outcome is Outcome.SKIPPED:
            groups.setdefault(step.reason, []).append(step.name)
    return [Line(f"{', '.join(names)}: {reason}", MARKS[Outcome.SKIPPED]) for reason, names in groups.items()]


def summary(steps: Iterable[StepReport]) -> str:
    """``2 changed, 5 ok``: how many steps have each outcome."""
    outcomes = [step.outcome for step in steps]
    counts = [f"{outcomes.count(each)} {each.value.replace('-', ' ')}" for each in Outcome if each in outcomes]
    return ", ".join(counts) or "no steps"


def finding_lines(finding: Finding) -> list[Line]:
    """The result of one check; a warning or failure with its reason, remedy and documentation."""
    lines = [Line(f"{finding.check}: {finding.message}", CHECK_MARKS[finding.severity])]
    if finding.severity not in (Severity.WARN, Severity.FAIL):
        return lines
    lines += [Line(f"why  {finding.why}", indent=7)] if finding.why else []
    lines += [Line(f"try  {text}", indent=7) for text in finding.remedy]
    return [*lines, Line(f"more {finding.anchor}", indent=7)]


def error_lines(error: Mapping[str, Any]) -> list[Line]:
    """An error: what happened, each mistake or the reason, the remedy."""
    lines = [Line(f"petal-node: {error['what']} [{error['code']}]", heading=True)]
    problems = error.get("problems") or ()
    if problems:
        lines += [Line(f"{problem['path']}: {problem['message']}") for problem in problems]
    elif error.get("why"):
        first, *rest = str(error["why"]).splitlines()
        lines += [Line(f"why  {first}"), *(Line(text, indent=7) for text in rest)]
    return lines + [Line(f"try  {text}") for text in error.get("remedy", ())]


def count(number: int, word: str) -> str:
    """``1 package``, ``2 packages``."""
    return f"{number} {word}{'' if number == 1 else 's'}"


def human(number: int) -> str:
    """``1.5 GiB``."""
    size = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
