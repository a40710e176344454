"""Where a node and its cluster stand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..model import Mark, NodeReport, Outcome, Result
from .checks import totals
from .lines import Line, error_lines, step_lines, steps_of, summary

SHOWN_NODES = 8  # of those that fail


def status_view(result: Result, _told: bool) -> list[Line]:
    """Where node and cluster stand."""
    data = result.data
    wanted = data["wanted"] or {}
    lines = [
        Line(f"petal-node status: {result.status.value}", heading=True),
        Line(f"node      {data['node']}, role {data['role'] or 'unknown'}"),
        Line(f"release   current {data['current'] or 'none'}, wanted {wanted.get('release', 'unknown')}"),
        Line(f"package   wanted {wanted.get('version', 'unknown')}"),
        *_storage_lines(data.get("storage") or {}),
        Line(f"install   {_run_line(data['install']) if data['install'] else 'none is known'}"),
        *_now_lines(data["install"] or {}),
    ]
    if data["holder"]:
        holder = data["holder"]
        lines.append(Line(f"lock      held by {holder['host']}, process {holder['pid']}, since {holder['since']}"))
    lines.append(Line(f"proof     {data['proof']['summary'] if data['proof'] else 'not proved yet'}"))
    lines += _unproved([NodeReport.from_dict(node) for node in data["proof"]["nodes"]] if data["proof"] else [])
    lines += [Line(f"reported  {_report_line(NodeReport.from_dict(report))}") for report in data["reports"]]
    lines += (
        [Line("runs of this node, newest first:", heading=True)] if data["runs"] else [Line("no run on this node yet")]
    )
    told = (data["install"] or {}).get("run_id")
    for run in data["runs"]:
        lines += [Line(_run_line(run)), *(_now_lines(run) if run["run_id"] != told else ())]
        lines += _troubles(run)
    return lines


def _storage_lines(storage: Mapping[str, Any]) -> list[Line]:
    """Only where there is something to tell: most storages have served one cluster."""
    adopted = storage.get("adopted")
    return [Line(f"storage   adopted at {adopted['time']}: {adopted['summary']}")] if adopted else []


def _report_line(report: NodeReport) -> str:
    return f"{report.node} ({report.role}) at {report.time}: {totals(report.findings)}{_cause(report)}"


def _unproved(reports: list[NodeReport]) -> list[Line]:
    bad = [report for report in reports if _cause(report)]
    more = [Line(f"          and {len(bad) - SHOWN_NODES} more")] if len(bad) > SHOWN_NODES else []
    return [Line(f"          {report.node}{_cause(report)}") for report in bad[:SHOWN_NODES]] + more


def _cause(report: NodeReport) -> str:
    """The first failure: checks stand in the order of causes."""
    failed = next((finding for finding in report.findings if finding.mark is Mark.FAIL), None)
    return f": {failed.check}: {failed.message}" if failed else ""


def _run_line(run: Mapping[str, Any]) -> str:
    steps = steps_of(run["steps"])
    verb = f"{run['verb']} {run['event']}".strip()
    done = f"ended {run['finished']}, {run['status']}, exit {run['exit']}" if run["finished"] else run["status"]
    return f"{verb:<16} started {run['started']}, {done} ({summary(steps)}, run {run['run_id']})"


def _now_lines(run: Mapping[str, Any]) -> list[Line]:
    """What a run is at, how far and for how long, while it goes on."""
    steps = steps_of(run.get("steps", ())) if run.get("finished") is None else []
    return [line for step in steps if step.outcome.goes_on for line in step_lines(step)]


def _troubles(run: Mapping[str, Any]) -> list[Line]:
    steps = [step for step in steps_of(run["steps"]) if step.error or step.outcome in (Outcome.BLOCKED, Outcome.FAILED)]
    lines = [line for step in steps for line in step_lines(step)]
    return lines + [line for error in run["errors"] for line in error_lines(error)]
