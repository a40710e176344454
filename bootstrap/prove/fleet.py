"""Checks compute nodes through Slurm: a job runs ``check`` on them as an ordinary user and prints their findings.

A report is one line for each finding, and a last line with their number.
"""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from ..cluster.hostlist import folded, natural
from ..cluster.slurm import SOME_NODES_REFUSED, SlurmNode, nodes, require_step, srun
from ..core import decode
from ..core.deadlines import POLL, PROBE
from ..core.errors import AllocationRefused, PetalError
from ..core.model import Finding, NodeReport, Severity, plain
from ..core.text import at_most
from ..host.log import LOG
from ..host.times import age_of, timestamp
from ..lmod.bundle import SUFFIX
from ..lmod.find import CHECK_NAME
from ..state.context import Context
from ..state.store import ClusterState
from .launch import by_queue, cancel_launch, launch_nodes, pending_queues
from .lines import short_line

JOIN_SECONDS = 60.0  # for other nodes, after the first one is up
UNPACK_SECONDS = 180.0  # for Lmod on a node: its converge timer repeats every 30 s
IMMEDIATE_SECONDS = 10  # for a job on nodes that Slurm calls free
JOB_MINUTES = 4


def wait_for_nodes(ctx: Context) -> tuple[SlurmNode, ...]:
    """Waits until compute nodes are up and none is joining, at most ``JOIN_SECONDS`` after the first is up.

    With ``check.launch`` a node is started in each queue that has none running, and waited for as long as it may come.

    Returns:
        All nodes that are not powered down; empty if none is up within ``check.wait`` seconds.
    """
    launched = launch_nodes(ctx, _nodes(ctx))
    deadline = time.monotonic() + ctx.config.check.wait
    first_up: float | None = None
    previous = ""
    try:
        while True:
            known = _nodes(ctx)
            up = [node for node in known if node.up]
            joining = [node for node in known if node.joining]
            pending = pending_queues(ctx, launched, known)
            now = time.monotonic()
            first_up = first_up or (now if up else None)
            if up and not pending and (not joining or now - (first_up or now) > JOIN_SECONDS):
                return tuple(node for node in known if not node.powered_down)
            if now >= deadline or (launched and not pending and not up and not joining):
                return tuple(up)
            message = f"waiting for compute nodes: {len(up)} up, {len(joining)} joining"
            message += f", none in {folded(pending)} yet" if pending else ""
            if message != previous:
                ctx.note(message)
                ctx.progress(message)
                previous = message
            time.sleep(min(POLL, deadline - now))
    finally:
        if launched:
            cancel_launch(ctx)


def wait_for_lmod(ctx: Context, candidates: Sequence[SlurmNode]) -> None:
    """Waits for nodes that started before the release to unpack its Lmod, at most ``UNPACK_SECONDS``.

    Returns at once if the release carries no Lmod. The proof reports nodes that still have none.
    """
    if not any(ctx.paths.lmod_packs(ctx.desired_release).glob(f"*/*{SUFFIX}")):
        return
    deadline = time.monotonic() + UNPACK_SECONDS
    names = {node.name for node in candidates if node.up}
    previous = ""
    while time.monotonic() < deadline:
        waiting = [
            report.node
            for report in _own_reports(ctx).values()
            if report.node in names
            and any(finding.check == CHECK_NAME and finding.severity is Severity.FAIL for finding in report.findings)
        ]
        if not waiting:
            return
        message = f"waiting for {folded(waiting)} to unpack Lmod from the release"
        if message != previous:
            ctx.progress(message)
            previous = message
        time.sleep(POLL)


def _nodes(ctx: Context) -> tuple[SlurmNode, ...]:
    """All compute nodes, none if Slurm does not answer."""
    try:
        return nodes(ctx.system)
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return ()


def prove(ctx: Context, candidates: Sequence[SlurmNode]) -> tuple[NodeReport, ...]:
    """Checks all free nodes with one job per queue.

    Returns:
        A report for each candidate. A free node that did not answer has a failed finding. A node that is not free has
        Slurm's reason and a summary of the last report that the node itself wrote.
    """
    free = [node for node in candidates if node.free]
    own = _own_reports(ctx) if len(free) < len(candidates) else {}
    ctx.note(f"checking {len(free)} nodes through Slurm")
    reports = [_not_checked(node, own.get(node.name)) for node in candidates if not node.free]
    queues = by_queue(free)  # a job's nodes are all of one queue
    if queues:
        with ThreadPoolExecutor(len(queues)) as pool:
            for answers in pool.map(lambda queue: _run_check(ctx, queue, queues[queue]), queues):
                reports += answers
    return tuple(sorted(reports, key=lambda report: natural(report.node)))


