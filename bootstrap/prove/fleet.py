"""Asks the compute nodes themselves, through Slurm: a proof job runs as an ordinary user and prints its findings.

srun mixes the output of its tasks in pieces of 1,024 bytes (slurmstepd's MAX_MSG_LEN) and keeps only shorter lines
whole, so a report comes as one short line a finding, and a last line that says how many there are.
"""

from __future__ import annotations

import json
import pwd
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..cluster.hostlist import folded, natural
from ..cluster.slurm import SOME_NODES_REFUSED, SlurmNode, nodes, require_step, srun
from ..core.errors import AllocationRefused, PetalError
from ..core.model import Finding, Mark, NodeReport, plain
from ..host.clocks import age_of
from ..host.log import LOG
from ..host.system import timestamp
from ..lmod.bundle import SUFFIX
from ..lmod.find import CHECK_NAME
from ..state.context import Context
from ..state.store import Shared
from .launch import Launched, launch_where_none_runs

JOB_MINUTES = 4
JOB_MEMORY = "200M"  # of each node: if memory is scheduled, a job without --mem asks for all of it
IMMEDIATE_SECONDS = 10
END_SECONDS = 10  # for srun after the time limit of its job
LOOK_SECONDS = 4.0
POLL_SECONDS = 2.0
LATECOMER_SECONDS = 60.0
LMOD_SECONDS = 180.0  # a timer repeats every 30 s what did not hold
LINE_BYTES = 1000


def wait_for_nodes(ctx: Context) -> tuple[SlurmNode, ...]:
    """Waits until compute nodes are up and none is still joining; latecomers get a minute after the first.

    With ``check.launch`` a node is started in each queue where none runs, and waited for as long as it may come.

    Returns:
        All nodes that are not powered down; empty when none came up within ``check.wait`` seconds.
    """
    launched = launch_where_none_runs(ctx, _nodes_or_none(ctx))
    try:
        return _come(ctx, launched)
    finally:
        launched.withdraw(ctx)


def _come(ctx: Context, launched: Launched) -> tuple[SlurmNode, ...]:
    deadline = time.monotonic() + ctx.config.check.wait
    first_up: float | None = None
    said = ""
    while True:
        known = _nodes_or_none(ctx)
        up = [node for node in known if node.up]
        joining = [node for node in known if node.joining]
        awaited = launched.awaited(ctx, known)
        now = time.monotonic()
        first_up = first_up or (now if up else None)
        if up and not awaited and (not joining or now - (first_up or now) > LATECOMER_SECONDS):
            return tuple(node for node in known if not node.powered_down)
        if now >= deadline or (launched.queues and not awaited and not up and not joining):
            return tuple(node for node in known if node.up)
        message = f"waiting for compute nodes: {len(up)} up, {len(joining)} joining"
        message += f", none in {folded(awaited)} yet" if awaited else ""
        if message != said:
            ctx.note(message)
            ctx.progress(message)
            said = message
        time.sleep(min(POLL_SECONDS, deadline - now))


def wait_for_lmod(ctx: Context, candidates: Sequence[SlurmNode]) -> None:
    """Nodes that came before the release have no Lmod until their timers take the one that it carries.

    Where it carries none, and behind ``LMOD_SECONDS``, nothing is waited for: the proof says what is wrong.
    """
    if not any(ctx.paths.lmod_packs(ctx.wanted_release).glob(f"*/*{SUFFIX}")):
        return
    deadline, names, said = time.monotonic() + LMOD_SECONDS, {node.name for node in candidates if node.up}, ""
    while time.monotonic() < deadline:
        waiting = [report.node for report in _own_reports(ctx).values() if report.node in names and _lacks_lmod(report)]
        if not waiting:
            return
        message = f"waiting for {folded(waiting)} to take Lmod from the release"
        if message != said:
            ctx.progress(message)
            said = message
        time.sleep(POLL_SECONDS)


def _lacks_lmod(report: NodeReport) -> bool:
    return any(finding.check == CHECK_NAME and finding.mark is Mark.FAIL for finding in report.findings)


def _nodes_or_none(ctx: Context) -> tuple[SlurmNode, ...]:
    try:
        return nodes(ctx.system)
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return ()


