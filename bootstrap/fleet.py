"""Asks the compute nodes themselves, through Slurm: a proof job runs as an ordinary user and prints one line a node."""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Sequence
from typing import Any

from .context import Context
from .errors import PetalError
from .log import LOG
from .model import Finding, Mark, NodeReport
from .slurm import SlurmNode, nodes, on_nodes
from .system import timestamp

JOB_SECONDS = 240
IMMEDIATE_SECONDS = 60
POLL_SECONDS = 2.0
LATECOMER_SECONDS = 60.0


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
    """One job over all nodes that are up; the others are reported as they stand.

    A node that is named and says nothing has a finding of its own: silence is never taken for success.
    """
    up = [node.name for node in candidates if node.up]
    others = [_not_up(node) for node in candidates if not node.up]
    ctx.note(f"checking {len(up)} nodes through Slurm")
    reports = _ask(ctx, up) if up else {}
    asked = [reports.get(name) or _silent(name) for name in up]
    return tuple(sorted([*asked, *others], key=lambda report: report.node))


def _ask(ctx: Context, names: list[str]) -> dict[str, NodeReport]:
    argv = [str(ctx.paths.link), "check", "--json"]
    try:
        done = on_nodes(
            ctx.system, names, argv, user=ordinary_user(ctx), seconds=JOB_SECONDS, immediate=IMMEDIATE_SECONDS
        )
    except PetalError as error:
        return {name: _no_job(name, error) for name in names}
    LOG.debug("proof job: %s", done.stderr.strip())
    reports = (report_of_line(line) for line in done.stdout.splitlines())
    return {report.node: report for report in reports if report is not None}


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


def report_of_line(line: str) -> NodeReport | None:
    """The report in one line of the job's output, which is the JSON envelope of ``check``; None for any other line."""
    if not line.startswith("{"):
        return None
    try:
        envelope: dict[str, Any] = json.loads(line)
        return NodeReport.from_dict(envelope["data"]["report"])
    except (ValueError, KeyError, TypeError):
        return None


def _failed(node: str, check: str, message: str, why: str, *remedy: str) -> NodeReport:
    return NodeReport(node, "compute", timestamp(), None, (Finding(check, Mark.FAIL, message, why, remedy),))


def _silent(name: str) -> NodeReport:
    return _failed(name, "job", "the job on this node gave no report", "", f"srun -w {name} petal-node check")


def _no_job(name: str, error: PetalError) -> NodeReport:
    return _failed(name, "job", "no job could be run", str(error), f"scontrol show node {name}")


def _not_up(node: SlurmNode) -> NodeReport:
    state = node.state + node.suffix
    return _failed(node.name, "slurm", f"the node is {state}", node.reason, f"scontrol show node {node.name}")
