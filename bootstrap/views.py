"""Results as lines of text. Pure: a result in, lines out, so that tests compare them with golden files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .model import Finding, Mark, NodeReport, Outcome, Result, StepReport

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
SHOWN_NODES = 8  # of those that fail, in status
CHECK_MARKS = {Mark.OK: "ok", Mark.WARN: "warn", Mark.FAIL: "FAIL", Mark.SKIP: "-"}
LEVEL_MARKS = {"debug": "..", "warning": "warn", "error": "x", "critical": "x"}
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


def _under(text: str, word: str) -> Line:
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
        lines += [_under(text, "try") for text in step.remedy]
    return lines


def folded_lines(steps: Iterable[StepReport]) -> list[Line]:
    """The steps that are not for this node or run, one line a reason."""
    groups: dict[str, list[str]] = {}
    for step in steps:
        if step.outcome is Outcome.SKIPPED:
            groups.setdefault(step.reason, []).append(step.name)
    return [Line(f"{', '.join(names)}: {reason}", MARKS[Outcome.SKIPPED]) for reason, names in groups.items()]


def _told_lines(steps: Iterable[StepReport]) -> list[Line]:
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


def _steps(raw: Iterable[Mapping[str, Any]]) -> list[StepReport]:
    return [StepReport.from_dict(step) for step in raw]


def run_view(result: Result, steps_told: bool) -> list[Line]:
    """A run of ``bootstrap`` or of a hook."""
    run = result.data["run"]
    steps = _steps(run["steps"])
    lines = [*([] if steps_told else _told_lines(steps)), *folded_lines(steps)]
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


def plan_view(result: Result, _told: bool) -> list[Line]:
    """What a run would do."""
    data = result.data
    release = data["release"] or "unknown"
    head = f"petal-node plan  role={data['role']}  node={data['node']}  layout={data['layout']}  release={release}"
    steps = _steps(data["steps"])
    lines = [Line(head, heading=True), *_told_lines(steps), *folded_lines(steps)]
    pending = any(step.outcome is Outcome.WOULD_CHANGE for step in steps)
    return [
        *lines,
        Line(summary(steps) + (".  Apply: petal-node bootstrap" if pending else "."), heading=True),
    ]


def finding_lines(finding: Finding) -> list[Line]:
    """One check."""
    if finding.mark in (Mark.OK, Mark.SKIP):
        return [Line(f"{finding.check}: {finding.message}", CHECK_MARKS[finding.mark])]
    lines = [Line(f"{finding.check}: {finding.message}", CHECK_MARKS[finding.mark])]
    lines += [Line(f"why  {finding.why}", indent=7)] if finding.why else []
    lines += [Line(f"try  {text}", indent=7) for text in finding.remedy]
    return [*lines, Line(f"more {finding.anchor}", indent=7)]


def _totals(findings: Iterable[Finding]) -> str:
    marks = [finding.mark for finding in findings]
    failures, warnings = marks.count(Mark.FAIL), marks.count(Mark.WARN)
    return f"{failures} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}, {marks.count(Mark.OK)} ok"


def check_view(result: Result, _told: bool) -> list[Line]:
    """The checks of one node."""
    report = NodeReport.from_dict(result.data["report"])
    head = f"petal-node check  node={report.node}  role={report.role}  release={report.release or 'none'}"
    lines = [line for finding in report.findings for line in finding_lines(finding)]
    return [Line(head, heading=True), *lines, Line(_totals(report.findings), heading=True)]


def matrix_view(result: Result, _told: bool) -> list[Line]:
    """A table check x node; nodes that answered alike share a column."""
    reports = [NodeReport.from_dict(report) for report in result.data["nodes"]]
    if not reports:
        return [Line("no node was asked: none is up", heading=True), Line("try  sinfo -N")]
    checks = list(dict.fromkeys(finding.check for report in reports for finding in report.findings))
    columns = _folded(reports, checks)
    first = max(len(check) for check in ["check", *checks])
    lines = [Line("  ".join([f"{'check':<{first}}", *columns]), heading=True)]
    for number, check in enumerate(checks):
        cells = [f"{marks[number]:<{len(names)}}" for names, marks in columns.items()]
        lines.append(Line("  ".join([f"{check:<{first}}", *cells]), indent=0))
    for report in reports:
        troubles = [finding for finding in report.findings if finding.mark in (Mark.FAIL, Mark.WARN)]
        lines += [Line(f"{report.node}:", indent=0)] if troubles else []
        lines += [line for finding in troubles for line in finding_lines(finding)]
    cluster = [Finding.from_dict(finding) for finding in result.data.get("cluster", ())]
    lines += [Line("between the nodes:", indent=0)] if cluster else []
    lines += [line for finding in cluster for line in finding_lines(finding)]
    well, asked = sum(report.well for report in reports), sum(report.asked for report in reports)
    left = f", {len(reports) - asked} not asked" if asked < len(reports) else ""
    return [*lines, Line(f"proved on {well} of {asked} nodes{left}", heading=True)]


def _folded(reports: Iterable[NodeReport], checks: list[str]) -> dict[str, tuple[str, ...]]:
    groups: dict[tuple[str, ...], list[str]] = {}
    for report in reports:
        marks = {finding.check: CHECK_MARKS[finding.mark] for finding in report.findings}
        groups.setdefault(tuple(marks.get(check, ".") for check in checks), []).append(report.node)
    return {",".join(names): marks for marks, names in groups.items()}


def lines_view(result: Result, _told: bool) -> list[Line]:
    """What a proof job prints."""
    return [Line(line, indent=0) for line in result.data["lines"]]


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
    return f"{report.node} ({report.role}) at {report.time}: {_totals(report.findings)}{_cause(report)}"


def _unproved(reports: list[NodeReport]) -> list[Line]:
    bad = [report for report in reports if _cause(report)]
    more = [Line(f"          and {len(bad) - SHOWN_NODES} more")] if len(bad) > SHOWN_NODES else []
    return [Line(f"          {report.node}{_cause(report)}") for report in bad[:SHOWN_NODES]] + more


def _cause(report: NodeReport) -> str:
    """The first failure: checks stand in the order of causes."""
    failed = next((finding for finding in report.findings if finding.mark is Mark.FAIL), None)
    return f": {failed.check}: {failed.message}" if failed else ""


def _run_line(run: Mapping[str, Any]) -> str:
    steps = _steps(run["steps"])
    verb = f"{run['verb']} {run['event']}".strip()
    done = f"ended {run['finished']}, {run['status']}, exit {run['exit']}" if run["finished"] else run["status"]
    return f"{verb:<16} started {run['started']}, {done} ({summary(steps)}, run {run['run_id']})"


def _now_lines(run: Mapping[str, Any]) -> list[Line]:
    """What a run is at, how far and for how long, while it goes on."""
    steps = _steps(run.get("steps", ())) if run.get("finished") is None else []
    return [line for step in steps if step.outcome.goes_on for line in step_lines(step)]


def _troubles(run: Mapping[str, Any]) -> list[Line]:
    steps = [step for step in _steps(run["steps"]) if step.error or step.outcome in (Outcome.BLOCKED, Outcome.FAILED)]
    lines = [line for step in steps for line in step_lines(step)]
    return lines + [line for error in run["errors"] for line in error_lines(error)]


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


def lock_view(result: Result, _told: bool) -> list[Line]:
    """A lockfile that was made: where it is, what it is for, and what to write."""
    data = result.data
    return [
        Line(
            f"petal-node lock on {data['node']}: {data['packages']} packages for {_flat(data['targets'])}", heading=True
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
        lines += [_under(entry[name], word) for name, word in (("why", "why"), ("remedy", "try")) if entry[name]]
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


VIEWS: dict[str, Callable[[Result, bool], list[Line]]] = {
    "run": run_view,
    "plan": plan_view,
    "check": check_view,
    "matrix": matrix_view,
    "lines": lines_view,
    "status": status_view,
    "facts": facts_view,
    "lock": lock_view,
    "log": log_view,
    "version": version_view,
    "error": error_view,
}
