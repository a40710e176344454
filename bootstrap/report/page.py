"""The table of a cluster's check as one page of HTML that needs nothing else: it can be mailed or put on a wiki."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from ..cluster.hostlist import folded
from ..core.model import Finding, Mark, NodeReport, Result
from .checks_view import CHECK_MARKS, between_of, columns_of, reports_of, total_of, troubles

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 70em; padding: 0 1em; color: #1b1b1b }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #c8c8c8; padding: .25em .7em; text-align: left; vertical-align: top }
th { background: #f2f2f2; font-weight: 600 }
.ok { background: #e3f4e3 } .warn { background: #fff1cc } .FAIL { background: #f9d5d3; font-weight: 600 }
.trouble { border-left: 4px solid #c33; margin: 1em 0; padding-left: 1em }
.trouble.warn { border-color: #d90; background: none }
.trouble.FAIL { background: none; font-weight: 400 }
pre { background: #f6f6f6; padding: .6em; overflow-x: auto }
"""


def page(result: Result, at: str) -> str:
    """The page.

    Args:
        result: of ``check --nodes``.
        at: when it was made.
    """
    reports = reports_of(result)
    asked = [report for report in reports if report.asked]
    releases = sorted({report.release for report in asked if report.release})
    body = [
        f"<h1>{escape(total_of(reports))}</h1>",
        f"<p>{escape(at)}, release {escape(', '.join(releases) or 'none')}, run {escape(str(result.run_id))}</p>",
        *(_table(asked) if asked else ["<p>No node was asked.</p>"]),
        *_not_asked(reports),
        *(line for finding, names in troubles(reports) for line in _trouble(finding, names)),
        *_between(result),
        *_words(asked),
    ]
    head = f'<meta charset="utf-8"><title>petal-node: {escape(total_of(reports))}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(body) + "\n</body></html>\n"


def _between(result: Result) -> list[str]:
    found = between_of(result)
    well = [
        f"<p><b>{escape(one.check)}</b>: {escape(one.message)}</p>" for one in found if one.mark in (Mark.OK, Mark.SKIP)
    ]
    bad = [line for one in found if one.mark in (Mark.WARN, Mark.FAIL) for line in _trouble(one, "between the nodes")]
    return ["<h2>Between the nodes</h2>", *well, *bad] if found else []


def _table(asked: Sequence[NodeReport]) -> list[str]:
    checks, columns = columns_of(asked)
    names = "".join(f"<th>{escape(folded(nodes))}</th>" for nodes in columns.values())
    rows = [
        f"<tr><th>{escape(check)}</th>" + "".join(_cell(marks[number]) for marks in columns) + "</tr>"
        for number, check in enumerate(checks)
    ]
    return [f"<table><tr><th>check</th>{names}</tr>", *rows, "</table>"]


def _cell(mark: str) -> str:
    name = mark if mark in CHECK_MARKS.values() and mark != CHECK_MARKS[Mark.SKIP] else "none"
    return f'<td class="{name}">{escape(mark)}</td>'


def _not_asked(reports: Iterable[NodeReport]) -> list[str]:
    left = [(report.node, finding) for report in reports if not report.asked for finding in report.findings]
    if not left:
        return []
    rows = [
        f"<tr><td>{escape(node)}</td><td>{escape(finding.message)}</td><td>{escape(finding.why)}</td></tr>"
        for node, finding in left
    ]
    return [
        "<h2>Not asked</h2>",
        "<table><tr><th>node</th><th>state</th><th>what is known</th></tr>",
        *rows,
        "</table>",
    ]


def _trouble(finding: Finding, names: str) -> list[str]:
    why = f"<p>{escape(finding.why)}</p>" if finding.why else ""
    remedy = f"<pre>{escape(chr(10).join(finding.remedy))}</pre>" if finding.remedy else ""
    title = f"<b>{escape(names)}</b>: {escape(finding.check)}: {escape(finding.message)}"
    return [f'<div class="trouble {CHECK_MARKS[finding.mark]}"><p>{title}</p>{why}{remedy}</div>']


def _words(asked: Sequence[NodeReport]) -> list[str]:
    """What each node said, folded away: nodes with the very same words share a list."""
    groups: dict[tuple[Finding, ...], list[str]] = {}
    for report in asked:
        groups.setdefault(report.findings, []).append(report.node)
    lines = []
    for findings, names in groups.items():
        items = "".join(
            f'<tr><td class="{CHECK_MARKS[found.mark]}">{CHECK_MARKS[found.mark]}</td>'
            f"<td>{escape(found.check)}</td><td>{escape(found.message)}</td></tr>"
            for found in findings
        )
        lines.append(f"<details><summary>{escape(folded(names))}</summary><table>{items}</table></details>")
    return lines
