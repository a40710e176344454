"""Checks compute nodes through Slurm: a job on each runs ``check`` as an ordinary user and prints the findings.

A report is one line that starts with a nonce of its job.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from ..cluster.hostlist import folded, natural
from ..cluster.slurm import (
    Partition,
    SlurmNode,
    as_root_on,
    jobs,
    known_nodes,
    raise_refusal,
    srun,
    states,
)
from ..core import decode
from ..core.deadlines import POLL, PROBE
from ..core.errors import AllocationRefused, PetalError
from ..core.model import Finding, NodeReport, Severity, plain
from ..core.text import cut, first_words, grouped
from ..host.log import LOG
from ..host.system import passwd_entry
from ..host.threads import ended
from ..host.times import age_of, timestamp
from ..state.context import Context
from ..state.store import ClusterState
from .queues import NOT_STARTED, NoQueue, in_first_queue, limits_of, queues_for, require_queue
from .user import ordinary_user

JOBS, FEW = 32, 4  # at the same time, and for the nodes that are left if Slurm limits the number of jobs
PENDING_SECONDS = 10.0  # for a job on a node that Slurm calls free
SILENT_SECONDS = 12.0  # without a line of the job, which prints one every BEAT seconds
BEAT = 3.0
QUOTED = 3
TEXT = 400  # characters of each text of a report
OTHER_JOBS = "Jobs"  # in the reasons for a limit of running jobs, as QOSMaxJobsPerUserLimit
# Groups: text before the command, a command of petal-node that needs root, a comment.
REPAIR = re.compile(r"(.*?)(?<![\w/-])petal-node ((?:repair|bootstrap)(?: --yes)?)((?:    # .*)?)")
WORDS = re.compile(r"(?:[\w ,]+: )?")
ON_HEAD = re.compile(r"on the head node[\w ,]*: petal-node [\w -]+(?:    # .*)?")
THERE = "on this node: "  # before the other remedies of a report, which a user's job may have written
# The first line shows that the node answers, before Python starts.
JOB = 'echo "$2"; exec "$1" check --lines "$2"'


def prove(ctx: Context, candidates: Sequence[SlurmNode]) -> tuple[NodeReport, ...]:
    """Checks all free nodes, each with a job of its own, so that no node waits for another one.

    If this call is interrupted, all jobs are cancelled.

    Returns:
        A report for each candidate. A node that did not answer has a failed finding. A node that is not free has
        Slurm's reason and, unless it is powered off, a summary of the last report that the node itself wrote.

    Raises:
        ConfigError: ``job-queue``, Slurm has no ``check.partition``.
    """
    limits = limits_of(ctx)
    if ctx.config.check.partition:
        require_queue("check.partition", ctx.config.check.partition, limits)
    free = [node for node in candidates if node.free]
    rest = [node for node in candidates if not node.free]
    # The report of a node that is powered off is of another instance.
    own = own_reports(ctx) if any(not node.powered_down for node in rest) else {}
    ctx.note(f"checking {len(free)} nodes through Slurm")
    reports = [_not_checked(node, None if node.powered_down else own.get(node.name)) for node in rest]
    for count in (JOBS, FEW):
        stop, pool, left = threading.Event(), ThreadPoolExecutor(count), []
        try:
            futures = {pool.submit(_prove_node, ctx, node, limits, stop, again=count != FEW): node for node in free}
            for future in ended(futures):
                report = _result_of(future, futures[future])
                if report is None:
                    left.append(futures[future])
                    continue
                reports.append(report)
                ctx.services.answer(report)
                answered, asked = len(reports) - len(rest), len(candidates) - len(rest)
                ctx.note(f"checking nodes through Slurm: {answered} of {asked} answered")
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)
        free = left
    return tuple(sorted(_for_this_node(ctx, reports, candidates), key=lambda report: natural(report.node)))


def _result_of(future: Future[NodeReport | None], node: SlurmNode) -> NodeReport | None:
    """An unexpected answer of a node is a failure of this node only."""
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - the others have answered
        LOG.exception("the check of %s", node.name)
        return _without_report(node, "its answer cannot be read", f"{type(error).__name__}: {error}", "petal-node log")


def _for_this_node(ctx: Context, reports: Sequence[NodeReport], candidates: Sequence[SlurmNode]) -> list[NodeReport]:
    """The reports with remedies to type here: what root repairs on another node runs there through srun.

    Equal findings of several nodes stay equal, and their remedies name all of these nodes.
    """
    queues = {node.name: node.partition for node in candidates}
    pairs = ((finding, (queues[report.node], report.node)) for report in reports for finding in report.findings)
    typable = {
        finding: replace(finding, remedy=tuple(each for line in finding.remedy for each in _typable(ctx, line, nodes)))
        for finding, nodes in grouped(pairs).items()
    }
    return [replace(report, findings=tuple(typable[one] for one in report.findings)) for report in reports]


def _of_that_node(finding: Finding) -> Finding:
    """A finding in the report of a node: its commands are not for this one."""
    lines = (line if REPAIR.fullmatch(line) or ON_HEAD.fullmatch(line) else f"{THERE}{line}" for line in finding.remedy)
    return replace(finding, remedy=tuple(lines))


def _typable(ctx: Context, line: str, nodes: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    if line.startswith(THERE):
        return (f"on {folded(name for _, name in nodes)}: {line.removeprefix(THERE)}",)
    found = None if line.startswith("on ") else REPAIR.fullmatch(line)
    if found is None:
        return (line,)
    before, words, comment = found[1], f"{ctx.paths.link} {found[2]}", found[3]
    if not WORDS.fullmatch(before):  # another command, which a user's job may have written: not for root to paste
        return (f"on {folded(name for _, name in nodes)}: {line}",)
    return tuple(before + there for there in as_root_on(ctx.system, nodes, words + comment))


def _prove_node(
    ctx: Context, node: SlurmNode, limits: Mapping[str, Partition], stop: threading.Event, *, again: bool
) -> NodeReport | None:
    """Runs the check in the first partition of the node that takes a job of the user.

    Returns:
        None with ``again`` if a partition may take the job after other jobs have ended.
    """

    def run(queue: str, seconds: int, options: Sequence[str]) -> NodeReport:
        return _run_check(ctx, node, queue, seconds, ("--quiet", *options), stop)

    try:
        return in_first_queue(ctx, queues_for(ctx, node, limits), limits, run)
    except NoQueue as refused:
        if again and refused.may_be_limited:
            return None
        now = next((known for known in known_nodes(ctx.system) if known.name == node.name), node)
        if now.free and refused.reasons and not refused.is_busy:
            return _without_report(node, "no job could be run", refused.why, *refused.remedy)
        word = "busy" if refused.reasons else f"not in {ctx.config.check.partition}"
        return _not_checked(now, None, word if now.free else "")
    except PetalError as error:
        return _without_report(node, "no job could be run", str(error), *(error.remedy or ("scontrol ping",)))


def _run_check(
    ctx: Context, node: SlurmNode, queue: str, seconds: int, options: Sequence[str], stop: threading.Event
) -> NodeReport:
    """Runs the check in a job on a node.

    Raises:
        AllocationRefused: with Slurm's reason; another partition may take the job.
        PetalError: the program srun failed.
    """
    user = ordinary_user(ctx)
    watch = _Watch(ctx, user, stop)
    try:
        done = srun(
            ctx.system,
            ["/bin/sh", "-c", JOB, "petal-proof", str(ctx.paths.link), watch.nonce],
            name=watch.job,
            nodes=[node.name],
            queue=queue,
            seconds=seconds,
            options=options,
            user=user,
            on_line=watch.line,
            each_second=watch.each_second,
        )
    except _Silent as silent:
        now = () if stop.is_set() else known_nodes(ctx.system)
        known = next((known for known in now if known.name == node.name), node)
        why = f"Slurm shows it as {states([known])}"
        return _without_report(node, str(silent), why, f"scontrol show node {node.name}", f"ping -c 2 {node.name}")
    report = report_of_lines(node.name, watch.nonce, watch.lines)
    if report is not None:
        return replace(report, findings=tuple(map(_of_that_node, report.findings)))
    if not watch.began:
        raise_refusal(done, [node.name])
    others = [line for line in watch.lines if not line.startswith(watch.nonce)]
    why = first_words(" / ".join(others[-QUOTED:]), TEXT) or f"srun ended with {done.returncode}"
    if done.returncode == 0 and watch.began:
        why = f"another program of {user or 'root'} wrote into the output of the job"
    return _without_report(
        node, "the job on this node gave no report", why, f"srun -p {node.partition} -w {node.name} petal-node check"
    )


class _Silent(PetalError):
    """A node that does not answer."""


class _Watch:
    """Observes one job: the lines of its node, and how long the node has been silent."""

    def __init__(self, ctx: Context, user: str | None, stop: threading.Event) -> None:
        self.ctx, self.stop = ctx, stop
        self.user = passwd_entry(user).pw_name
        self.nonce = secrets.token_hex(8)
        self.job = f"petal-proof-{self.nonce}"
        self.lines: list[str] = []
        self.began = False
        self.start = self.last = self.asked = time.monotonic()

    def line(self, text: str) -> None:
        self.lines.append(text)
        if text.startswith(self.nonce):
            self.last, self.began = time.monotonic(), True

    def each_second(self) -> None:
        """Called about once a second while the job runs or waits.

        Raises:
            AllocationRefused: Slurm does not start the job.
            _Silent: the node does not answer.
        """
        now = time.monotonic()
        if self.stop.is_set():
            raise _Silent("the check was interrupted")
        if not self.began and now - self.asked >= POLL:
            self.asked = now
            reason = self._pending()
            patience = self.ctx.config.check.time if OTHER_JOBS in reason else PENDING_SECONDS
            if reason and (now - self.start >= patience or not (reason in NOT_STARTED or OTHER_JOBS in reason)):
                raise AllocationRefused("Slurm did not start the job", why=reason)
            if OTHER_JOBS in reason:
                self.last = now
        if now - self.last >= SILENT_SECONDS:
            what = "stopped answering" if self.began else "does not answer"
            raise _Silent(f"the node {what}: nothing came for {SILENT_SECONDS:.0f} s")

    def _pending(self) -> str:
        """Slurm's reason if the job waits; else an empty string."""
        try:
            waiting = [job for job in jobs(self.ctx.system, self.job, self.user) if job.state == "PENDING"]
        except PetalError as error:
            LOG.warning("squeue: %s", error)
            return ""
        return waiting[0].reason if waiting else ""


