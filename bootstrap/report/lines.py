"""Lines of text, and the lines of steps, findings and errors that several views share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from ..cluster.hostlist import folded
from ..core.errors import Problem
from ..core.model import Finding, Outcome, Severity, StepReport
from ..core.text import grouped

K = TypeVar("K")

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
PROBLEMS = (Severity.WARN, Severity.FAIL)


@dataclass(frozen=True)
class Line:
    """An optional mark, which a terminal shows in colour, a label of fixed width, and text of one or more lines.

    Args:
        lead: a word before the text: ``try``, ``more``.
        commands: the text has commands to type, which get the options of this command line.
        problem: ``-q`` prints the line and those of a larger indent below it, as it does for the marks of failures.
    """

    text: str
    mark: str = ""
    label: str = ""
    heading: bool = False
    indent: int = 2
    lead: str = ""
    commands: bool = False
    problem: bool = False

    def __str__(self) -> str:
        if not self.mark and not self.label:
            return (" " * (0 if self.heading else self.indent) + self.lead + self.text).rstrip()
        label = f"{self.label:<{LABEL_WIDTH}} " if self.label else ""
        return f"{' ' * self.indent}{self.mark:<5}{label}{self.lead}{self.text}".rstrip()


def step_lines(steps: Iterable[StepReport]) -> list[Line]:
    """Each step but the skipped ones, with the changes that it would make, or the reason and remedy of a failure."""
    lines = []
    for step in steps:
        if step.outcome is Outcome.SKIPPED:
            continue
        reason, *details = step.reason.splitlines() or [""]
        if step.outcome is Outcome.WOULD_CHANGE:
            details += step.changes
        code = f" [{step.error['code']}]" if step.error else ""
        lines.append(Line(reason + code, MARKS[step.outcome], step.name))
        lines += [Line(text, indent=TEXT + 2) for text in details]
        if step.error or step.outcome is Outcome.BLOCKED:
            lines += remedy_lines(step.remedy, TEXT)
    return lines


def skipped_lines(steps: Iterable[StepReport]) -> list[Line]:
    """The skipped steps, one line for each reason."""
    groups = grouped((step.reason, step.name) for step in steps if step.outcome is Outcome.SKIPPED)
    return [Line(f"{', '.join(names)}: {reason}", MARKS[Outcome.SKIPPED]) for reason, names in groups.items()]


def summary(steps: Iterable[StepReport], *, ended: bool = False) -> str:
    """``2 changed, 5 ok``: how many steps have each outcome; no step of a run that has ended is running."""
    outcomes = [step.outcome for step in steps]
    counts = {each.value.replace("-", " "): outcomes.count(each) for each in Outcome if each in outcomes}
    if ended and (unfinished := sum(outcome.is_running for outcome in outcomes)):
        running = (Outcome.RUNNING.value, Outcome.WAITING.value)
        counts = {word: number for word, number in counts.items() if word not in running}
        counts["unfinished"] = unfinished
    return ", ".join(f"{number} {word}" for word, number in counts.items()) or "no steps"


def finding_lines(findings: Iterable[Finding]) -> list[Line]:
    """The results of checks; a warning or failure with its reason, remedy and documentation."""
    lines = []
    for finding in findings:
        lines.append(Line(f"{finding.check}: {finding.message}", CHECK_MARKS[finding.severity]))
        if finding.severity in PROBLEMS:
            lines += [Line(finding.why, indent=7, lead="why  ")] if finding.why else []
            lines += [*remedy_lines(finding.remedy, 7), _more(finding.topic, 7)]
    return lines


def error_lines(errors: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Errors: what happened, each mistake or the reason, the remedy."""
    lines = []
    for error in errors:
        lines.append(Line(f"petal-node: {error['what']} [{error['code']}]", heading=True))
        if error.get("problems"):
            lines += [Line(str(Problem(**problem))) for problem in error["problems"]]
        elif error.get("why"):
            lines.append(Line(str(error["why"]), lead="why  "))
        lines += [*remedy_lines(error.get("remedy", ()), 2), _more(str(error["code"]), 2)]
    return lines


def _more(topic: str, indent: int) -> Line:
    return Line(f"petal-node explain {topic}", indent=indent, lead="more ", commands=True)


def remedy_lines(remedy: Iterable[str], indent: int) -> list[Line]:
    """The commands to try."""
    return [Line(text, indent=indent, lead="try  ", commands=True) for text in remedy]


def by_nodes(pairs: Iterable[tuple[K, str]]) -> list[tuple[str, K]]:
    """Each key once, after the folded names of its nodes."""
    return [(folded(names), key) for key, names in grouped(pairs).items()]
