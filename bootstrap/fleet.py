"""Asks the compute nodes themselves, through Slurm: a proof job runs as an ordinary user and prints its findings.

srun mixes the output of its tasks in pieces of 1,024 bytes (slurmstepd's MAX_MSG_LEN) and keeps only shorter lines
whole, so a report comes as one short line a finding, and a last line that says how many there are.
"""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Iterable, Sequence
from typing import Any

from .context import Context
from .errors import PetalError
from .log import LOG
from .model import Finding, Mark, NodeReport, plain
from .slurm import SlurmNode, nodes, on_nodes
from .system import timestamp

JOB_SECONDS = 240
IMMEDIATE_SECONDS = 60
POLL_SECONDS = 2.0
LATECOMER_SECONDS = 60.0
LINE_BYTES = 1000


def wait_for_nodes(ctx: Context) -> tuple[SlurmNode, ...]:
    """Waits until compute nodes are up and none is still joining; latecomers get a minute after the first.

    Returns:
        All nodes that are not powered down; empty when none came up within ``check.wait`` seconds.
    """
    deadline = time.monotonic() + ctx.config.check.wait
    first_up: float | None = None
    said = ""
    while True:
        known = _nodes_or_none(ctx)
        up = [node for node in known if node.up]
        joining = [node for node in known if node.joining]
        now = time.monotonic()
        first_up = first_up or (now if up else None)
        if up and (not joining or now - (first_up or now) > LATECOMER_SECONDS):
            return tuple(node for node in known if not node.powered_down)
        if now >= deadline:
            return tuple(node for node in known if node.up)
        message = f"waiting for compute nodes: {len(up)} up, {len(joining)} joining"
        if message != said:
            ctx.note(message)
            said = message
        time.sleep(min(POLL_SECONDS, deadline - now))


def _nodes_or_none(ctx: Context) -> tuple[SlurmNode, ...]:
    try:
        return nodes(ctx.system)
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return ()


def prove(ctx: Context, candidates: Sequence[SlurmNode]) -> tuple[NodeReport, ...]:
    """One job over all nodes that are free; those that are busy, drained or down are reported as not asked.

    A node that is named and says nothing has a finding of its own: silence is never taken for success.
    """
    free = [node.name for node in candidates if node.free]
    others = [_not_asked(node) for node in candidates if not node.free]
    ctx.note(f"checking {len(free)} nodes through Slurm")
    reports = _ask(ctx, free) if free else {}
    asked = [reports.get(name) or _silent(name) for name in free]
    return tuple(sorted([*asked, *others], key=lambda report: report.node))


def _ask(ctx: Context, names: list[str]) -> dict[str, NodeReport]:
    argv = [str(ctx.paths.link), "check", "--lines"]
    try:
        done = on_nodes(
            ctx.system, names, argv, user=ordinary_user(ctx), seconds=JOB_SECONDS, immediate=IMMEDIATE_SECONDS
        )
    except PetalError as error:
        return {name: _no_job(name, error) for name in names}
    LOG.debug("proof job: %s", done.stderr.strip())
    return reports_of_lines(done.stdout.splitlines())


def ordinary_user(ctx: Context) -> str | None:
    """The cluster's user where this node knows one: users must be able to use the software, not only root."""
    name = ctx.facts.cluster.user
    if name is None or not ctx.system.is_root():
        return None
    try:
        pwd.getpwnam(name)
    except KeyError:
        return None
    return name


def report_lines(report: NodeReport) -> list[str]:
    """A report as lines that srun keeps whole; what is too long loses its end."""
    body = [_short_line(report.node, finding) for finding in report.findings]
    last = {
        "node": report.node,
        "role": report.role,
        "time": report.time,
        "release": report.release,
        "lines": len(body),
    }
    return [*body, json.dumps(last)]


def _short_line(node: str, finding: Finding) -> str:
    for length in (400, 100, 30):
        cut = Finding(
            _plain(finding.check, 100), finding.mark, _plain(finding.message, length), _plain(finding.why, length),
            tuple(_plain(line, length) for line in finding.remedy[:2]),
        )  # fmt: skip
        line = json.dumps({"node": node, "finding": plain(cut)})
        if len(line) < LINE_BYTES:
            break
    return line


def _plain(text: str, length: int) -> str:
    """ASCII without escapes, so that a line's length is known."""
    return text[:length].encode("ascii", "replace").decode("ascii")


def reports_of_lines(lines: Iterable[str]) -> dict[str, NodeReport]:
    """The reports in a job's output, by node. A report of which a line is missing is none; other lines are noise."""
    findings: dict[str, list[Finding]] = {}
    reports = {}
    for line in lines:
        try:
            raw: dict[str, Any] = json.loads(line)
            node = str(raw["node"])
            if "finding" in raw:
                findings.setdefault(node, []).append(Finding.from_dict(raw["finding"]))
            elif raw["lines"] == len(findings.get(node, ())):
                reports[node] = NodeReport.from_dict(raw, tuple(findings.get(node, ())))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return reports


def _failed(node: str, check: str, message: str, why: str, *remedy: str) -> NodeReport:
    return NodeReport(node, "compute", timestamp(), None, (Finding(check, Mark.FAIL, message, why, remedy),))


def _silent(name: str) -> NodeReport:
    return _failed(name, "job", "the job on this node gave no report", "", f"srun -w {name} petal-node check")


def _no_job(name: str, error: PetalError) -> NodeReport:
    return _failed(name, "job", "no job could be run", str(error), f"scontrol show node {name}")


def _not_asked(node: SlurmNode) -> NodeReport:
    """Neither good nor bad: Slurm could not run the job there now."""
    message, remedy = f"not asked: the node is {node.state}{node.suffix}", (f"scontrol show node {node.name}",)
    finding = Finding("slurm", Mark.SKIP if node.up else Mark.WARN, message, node.reason, remedy)
    return NodeReport(node.name, "compute", timestamp(), None, (finding,))
