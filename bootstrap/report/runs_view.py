"""Runs, plans and the small answers: facts, lockfiles, the log, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.model import Finding, Mark, Outcome, Result, StepReport
from .checks_view import finding_lines
from .lines import Line, error_lines, folded_lines, step_lines, steps_of, summary, told_lines, under

LEVEL_MARKS = {"debug": "..", "warning": "warn", "error": "x", "critical": "x"}


def run_view(result: Result, steps_told: bool) -> list[Line]:
    """A run of ``bootstrap`` or of a hook."""
    run = result.data["run"]
    steps = steps_of(run["steps"])
    lines = [*([] if steps_told else told_lines(steps)), *folded_lines(steps)]
    findings = [Finding.from_dict(finding) for finding in run.get("findings", ())]
    lines += [line for finding in findings if finding.mark is not Mark.OK for line in finding_lines(finding)]
    if result.command == "hook":  # what a hook writes to stderr is thrown away when it succeeds
        lines += [line for error in result.errors for line in error_lines(error)]
    state = (
        "still running, it goes on in the background"
        if run["finished"] is None and not run["settled"]
        else result.status.value
    )
    title = f"{result.command} {run['event']}".strip()
    where = f"{run['role']} {run['host']}" if run["role"] else run["host"]
    release = f", release {run['release']}" if run["release"] else ""
    return [
        *lines,
        Line(
            f"petal-node {title} on {where}: {state} ({summary(steps)}{release}, run {run['run_id']})",
            heading=True,
        ),
    ]


def repair_view(result: Result, steps_told: bool) -> list[Line]:
    """What was mended, what is left, and how the node stands behind it."""
    run = result.data["run"]
    steps = steps_of(run["steps"])
    findings = [Finding.from_dict(finding) for finding in run.get("findings", ())]
    left = [finding for finding in findings if finding.mark in (Mark.WARN, Mark.FAIL)]
    lines = [] if steps_told else _mended_lines(steps)
    lines += [Line("left:", heading=True)] if left else []
    lines += [line for finding in left for line in finding_lines(finding)]
    fixed = [step.name for step in steps if step.outcome is Outcome.CHANGED]
    told = f"fixed {', '.join(fixed)}" if fixed else "changed nothing"
    after = f"{len(left)} left" if left else "all checks are ok" if findings else "no check was made"
    where = f"{run['role']} {run['host']}" if run["role"] else run["host"]
    return [*lines, Line(f"petal-node repair on {where}: {told}; {after} (run {run['run_id']})", heading=True)]


def repair_plan_view(result: Result, _told: bool) -> list[Line]:
    """What a repair would do."""
    data = result.data
    steps = steps_of(data["steps"])
    pending = any(step.outcome is Outcome.WOULD_CHANGE for step in steps)
    head = f"petal-node repair --dry-run  role={data['role']}  node={data['node']}"
    end = summary(steps) + (".  Do it: petal-node repair" if pending else ".")
    return [Line(head, heading=True), *_mended_lines(steps), Line(end, heading=True)]


def _mended_lines(steps: list[StepReport]) -> list[Line]:
    """Only what is not as it was: a healthy node has no lines."""
    quiet = (Outcome.OK, Outcome.SKIPPED)
    return [line for step in steps if step.outcome not in quiet for line in step_lines(step)]


def plan_view(result: Result, _told: bool) -> list[Line]:
    """What a run would do."""
    data = result.data
    release = data["release"] or "unknown"
    head = f"petal-node plan  role={data['role']}  node={data['node']}  layout={data['layout']}  release={release}"
    steps = steps_of(data["steps"])
    lines = [Line(head, heading=True), *told_lines(steps), *folded_lines(steps)]
    pending = any(step.outcome is Outcome.WOULD_CHANGE for step in steps)
    return [
        *lines,
        Line(summary(steps) + (".  Apply: petal-node bootstrap" if pending else "."), heading=True),
    ]


def facts_view(result: Result, _told: bool) -> list[Line]:
    """What was observed."""
    lines = []
    for group in ("cluster", "host"):
        lines.append(Line(group, heading=True))
        lines += [Line(f"{name:<10} {_flat(value)}") for name, value in result.data[group].items()]
    lines.append(Line("externals", heading=True))
    return lines + [Line(f"{found['spec']} at {found['place']}") for found in result.data["externals"]]


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_flat(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return " ".join(_flat(item) for item in value.values())
    return "unknown" if value is None else str(value)


def lockfile_view(result: Result, _told: bool) -> list[Line]:
    """A lockfile that was made: where it is, what it is for, and what to write."""
    data = result.data
    return [
        Line(
            f"petal-node lockfile on {data['node']}: {data['packages']} packages for {_flat(data['targets'])}",
            heading=True,
        ),
        Line(f"fits      {data['os']}, glibc {data['glibc']}, {data['compiler']}, Spack {data['spack']}"),
        *(Line(f"with      {found['spec']} at {found['at']}") for found in data["externals"]),
        Line("in petal.yaml:", heading=True),
        Line(f"stack: {data['uri']}"),
        Line(f'stack_sha256: "{data["sha256"]}"'),
    ]


def log_view(result: Result, _told: bool) -> list[Line]:
    """Lines of the log, under the run and the day that they are of."""
    lines = []
    last = ("", "")
    for entry in result.data["entries"]:
        day, _, clock = entry["time"].rstrip("Z").partition("T")
        if (entry["run_id"], day) != last:
            last = (entry["run_id"], day)
            lines.append(
                Line(f"run {entry['run_id'] or 'unknown'}, {f'{day} UTC' if day else 'no date'}", heading=True)
            )
        first, *rest = entry["message"].splitlines() or [""]
        code = f" [{entry['code']}]" if entry["code"] else ""
        lines.append(Line(f"{clock} {first}{code}".strip(), LEVEL_MARKS.get(entry["level"], ""), entry["step"] or "-"))
        lines += [Line(text, indent=18) for text in rest]
        lines += [under(entry[name], word) for name, word in (("why", "why"), ("remedy", "try")) if entry[name]]
        lines += [Line(text, indent=18) for text in entry["traceback"].splitlines()]
    lines += [Line(f"Spack's own words: {path}", heading=True) for path in result.data["spack_logs"]]
    return lines or [Line(f"nothing is in {result.data['log']}", heading=True)]


def version_view(result: Result, _told: bool) -> list[Line]:
    return [Line(f"petal-node {result.data['version']}", heading=True)]


def error_view(result: Result, _told: bool) -> list[Line]:
    """Errors go to stderr; a hook's log is its stdout, so the first line stands there too."""
    if result.command != "hook":
        return []
    return [line for error in result.errors for line in error_lines(error)]
