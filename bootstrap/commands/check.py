"""``check``: can this node use the software? ``check --nodes``: can the compute nodes, asked through Slurm?"""

from __future__ import annotations

from ..checks.node import check_node
from ..cluster.hostlist import folded
from ..cluster.slurm import SlurmNode, nodes, unfolded
from ..core.errors import PetalError, UsageError
from ..core.model import Finding, FleetReport, Lines, Mark, NodeReport, Result, Role, Status
from ..core.options import Options
from ..engine.prepare import prepare
from ..engine.registry import CHECKS
from ..engine.run import save_report
from ..host.log import LOG
from ..host.system import timestamp
from ..prove.fleet import prove, report_lines
from ..prove.mpi_proof import between_nodes
from ..report.render import try_page, write_page
from ..state.context import Context
from ..state.desired import Proof
from ..state.store import Shared
from .common import Services, request_of

SAVE_SECONDS = 10.0


def check(options: Options, services: Services) -> Result[NodeReport | FleetReport | Lines]:
    """The checks of this node, or of the nodes that ``--nodes`` names."""
    if options.html:
        try_page(options.html)
    result: Result[NodeReport | FleetReport | Lines]
    result = _check_nodes(options, services, options.nodes) if options.nodes else _check_this_node(options, services)
    if options.html:
        write_page(result, options.html)
    return result


def _check_this_node(options: Options, services: Services) -> Result[NodeReport | Lines]:
    ctx = prepare(request_of(options, services, decides=False), services.system, services.note)
    report = check_node(ctx, CHECKS)
    if services.system.is_root() and ctx.role is not Role.HEAD:
        save_report(ctx, report)
    if options.lines:  # for the head node, through srun
        return Result("check", Status.OK, Lines(tuple(report_lines(report))), run_id=services.run_id)
    return Result("check", _status([report]), report, run_id=services.run_id)


def _check_nodes(options: Options, services: Services, which: str) -> Result[FleetReport]:
    """A job on the nodes that ``which`` names: ``all``, ``idle``, or a list of names.

    Raises:
        UsageError: a name is no node of this cluster.
    """
    ctx = prepare(request_of(options, services, decides=False), services.system, services.note)
    chosen = _chosen(ctx, which)
    reports = prove(ctx, chosen)
    between = between_nodes(ctx, chosen, reports)
    if which == "all":
        off = {node.name for node in chosen if node.powered_down}
        _keep(services, ctx, tuple(report for report in reports if report.node not in off), between)
    return Result("check", _status(reports, between), FleetReport(reports, between), run_id=services.run_id)


def _keep(services: Services, ctx: Context, reports: tuple[NodeReport, ...], between: tuple[Finding, ...]) -> None:
    """A check of all nodes by root on the head node is the proof. Nodes that are powered off are no part of it."""
    if not (ctx.role is Role.HEAD and services.system.is_root() and ctx.release and reports):
        return
    shared, proof = Shared(ctx.paths), Proof(ctx.release, timestamp(), reports, between)
    try:
        services.system.on_storage(lambda: shared.save_proof(proof), ctx.paths.shared, SAVE_SECONDS)
    except (PetalError, OSError) as error:
        services.note(f"the proof is not kept: {error}")
        LOG.warning("the proof is not kept: %s", error)


def _chosen(ctx: Context, which: str) -> tuple[SlurmNode, ...]:
    try:
        known = {node.name: node for node in nodes(ctx.system)}
        names = tuple(known) if which in ("all", "idle") else unfolded(ctx.system, which)
    except PetalError as error:
        what = "Slurm does not answer, so no node can be asked"
        raise PetalError(what, why=str(error), remedy="systemctl status slurmctld", code="slurm-silent") from error
    strange = [name for name in names if name not in known]
    if strange or not names:
        raise UsageError(
            f"no such node: {', '.join(strange) or 'the list is empty'}",
            why=f"Slurm knows {folded(known)}",
            remedy="sinfo -N",
        )
    idle_only = which == "idle"
    return tuple(known[name] for name in names if not idle_only or (known[name].up and known[name].state == "idle"))


def _status(reports: tuple[NodeReport, ...] | list[NodeReport], between: tuple[Finding, ...] = ()) -> Status:
    marks = {finding.mark for findings in (*(report.findings for report in reports), between) for finding in findings}
    return Status.DEGRADED if marks & {Mark.FAIL, Mark.WARN} or not reports else Status.OK
