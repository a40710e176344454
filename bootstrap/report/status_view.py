"""Where a node and its cluster stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..cluster.hostlist import folded
from ..core.model import Mark, NodeReport, Outcome, Result
from ..host.clocks import age_of, seconds_of
from .lines import Line, error_lines, step_lines, steps_of, summary

SHOWN_NODES = 8  # of those that fail


def status_view(result: Result, _told: bool) -> list[Line]:
    """Where node and cluster stand."""
    data = result.data
    wanted, now = data["wanted"] or {}, seconds_of(data.get("now") or "")
    config = wanted.get("config") or {}
    lines = [
        Line(f"petal-node status: {result.status.value}", heading=True),
        Line(f"node      {data['node']}, role {data['role'] or 'unknown'}"),
        Line(f"stack     {_stack(config)}, layout {config.get('layout', 'unknown')}"),
        Line(f"release   current {data['current'] or 'none'}, wanted {wanted.get('release', 'unknown')}"),
        Line(f"package   this is {data.get('package', 'unknown')}, wanted {wanted.get('version', 'unknown')}"),
        Line(f"install   {_run_line(data['install'], now) if data['install'] else 'none is known'}"),
        *_now_lines(data["install"] or {}),
    ]
    if data["holder"]:
        holder = data["holder"]
        lines.append(Line(f"lock      held by {holder['host']}, process {holder['pid']}, since {holder['since']}"))
    lines += [*_proof_lines(data["proof"], now), *_report_lines(data["reports"], now)]
    lines += (
        [Line("runs of this node, newest first:", heading=True)] if data["runs"] else [Line("no run on this node yet")]
    )
    told = (data["install"] or {}).get("run_id")
    for run in data["runs"]:
        lines += [Line(_run_line(run, now)), *(_now_lines(run) if run["run_id"] != told else ())]
        lines += _troubles(run)
    return lines


def _stack(config: Mapping[str, Any]) -> str:
    """What the configuration asks for, in a few words."""
    if not config:
        return "unknown"
    specs = _number(config, "spack", "specs") + _number(config, "software", "spack_packages")
    counts = ((specs, "spec"), (_number({"": config}, "", "packages"), "package"))
    own = [f"{number} {word}{'s' if number > 1 else ''}" for number, word in counts if number]
    return ", ".join([str(config.get("stack", "none")), *own])


def _number(config: Mapping[str, Any], section: str, key: str) -> int:
    """How many there are; none where a configuration of another version has something else there."""
    found = config.get(section)
    items = found.get(key) if isinstance(found, Mapping) else None
    return len(items) if isinstance(items, list) else 0


def _proof_lines(proof: Mapping[str, Any] | None, now: float | None) -> list[Line]:
    """The proof and its age, and each node of it: those that are well in one line."""
    if not proof:
        return [Line("proof     not proved yet")]
    reports = [NodeReport.from_dict(node) for node in proof["nodes"]]
    well = [report.node for report in reports if report.well]
    lines = [Line(f"proof     {proof['summary']}{_ago(proof.get('time', ''), now)}")]
    lines += [Line(f"          {folded(well)}: well")] if well else []
    return lines + _failing([report for report in reports if not report.well], now)


def _report_lines(raw: Iterable[Mapping[str, Any]], now: float | None) -> list[Line]:
    """What nodes last said of themselves."""
    reports = [NodeReport.from_dict(report) for report in raw]
    well = [report for report in reports if not _cause(report)]
    lines = []
    if well:
        oldest = min(well, key=lambda report: seconds_of(report.time) or 0.0)
        lines = [
            Line(f"reports   {folded(report.node for report in well)}: well, the oldest {_ago(oldest.time, now)[2:]}")
        ]
    failing = _failing([report for report in reports if _cause(report)], now)
    return lines + ([Line(f"reports   {str(failing[0]).strip()}"), *failing[1:]] if failing and not lines else failing)


def _failing(reports: list[NodeReport], now: float | None) -> list[Line]:
    bad = [report for report in reports if _cause(report)]
    more = [Line(f"          and {len(bad) - SHOWN_NODES} more")] if len(bad) > SHOWN_NODES else []
    return [
        Line(f"          {report.node}{_ago(report.time, now)}{_cause(report)}") for report in bad[:SHOWN_NODES]
    ] + more


def _ago(time: str, now: float | None) -> str:
    return f", {age_of(time, now)} ago" if now is not None and seconds_of(time) is not None else ""


def _cause(report: NodeReport) -> str:
    """The first failure: checks stand in the order of causes."""
    failed = next((finding for finding in report.findings if finding.mark is Mark.FAIL), None)
    return f": {failed.check}: {failed.message}" if failed else ""


def _run_line(run: Mapping[str, Any], now: float | None) -> str:
    steps = steps_of(run["steps"])
    verb = f"{run['verb']} {run['event']}".strip()
    end = f"ended {run['finished']}{_ago(run['finished'] or '', now)}"
    done = f"{end}, {run['status']}, exit {run['exit']}" if run["finished"] else run["status"]
    return f"{verb:<16} started {run['started']}, {done} ({summary(steps)}, run {run['run_id']})"


def _now_lines(run: Mapping[str, Any]) -> list[Line]:
    """What a run is at, how far and for how long, while it goes on."""
    steps = steps_of(run.get("steps", ())) if run.get("finished") is None else []
    return [line for step in steps if step.outcome.goes_on for line in step_lines(step)]


def _troubles(run: Mapping[str, Any]) -> list[Line]:
    steps = [step for step in steps_of(run["steps"]) if step.error or step.outcome in (Outcome.BLOCKED, Outcome.FAILED)]
    lines = [line for step in steps for line in step_lines(step)]
    return lines + [line for error in run["errors"] for line in error_lines(error)]
