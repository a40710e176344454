"""Text of ``status``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..cluster.hostlist import folded
from ..core.facts import External, Facts
from ..core.model import NodeReport, Outcome, Result, RunRecord, Status, plain
from ..core.text import at_most, count, human
from ..host.times import age_of, seconds_of
from .lines import Line, error_lines, remedy_lines, step_lines, summary

if TYPE_CHECKING:
    from ..commands.status import NodeStatus

MAX_NODES = 8  # failing nodes that are listed
LABEL = 9  # the width of the labels


def status_view(result: Result[NodeStatus]) -> list[Line]:
    """The node, its cluster, and the newest runs of the node."""
    data = result.data
    desired, now, install = data.desired, seconds_of(data.now), data.install
    config = desired.config if desired else {}
    none, none_yet = ("unknown", "unknown") if result.errors else ("none", "none yet")
    lines = [
        Line(f"petal-node status: {result.status.value}", heading=True),
        _row("node", f"{data.node}, role {data.role.value if data.role else 'unknown'}"),
        _row("stack", f"{_stack(config)}, layout {config.get('layout', 'unknown')}"),
        _row("release", f"{data.current or none}, desired {desired.release if desired else 'unknown'}"),
        _row("version", f"{data.package}, desired {desired.version if desired else 'unknown'}"),
    ]
    for number, problem in enumerate(data.problems):
        row = replace(_row("" if number else "why", problem.reason), problem=True)
        lines += [row, *remedy_lines(problem.remedy, Line.indent + LABEL + 1)]
    if install:
        lines += _run_lines(install, now, "install", steps=install.run_id not in {run.run_id for run in data.runs})
    else:
        lines.append(_row("install", none_yet))
    if data.holder:
        holder = data.holder
        lines.append(_row("lock", f"held by {holder.host}, process {holder.pid}, since {holder.since}"))
    if data.proof and data.proof.release != data.current:
        last = f"{data.proof.release}{_ago(data.proof.time, now)}"
        lines.append(_row("proof", f"none for this release (the last one is of {last})"))
    elif data.proof:
        lines += [_row("proof", f"{data.proof}{_ago(data.proof.time, now)}"), *_node_lines(data.proof.nodes, now)]
    else:
        lines.append(_row("proof", none_yet))
    if data.reports or data.unread:
        passed = sum(report.passed for report in data.reports)
        unread = f", {data.unread} more not read" if data.unread else ""
        lines.append(_row("reports", f"{passed} of {len(data.reports)} nodes ok{unread}"))
        lines += _node_lines(data.reports, now)
    lines.append(Line("runs of this node, newest first:" if data.runs else "no run on this node yet", heading=True))
    ended = next((run for run in data.runs if run.status is not Status.RUNNING), None)
    for run in data.runs:  # with the failures of the newest finished run only
        lines += _run_lines(run, now, "run")
        if run is ended or run.status is Status.RUNNING:
            failing = (step for step in run.steps if step.error or step.outcome in (Outcome.BLOCKED, Outcome.FAILED))
            lines += [*step_lines(failing), *error_lines(run.errors)]
    return lines if data.externals is None else [*lines, *_fact_lines(data.facts, data.externals)]


def _row(label: str, text: str) -> Line:
    return Line(text, lead=f"{label:<{LABEL}} ")


def _stack(config: Mapping[str, Any]) -> str:
    """``starter, 2 specs, 1 package``: the software that the configuration asks for."""
    if not config:
        return "unknown"
    spack = config.get("spack")
    lists = ((spack.get("specs") if isinstance(spack, Mapping) else None, "spec"), (config.get("packages"), "package"))
    # Another version of petal-node may have written the configuration, with other types.
    counts = [count(len(items), word) for items, word in lists if isinstance(items, list) and items]
    return ", ".join([str(config.get("stack", "none")), *counts])


def _node_lines(reports: Sequence[NodeReport], now: float | None) -> list[Line]:
    """The nodes without a failure in one line, and the first failure of each other node."""
    passed = [report for report in reports if report.passed]
    lines = []
    if passed:
        oldest = min(passed, key=lambda report: seconds_of(report.time) or 0.0)
        lines.append(_row("", f"{folded(report.node for report in passed)}: ok{_ago(oldest.time, now, 'oldest ')}"))
    failing = [f"{report.node}{_ago(report.time, now)}: {text}" for report in reports if (text := report.headline())]
    return lines + [_row("", text) for text in at_most(MAX_NODES, failing)]


def _ago(time: str, now: float | None, word: str = "") -> str:
    return f", {word}{age_of(time, now)} ago" if now is not None and seconds_of(time) is not None else ""


def _run_lines(run: RunRecord, now: float | None, label: str, *, steps: bool = True) -> list[Line]:
    """A run in three lines; with ``steps`` also the steps that run at the moment."""
    state = f"{run.status.value}, exit {run.exit}{_ago(run.finished, now)}" if run.finished else run.status.value
    ended = run.status is not Status.RUNNING  # a killed run has ended without a time
    running = [step for step in run.steps if step.outcome.is_running] if steps and not ended else []
    return [
        _row(label, f"{run.verb} {run.event}".strip() + f": {state}"),
        _row("", summary(run.steps, ended=ended)),
        _row("", f"run {run.run_id}, started {run.started}"),
        *step_lines(running),
    ]


def _fact_lines(facts: Facts, externals: Sequence[External]) -> list[Line]:
    """The detected facts, one line for each."""
    lines = []
    for title, values in (("cluster", plain(facts.cluster)), ("host", plain(facts.host))):
        if "memory" in values:
            values["memory"] = human(values["memory"])
        lines += [Line(f"{title}:", heading=True)]
        lines += [Line(f"{name:<10} {_flat(value)}") for name, value in values.items()]
    lines.append(Line("externals:", heading=True))
    return lines + ([Line(f"{external.spec} at {external.place}") for external in externals] or [Line("none")])


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_flat(item) for item in value) or "none"
    if isinstance(value, Mapping):
        return " ".join(_flat(item) for item in value.values())
    return "unknown" if value is None else str(value)
