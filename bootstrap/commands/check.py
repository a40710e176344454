"""``check``: whether this node, or with ``--nodes`` compute nodes, can use the software."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..checks.node import check_node
from ..cluster.hostlist import folded, unfolded
from ..cluster.slurm import SlurmNode, nodes, silent_daemon
from ..core.deadlines import WRITE
from ..core.errors import PetalError, UsageError
from ..core.model import Finding, FleetReport, Lines, NodeReport, Result, Role, Severity, Status, plain
from ..core.options import Options
from ..engine.prepare import prepare
from ..engine.registry import CHECKS
from ..engine.run import save_report
from ..host.log import LOG
from ..host.processes import terminable
from ..host.times import timestamp
from ..prove.fleet import BEAT, prove, report_line
from ..prove.mpi_proof import between_nodes
from ..report.page import page, require_writable, write_page
from ..report.render import tell
from ..state.context import Context, Services
from ..state.desired import Proof
from ..state.store import ClusterState


def check(options: Options, services: Services) -> Result[NodeReport | FleetReport | Lines]:
    """The checks of this node, or of the nodes that ``--nodes`` names."""
    if options.html:
        require_writable(options.html)
    ctx = prepare(options, services, follow=True)
    data: NodeReport | FleetReport
    if options.nodes is not None:
        with terminable():
            data = _check_nodes(ctx, options.nodes)
        findings = [*(finding for report in data.nodes for finding in report.findings), *data.between]
    else:
        with _sign_of_life(options.lines):
            data = check_node(ctx, CHECKS)
        findings = [*data.findings]
        if ctx.system.is_root() and ctx.role is not Role.HEAD:
            save_report(ctx, data)
        if options.lines:  # for the head node, through srun
            return Result("check", Status.OK, Lines((report_line(data, options.lines),)), run_id=services.run_id)
    severities = {finding.severity for finding in findings}
    is_ok = Severity.OK in severities and not severities & {Severity.FAIL, Severity.WARN}
    status = Status.OK if is_ok else Status.DEGRADED
    result = Result("check", status, data, run_id=services.run_id)
    if options.html:
        write_page(options.html, page(result, options, timestamp()))
    return result


@contextmanager
def _sign_of_life(nonce: str) -> Iterator[None]:
    """Within it a line with the nonce shows every few seconds that this node answers."""
    if nonce:
        signal.signal(signal.SIGALRM, lambda _number, _frame: tell(nonce))
        signal.setitimer(signal.ITIMER_REAL, BEAT, BEAT)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _check_nodes(ctx: Context, which: str) -> FleetReport:
    """Checks ``all`` nodes, ``idle`` nodes, or those of a list, each in a job. A check of all nodes becomes the proof.

    Raises:
        PetalError: ``slurm-silent``.
        UsageError: the cluster has no such node.
    """
    chosen = _nodes(ctx, which)
    reports = prove(ctx, chosen)
    between = between_nodes(ctx, chosen, reports)
    if which == "all":
        off = {node.name for node in chosen if node.powered_down}
        _save_proof(ctx, tuple(report for report in reports if report.node not in off), between)
    return FleetReport(reports, between)


def _save_proof(ctx: Context, reports: tuple[NodeReport, ...], between: tuple[Finding, ...]) -> None:
    """Saves the proof, which only root on the head node may do.

    The last one stays if no node was checked, or with another configuration than that of the cluster (``--config``).
    """
    checked = any(report.was_checked for report in reports) and ctx.options.config is None
    if not (ctx.role is Role.HEAD and ctx.system.is_root() and ctx.release and checked):
        return
    shared = ClusterState(ctx.paths)
    proof = Proof(ctx.release, timestamp(), reports, between, plain(ctx.config.check))
    try:
        ctx.system.on_storage(lambda: shared.save_proof(proof), ctx.paths.shared, WRITE)
    except (PetalError, OSError) as error:
        ctx.note(f"the proof was not saved: {error}")
        LOG.warning("the proof was not saved: %s", error)


def _nodes(ctx: Context, which: str) -> tuple[SlurmNode, ...]:
    try:
        known = {node.name: node for node in nodes(ctx.system)}
    except PetalError as error:
        what = "Slurm does not answer, so no node can be checked"
        remedy = (f"systemctl status {silent_daemon(error)}", "petal-node check")
        raise PetalError(what, why=str(error), remedy=remedy, code="slurm-silent") from error
    try:
        names = tuple(known) if which in ("all", "idle") else unfolded(which)
    except ValueError as error:
        raise UsageError(f"{which} is not a list of nodes", why=str(error), remedy="sinfo -N") from error
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = f"no such node: {folded(unknown)}" if unknown else "the list of nodes is empty"
        raise UsageError(what, why=f"Slurm has {folded(known)}", remedy="sinfo -N")
    return tuple(known[name] for name in names if which != "idle" or (known[name].up and known[name].state == "idle"))
