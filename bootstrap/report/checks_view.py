"""Text of ``check``: one node as a list, several nodes as a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..core.model import Finding, FleetReport, Lines, NodeReport, Result, Severity
from ..core.text import count, grouped
from .lines import CHECK_MARKS, PROBLEMS, Line, by_nodes, finding_lines

NOT_REACHED = "."
MAX_WIDTH = 100  # columns of a table, above which numbers replace the names of the nodes


def node_view(result: Result[NodeReport]) -> list[Line]:
    """The checks of one node."""
    report = result.data
    head = f"petal-node check  node={report.node}  role={report.role}  release={report.release or 'none'}"
    return [
        Line(head, heading=True),
        *finding_lines(report.findings),
        Line(totals(report.findings), heading=True),
    ]


def fleet_view(result: Result[FleetReport]) -> list[Line]:
    """A table of checks and nodes. Nodes with equal results share a column; each problem is listed once."""
    reports, between = result.data.nodes, result.data.between
    if not reports:
        none = Line("no node was checked: none is up", heading=True, problem=True)
        return [none, Line("sinfo -N", lead="try  ", commands=True, problem=True)]
    lines = [*_table([report for report in reports if report.was_checked]), *_unchecked(reports)]
    for names, findings in grouped(problems(reports)).items():
        lines += [Line(f"{names}:", indent=0), *finding_lines(findings)]
    if between:
        lines += [Line("between the nodes:", indent=0), *finding_lines(between)]
    return [*lines, Line(total(reports), heading=True)]


def answer_line(report: NodeReport) -> Line:
    """The answer of one node: the first failure or warning, and the number of the others."""
    marks = (Severity.FAIL, Severity.WARN, *(() if report.was_checked else (Severity.SKIP,)))
    mark = next((mark for mark in marks if report.headline(mark)), Severity.OK)
    text = "all checks" if mark is Severity.OK else report.headline(mark)
    return Line(f"{report.node}: {text}", CHECK_MARKS[mark])


def lines_view(result: Result[Lines]) -> list[Line]:
    """Lines for the program that runs the verb."""
    return [Line(line, indent=0) for line in result.data.lines]


def totals(findings: Iterable[Finding]) -> str:
    """``1 failed, 2 warnings, 9 ok``."""
    marks = [finding.severity for finding in findings]
    failures, warnings = marks.count(Severity.FAIL), marks.count(Severity.WARN)
    return f"{failures} failed, {count(warnings, 'warning')}, {marks.count(Severity.OK)} ok"


def total(reports: Sequence[NodeReport]) -> str:
    """``proved on 2 of 3 nodes, 1 not checked``; for one head or login node the totals of its checks."""
    if len(reports) == 1 and reports[0].role != "compute":
        return totals(reports[0].findings)
    passed, checked = sum(report.passed for report in reports), sum(report.was_checked for report in reports)
    rest = f", {len(reports) - checked} not checked" if checked < len(reports) else ""
    return f"proved on {passed} of {checked} nodes{rest}"


def columns_of(reports: Sequence[NodeReport]) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """The checks in their order, and the marks of all checks, each with the nodes that have them."""
    marks = [{finding.check: CHECK_MARKS[finding.severity] for finding in report.findings} for report in reports]
    checks = list(dict.fromkeys(check for of_node in marks for check in of_node))
    columns = (tuple(of_node.get(check, NOT_REACHED) for check in checks) for of_node in marks)
    return checks, by_nodes(zip(columns, (report.node for report in reports)))


def problems(reports: Iterable[NodeReport]) -> list[tuple[str, Finding]]:
    """Each warning and failure once, with the names of its nodes."""
    found = ((finding, report.node) for report in reports for finding in report.findings)
    return by_nodes((finding, node) for finding, node in found if finding.severity in PROBLEMS)


def _table(reports: Sequence[NodeReport]) -> list[Line]:
    if not reports:
        return []
    checks, columns = columns_of(reports)
    names = [nodes for nodes, _ in columns]
    legend: list[Line] = []
    if sum(len(name) + 2 for name in names) > MAX_WIDTH:
        numbers = [f"#{number}" for number in range(1, len(names) + 1)]
        legend = [Line(f"{number:<4} {name}", indent=0) for number, name in zip(numbers, names)]
        names = numbers
    first = max(len(check) for check in ["check", *checks])
    widths = [max(len(name), *map(len, CHECK_MARKS.values())) for name in names]
    heads = [f"{name:<{width}}" for name, width in zip(names, widths)]
    rows = [Line("  ".join([f"{'check':<{first}}", *heads]), heading=True)]
    for number, check in enumerate(checks):
        cells = [f"{marks[number]:<{width}}" for (_, marks), width in zip(columns, widths)]
        rows.append(Line("  ".join([f"{check:<{first}}", *cells]), indent=0))
    return [*legend, *rows]


def _unchecked(reports: Sequence[NodeReport]) -> list[Line]:
    """Nodes that were not checked and have no known problem, one line for each reason."""
    found = ((finding, report.node) for report in reports if not report.was_checked for finding in report.findings)
    skipped = by_nodes((finding.message, node) for finding, node in found if finding.severity is Severity.SKIP)
    return [Line(f"{names}: {message}", CHECK_MARKS[Severity.SKIP], indent=0) for names, message in skipped]
