"""What checks found: of one node as a list, of many as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..cluster.hostlist import folded
from ..core.model import Finding, Mark, NodeReport, Result
from .lines import Line

CHECK_MARKS = {Mark.OK: "ok", Mark.WARN: "warn", Mark.FAIL: "FAIL", Mark.SKIP: "-"}
NOT_TRIED = "."
WIDE = 100  # columns of text that a table may have before its nodes get letters
TROUBLES = (Mark.FAIL, Mark.WARN)
Columns = dict[tuple[str, ...], list[str]]


def finding_lines(finding: Finding) -> list[Line]:
    """One check."""
    lines = [Line(f"{finding.check}: {finding.message}", CHECK_MARKS[finding.mark])]
    if finding.mark not in TROUBLES:
        return lines
    lines += [Line(f"why  {finding.why}", indent=7)] if finding.why else []
    lines += [Line(f"try  {text}", indent=7) for text in finding.remedy]
    return [*lines, Line(f"more {finding.anchor}", indent=7)]


def totals(findings: Iterable[Finding]) -> str:
    """``1 failed, 2 warnings, 9 ok``."""
    marks = [finding.mark for finding in findings]
    failures, warnings = marks.count(Mark.FAIL), marks.count(Mark.WARN)
    return f"{failures} failed, {warnings} {'warning' if warnings == 1 else 'warnings'}, {marks.count(Mark.OK)} ok"


def check_view(result: Result, _told: bool) -> list[Line]:
    """The checks of one node."""
    report = NodeReport.from_dict(result.data["report"])
    head = f"petal-node check  node={report.node}  role={report.role}  release={report.release or 'none'}"
    lines = [line for finding in report.findings for line in finding_lines(finding)]
    return [Line(head, heading=True), *lines, Line(totals(report.findings), heading=True)]


def matrix_view(result: Result, _told: bool) -> list[Line]:
    """A table check x node; nodes that answered alike share a column, and a trouble of many nodes is told once."""
    reports = reports_of(result)
    if not reports:
        return [Line("no node was asked: none is up", heading=True), Line("try  sinfo -N")]
    lines = [*_table([report for report in reports if report.asked]), *_others(reports)]
    told = ""
    for finding, names in troubles(reports):
        lines += [Line(f"{names}:", indent=0)] if names != told else []
        lines += finding_lines(finding)
        told = names
    between = between_of(result)
    lines += [Line("between the nodes:", indent=0)] if between else []
    lines += [line for finding in between for line in finding_lines(finding)]
    return [*lines, Line(total_of(reports), heading=True)]


def between_of(result: Result) -> list[Finding]:
    """What nodes found together."""
    return [Finding.from_dict(finding) for finding in result.data.get("between", ())]


def reports_of(result: Result) -> list[NodeReport]:
    """Those of ``check --nodes``, or the one of ``check``."""
    data = result.data
    return [NodeReport.from_dict(report) for report in (data["nodes"] if "nodes" in data else [data["report"]])]


def total_of(reports: Sequence[NodeReport]) -> str:
    """``proved on 2 of 3 nodes, 1 not asked``; of a single node that was looked at how its checks ended."""
    if len(reports) == 1 and reports[0].role != "compute":
        return totals(reports[0].findings)
    well, asked = sum(report.well for report in reports), sum(report.asked for report in reports)
    left = f", {len(reports) - asked} not asked" if asked < len(reports) else ""
    return f"proved on {well} of {asked} nodes{left}"


def columns_of(reports: Sequence[NodeReport]) -> tuple[list[str], Columns]:
    """The checks in the order of causes, and the nodes by how they answered."""
    checks = list(dict.fromkeys(finding.check for report in reports for finding in report.findings))
    columns: Columns = {}
    for report in reports:
        marks = {finding.check: CHECK_MARKS[finding.mark] for finding in report.findings}
        columns.setdefault(tuple(marks.get(check, NOT_TRIED) for check in checks), []).append(report.node)
    return checks, columns


def _table(reports: Sequence[NodeReport]) -> list[Line]:
    if not reports:
        return []
    checks, columns = columns_of(reports)
    names = [folded(nodes) for nodes in columns.values()]
    legend: list[Line] = []
    if sum(len(name) + 2 for name in names) > WIDE:
        letters = [f"#{number}" for number in range(1, len(names) + 1)]
        legend = [Line(f"{letter:<4} {name}", indent=0) for letter, name in zip(letters, names)]
        names = letters
    first = max(len(check) for check in ["check", *checks])
    widths = [max(len(name), *map(len, CHECK_MARKS.values())) for name in names]
    heads = [f"{name:<{width}}" for name, width in zip(names, widths)]
    rows = [Line("  ".join([f"{'check':<{first}}", *heads]), heading=True)]
    for number, check in enumerate(checks):
        cells = [f"{marks[number]:<{width}}" for marks, width in zip(columns, widths)]
        rows.append(Line("  ".join([f"{check:<{first}}", *cells]), indent=0))
    return [*legend, *rows]


def _others(reports: Sequence[NodeReport]) -> list[Line]:
    """Nodes that were not asked and are well for all that is known: one line a reason."""
    groups: dict[str, list[str]] = {}
    for report in reports:
        for finding in report.findings if not report.asked else ():
            if finding.mark is Mark.SKIP:
                groups.setdefault(finding.message, []).append(report.node)
    return [Line(f"{folded(names)}: {message}", CHECK_MARKS[Mark.SKIP], indent=0) for message, names in groups.items()]


def troubles(reports: Iterable[NodeReport]) -> list[tuple[Finding, str]]:
    """Each warning and failure once, with the nodes that have it: what most nodes have stands first."""
    groups: dict[Finding, list[str]] = {}
    for report in reports:
        for finding in report.findings:
            if finding.mark in TROUBLES:
                groups.setdefault(finding, []).append(report.node)
    return [(finding, folded(names)) for finding, names in groups.items()]


def lines_view(result: Result, _told: bool) -> list[Line]:
    """What a proof job prints."""
    return [Line(line, indent=0) for line in result.data["lines"]]