def _run_check(ctx: Context, queue: str, group: Sequence[SlurmNode]) -> list[NodeReport]:
    """One job for a group of nodes. If Slurm refuses it, it is repeated without nodes that are not free, or halved."""
    names = [node.name for node in group]
    try:
        done = srun(
            ctx.system,
            [str(ctx.paths.link), "check", "--lines"],
            name="petal-proof",
            nodes=names,
            queue=queue,
            minutes=JOB_MINUTES,
            immediate=IMMEDIATE_SECONDS,
            options=("--quiet", "--no-kill", "--mem=200M"),  # without --mem a job asks for all memory of its nodes
            user=ordinary_user(ctx),
        )
        require_step(done, names)
    except AllocationRefused as refused:
        taken = [node for node in _nodes(ctx) if node.name in names and not node.free]
        if taken:
            rest = [node for node in group if node.name not in {other.name for other in taken}]
            return [*(_not_checked(node, None) for node in taken), *(_run_check(ctx, queue, rest) if rest else [])]
        if not any(text in refused.why for text in SOME_NODES_REFUSED):
            return [_failed(name, refused) for name in names]
        if len(group) == 1:
            busy = group[0].state != "idle"  # other jobs leave too little for this one
            return [_not_checked(group[0], None, "busy") if busy else _failed(names[0], refused)]
        half = len(group) // 2
        return [*_run_check(ctx, queue, group[:half]), *_run_check(ctx, queue, group[half:])]
    except PetalError as error:
        return [_failed(name, error) for name in names]
    LOG.debug("proof job: %s", done.stderr.strip())
    reports = reports_of_lines(done.stdout.splitlines())
    return [reports[name] if name in reports else _failed(name, None) for name in names]


def _own_reports(ctx: Context) -> dict[str, NodeReport]:
    """The last reports that nodes wrote to shared storage, by node; none if storage does not answer."""
    try:
        reports = ctx.system.on_storage(ClusterState(ctx.paths).reports, ctx.paths.shared, PROBE)
    except (PetalError, OSError) as error:
        LOG.warning("the nodes' own reports: %s", error)
        return {}
    return {report.node: report for report in reports.current}


def ordinary_user(ctx: Context) -> str | None:
    """The user for jobs and shells: users must be able to use the software, not only root.

    Returns:
        The cluster's default user; None if this process is not root's, or the user does not exist on this node.
    """
    name = ctx.facts.cluster.user
    if name is None or not ctx.system.is_root():
        return None
    try:
        pwd.getpwnam(name)
    except KeyError:
        return None
    return name


def report_lines(report: NodeReport) -> list[str]:
    """A report as short lines, with the first two remedies of each finding."""
    lines = []
    for finding in report.findings:
        shown = Finding(finding.check, finding.severity, finding.message, finding.why, finding.remedy[:2])
        lines.append(short_line({"node": report.node, "finding": plain(shown)}))
    last = {name: getattr(report, name) for name in ("node", "role", "time", "release")}
    return [*lines, json.dumps({**last, "lines": len(lines)})]


def reports_of_lines(lines: Iterable[str]) -> dict[str, NodeReport]:
    """The complete reports in a job's output, by node. Other lines are ignored."""
    findings: dict[str, list[Finding]] = {}
    reports = {}
    for line in lines:
        try:
            raw: dict[str, Any] = json.loads(line)
            node = str(raw["node"])
            if "finding" in raw:
                findings.setdefault(node, []).append(decode.build(Finding, raw["finding"]))
            elif raw["lines"] == len(findings.get(node, ())):
                reports[node] = replace(decode.build(NodeReport, raw), findings=tuple(findings.get(node, ())))
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return reports


def _failed(node: str, error: PetalError | None) -> NodeReport:
    """The report of a node on which no job could be run, or (without an error) whose job printed no report."""
    if error is None:
        message, remedy = "the job on this node gave no report", f"srun -w {node} petal-node check"
    else:
        message, remedy = "no job could be run", f"scontrol show node {node}"
    finding = Finding("job", Severity.FAIL, message, str(error or ""), (remedy,))
    return NodeReport(node, "compute", timestamp(), None, (finding,))


def _not_checked(node: SlurmNode, own: NodeReport | None, word: str = "") -> NodeReport:
    """The report of a node on which no job can start now: neither good nor bad, with its own last report."""
    condition = f"{word} ({node.state}{node.suffix})" if word else node.condition
    reasons = [node.reason] if node.reason else []
    if own is not None:
        reasons.append(f"its own report of {own.time} ({age_of(own.time)} old): {summary_of(own)}")
    expected = node.up or node.powered_down
    remedy = () if expected else (f"scontrol show node {node.name}",)
    severity = Severity.SKIP if expected else Severity.WARN
    finding = Finding("slurm", severity, f"not checked: {condition}", "; ".join(reasons), remedy)
    return NodeReport(node.name, "compute", timestamp(), own.release if own else None, (finding,))


def summary_of(report: NodeReport) -> str:
    """The first failure and the number of the others, else ``no failure``."""
    failures = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    return ", ".join(at_most(1, [f"{failure.check}: {failure.message}" for failure in failures])) or "no failure"