def own_reports(ctx: Context) -> dict[str, NodeReport]:
    """The last reports that nodes wrote to shared storage, by node; none if storage does not answer."""
    try:
        reports = ctx.system.on_storage(ClusterState(ctx.paths).reports, ctx.paths.shared, PROBE)
    except (PetalError, OSError) as error:
        LOG.warning("the nodes' own reports: %s", error)
        return {}
    return {report.node: report for report in reports.current}


def report_line(report: NodeReport, nonce: str) -> str:
    """A report as one line, with texts of at most ``TEXT`` characters, and remedies of at most 4,096."""
    return f"{nonce} {json.dumps(cut(plain(report), TEXT))}"


def report_of_lines(node: str, nonce: str, lines: Iterable[str]) -> NodeReport | None:
    """The report in the output of the job on a node.

    Lines without the nonce are ignored: users' programs print them. One other line must be the report; its node is the
    one on which Slurm ran the job, whatever the line says.
    """
    marked = (line.partition(" ") for line in lines)
    texts = [text for mark, _, text in marked if mark == nonce and text]
    try:
        (text,) = texts
        # Another program of the user may have written it, with texts that take hours to print.
        report = decode.build(NodeReport, cut(json.loads(text), TEXT))
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return replace(report, node=node, role="compute")


def _without_report(node: SlurmNode, message: str, why: str, *remedy: str) -> NodeReport:
    """The report of a node on which no job could be run, or whose job printed no report."""
    finding = Finding("job", Severity.FAIL, message, why, remedy)
    return NodeReport(node.name, "compute", timestamp(), None, (finding,))


def _not_checked(node: SlurmNode, own: NodeReport | None, word: str = "") -> NodeReport:
    """The report of a node on which no job can start now, with its own last report; failed if jobs should run there."""
    condition = f"{word} ({node.state}{node.suffix})" if word else node.condition
    reasons = [node.reason] if node.reason else []
    if own is not None:
        reasons.append(f"its own report, {age_of(own.time)} old: {own.headline() or 'no failure'}")
    severity = Severity.FAIL if node.failed else Severity.SKIP if node.expected else Severity.WARN
    remedy = () if node.expected else (f"scontrol show node {node.name}",)
    finding = Finding("slurm", severity, f"not checked: {condition}", "; ".join(reasons), remedy)
    return NodeReport(node.name, "compute", timestamp(), own.release if own else None, (finding,))
