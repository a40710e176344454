"""Text of runs and plans, and of ``lockfile``, ``log`` and ``version``."""

from __future__ import annotations

import re
from shutil import get_terminal_size
from textwrap import TextWrapper
from typing import TYPE_CHECKING

from ..core.model import Outcome, Plan, Result, RunRecord, Severity, StepReport, Tool
from .lines import PROBLEMS, TEXT, Line, error_lines, finding_lines, remedy_lines, skipped_lines, step_lines, summary

if TYPE_CHECKING:
    from ..commands.explain import Explanation
    from ..commands.lockfile import LockfileSummary
    from ..commands.log import LogLines

TEXT_WIDTH = 100  # columns of the text of ``explain``
LEVEL_MARKS = {"debug": "..", "warning": "warn", "error": "x", "critical": "x"}


def run_view(result: Result[RunRecord], *, steps_shown: bool) -> list[Line]:
    """A run; its state is the last line."""
    run = result.data
    if run.verb == "repair":
        return _repair_view(run, steps_shown=steps_shown)
    lines = [*([] if steps_shown else step_lines(run.steps)), *skipped_lines(run.steps)]
    lines += finding_lines(finding for finding in run.findings if finding.severity is not Severity.OK)
    if result.command == "hook":  # ParallelCluster throws away the stderr of a hook that succeeds
        lines += error_lines(result.errors)
    running = run.finished is None and not run.hook_may_return
    state = "still running in the background" if running else result.status.value
    title = f"{result.command} {run.event}".strip()
    release = f"release {run.release}, " if run.release else ""
    return [
        *lines,
        Line(summary(run.steps, ended=run.finished is not None)),
        Line(f"{release}run {run.run_id}"),
        Line(f"petal-node {title} on {_node(run)}: {state}", heading=True),
    ]


def _repair_view(run: RunRecord, *, steps_shown: bool) -> list[Line]:
    left = [finding for finding in run.findings if finding.severity in PROBLEMS]
    lines = [] if steps_shown else _changed_lines(run.steps)
    if left:
        lines += [Line("remaining findings:", heading=True), *finding_lines(left)]
    fixed = [step.name for step in run.steps if step.outcome is Outcome.CHANGED]
    changes = f"fixed {', '.join(fixed)}" if fixed else "changed nothing"
    after = f"{len(left)} left" if left else "all checks are ok" if run.findings else "no check ran"
    title = f"petal-node repair on {_node(run)}: {changes}; {after}"
    return [*lines, Line(f"run {run.run_id}"), Line(title, heading=True)]


def _node(run: RunRecord) -> str:
    return f"{run.role} {run.host}" if run.role else run.host


def plan_view(result: Result[Plan]) -> list[Line]:
    """The changes that a run or a repair would make."""
    plan = result.data
    if result.command == "repair":
        verb, lines = "repair --dry-run", _changed_lines(plan.steps)
    else:
        verb, lines = "plan", [*step_lines(plan.steps), *skipped_lines(plan.steps)]
    where = f"role={plan.role.value}  node={plan.node}  layout={plan.layout}  release={plan.release or 'unknown'}"
    lines = [Line(f"petal-node {verb}  {where}", heading=True), *lines, Line(summary(plan.steps), heading=True)]
    pending = any(step.outcome in (Outcome.WOULD_CHANGE, Outcome.BLOCKED) for step in plan.steps)
    return lines + (remedy_lines(plan.remedy, Line.indent) if pending else [])


def _changed_lines(steps: tuple[StepReport, ...]) -> list[Line]:
    """All steps but those that are fine, so that a healthy node has no lines."""
    return step_lines(step for step in steps if step.outcome is not Outcome.OK)


def lockfile_view(result: Result[LockfileSummary]) -> list[Line]:
    """A new lockfile: the system that it fits, and the lines for petal.yaml."""
    made = result.data
    targets = ", ".join(made.targets)
    return [
        Line(f"petal-node {result.command} on {made.node}: {made.packages} packages for {targets}", heading=True),
        Line(f"system    {made.os}, glibc {made.glibc}, {made.compiler}, Spack {made.spack}"),
        *(Line(f"external  {external}") for external in made.externals),
        Line("add to petal.yaml:", heading=True),
        Line(f"stack: {made.uri}"),
        Line(f'stack_sha256: "{made.sha256}"'),
    ]


def log_view(result: Result[LogLines]) -> list[Line]:
    """Lines of the log, below a heading for each run and day."""
    lines = []
    last = ("", "")
    for entry in result.data.entries:
        day, _, clock = entry.time.rstrip("Z").partition("T")
        if (entry.run_id, day) != last:
            last = (entry.run_id, day)
            lines.append(Line(f"run {entry.run_id or 'unknown'}, {f'{day} UTC' if day else 'no date'}", heading=True))
        first, *rest = entry.message.splitlines() or [""]
        lines.append(Line(f"{clock} {first}".strip(), LEVEL_MARKS.get(entry.level, ""), entry.step or "-"))
        lines += [Line(text, indent=TEXT) for text in (*rest, *entry.traceback.splitlines())]
    lines += [Line(f"Spack log: {path}", heading=True) for path in result.data.spack_logs]
    return lines or [Line(f"{result.data.log} has no matching lines", heading=True)]


def explain_view(result: Result[Explanation]) -> list[Line]:
    """The documentation of each meaning of a name, or all names, wrapped for this terminal."""
    width = max(20, min(TEXT_WIDTH, get_terminal_size().columns) - Line.indent)
    wrapper = TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for topic in result.data.topics:
        lines.append(Line(f"{topic.name} ({topic.kind})", heading=True))
        # A paragraph, an item of a list, the row of a table or a line of an example.
        for part in re.split(r"\n\n+|\n(?=[|]|- |\d+\. |    )", topic.text):
            item = re.match(r"- |\d+\. ", part)
            wrapper.subsequent_indent = " " * len(item[0]) if item else ""
            shown = [part] if part.startswith("    ") else wrapper.wrap(" ".join(part.split()))
            lines += [Line(text) for text in shown]
    wrapper.subsequent_indent = ""
    for kind, names in result.data.names.items():
        lines += [Line(f"{kind}s:", heading=True), *(Line(text) for text in wrapper.wrap(", ".join(names)))]
    return lines


def version_view(result: Result[Tool]) -> list[Line]:
    return [Line(f"petal-node {result.data.version}", heading=True)]