def prove(ctx: Context, candidates: Sequence[SlurmNode]) -> tuple[NodeReport, ...]:
    """One job over all nodes of a queue that are free; what Slurm says of the others, with their own last report.

    A node that is asked and says nothing has a finding of its own: silence is never taken for success.
    """
    free = [node for node in candidates if node.free]
    own = _own_reports(ctx) if len(free) < len(candidates) else {}
    ctx.note(f"checking {len(free)} nodes through Slurm")
    asked = _ask_all(ctx, free)
    others = [_not_asked(node, own.get(node.name)) for node in candidates if not node.free]
    return tuple(sorted([*asked, *others], key=lambda report: natural(report.node)))


def _ask_all(ctx: Context, free: Sequence[SlurmNode]) -> list[NodeReport]:
    """A job's nodes are all of one queue, and the queues do not wait for each other."""
    queues: dict[str, list[SlurmNode]] = {}
    for node in free:
        queues.setdefault(node.partition, []).append(node)
    if not queues:
        return []
    with ThreadPoolExecutor(len(queues)) as pool:
        answers = pool.map(lambda queue: _ask(ctx, queue, queues[queue]), queues)
        return [report for reports in answers for report in reports]


def _ask(ctx: Context, queue: str, group: Sequence[SlurmNode]) -> list[NodeReport]:
    """One job step; a group that Slurm refuses is asked again without those that are taken by now, then in halves."""
    names = [node.name for node in group]
    argv = [str(ctx.paths.link), "check", "--lines"]
    try:
        done = srun(
            ctx.system,
            argv,
            name="petal-proof",
            nodes=names,
            queue=queue,
            minutes=JOB_MINUTES,
            immediate=IMMEDIATE_SECONDS,
            options=("--quiet", "--no-kill", f"--mem={JOB_MEMORY}"),
            user=ordinary_user(ctx),
            timeout=60 * JOB_MINUTES + IMMEDIATE_SECONDS + END_SECONDS,
        )
        require_step(done, names)
    except AllocationRefused as refused:
        return _regroup(ctx, queue, group, refused)
    except PetalError as error:
        return [_no_job(name, error) for name in names]
    LOG.debug("proof job: %s", done.stderr.strip())
    reports = reports_of_lines(done.stdout.splitlines())
    return [reports[name] if name in reports else _silent(name) for name in names]


def _regroup(ctx: Context, queue: str, group: Sequence[SlurmNode], refused: AllocationRefused) -> list[NodeReport]:
    now = {node.name: node for node in _nodes_or_none(ctx)}
    taken = [now[node.name] for node in group if node.name in now and not now[node.name].free]
    rest = [node for node in group if node.name not in {one.name for one in taken}]
    told = [_not_asked(node, None) for node in taken]
    if taken:
        return [*told, *(_ask(ctx, queue, rest) if rest else [])]
    if not any(words in refused.why for words in SOME_NODES_REFUSED):
        return [_no_job(node.name, refused) for node in rest]
    if len(rest) == 1:
        busy = rest[0].state != "idle"  # others run there, and leave too little for a job
        return [_not_asked(rest[0], None, "busy") if busy else _no_job(rest[0].name, refused)]
    half = len(rest) // 2
    return [*_ask(ctx, queue, rest[:half]), *_ask(ctx, queue, rest[half:])]


def _own_reports(ctx: Context) -> dict[str, NodeReport]:
    try:
        reports = ctx.system.on_storage(Shared(ctx.paths).reports, ctx.paths.shared, LOOK_SECONDS)
    except (PetalError, OSError) as error:
        LOG.warning("the nodes' own reports: %s", error)
        return {}
    return {report.node: report for report in reports}


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


def _not_asked(node: SlurmNode, own: NodeReport | None, word: str = "") -> NodeReport:
    """Neither good nor bad: no job could run there now. What the node last said of itself is told with its age."""
    condition = f"{word} ({node.state}{node.suffix})" if word else node.condition
    message, remedy = f"not asked: {condition}", (f"scontrol show node {node.name}",)
    told = [node.reason] if node.reason else []
    if own is not None:
        told.append(f"its own report of {own.time} ({age_of(own.time)} old): {summary_of(own)}")
    mark = Mark.SKIP if node.up or node.powered_down else Mark.WARN
    finding = Finding("slurm", mark, message, "; ".join(told), remedy if mark is Mark.WARN else ())
    return NodeReport(node.name, "compute", timestamp(), own.release if own else None, (finding,))


def summary_of(report: NodeReport) -> str:
    """``well``, or the first failure and how many there are."""
    failures = [finding for finding in report.findings if finding.mark is Mark.FAIL]
    more = f", and {len(failures) - 1} more" if failures[1:] else ""
    return f"{failures[0].check}: {failures[0].message}{more}" if failures else "well"
