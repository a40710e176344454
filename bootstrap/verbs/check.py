"""``check``: can this node use the software? ``check --nodes``: can the compute nodes, asked through Slurm?"""

from __future__ import annotations

from ..checks import check_node
from ..context import Context
from ..errors import PetalError, UsageError
from ..fleet import prove, report_lines
from ..model import Finding, Mark, NodeReport, Result, Role, Status, plain
from ..mpi.proof import prove_release
from ..prepare import prepare
from ..run import save_report
from ..slurm import SlurmNode, nodes
from ..state import Proof, Shared
from ..system import timestamp
from .common import Asked


def check(asked: Asked, *, as_lines: bool = False) -> Result:
    """All checks of this node; its report is kept where this process may write.

    Args:
        as_lines: the answer is for the head node, through srun.
    """
    ctx = prepare(asked.request(decides=False), asked.system, asked.note)
    report = check_node(ctx)
    if asked.system.is_root() and ctx.role is not Role.HEAD:
        save_report(ctx, report)
    if as_lines:
        return Result("check", "lines", Status.OK, {"lines": report_lines(report)}, run_id=asked.run_id)
    return Result("check", "check", _status([report]), {"report": report.to_dict()}, run_id=asked.run_id)


def check_nodes(asked: Asked, which: str) -> Result:
    """A job on the nodes that ``which`` names: ``all``, ``idle``, or a list of names.

    Raises:
        UsageError: a name is no node of this cluster.
    """
    ctx = prepare(asked.request(decides=False), asked.system, asked.note)
    chosen = _chosen(ctx, which)
    reports = prove(ctx, chosen)
    _keep(asked, ctx, which, reports)
    cluster = _between(ctx, chosen, reports)
    data = {"nodes": [report.to_dict() for report in reports], "cluster": [plain(finding) for finding in cluster]}
    return Result("check", "matrix", _status(reports, cluster), data, run_id=asked.run_id)


def _between(ctx: Context, chosen: tuple[SlurmNode, ...], reports: tuple[NodeReport, ...]) -> tuple[Finding, ...]:
    """What no node can find alone."""
    if not ctx.config.check.mpi or not chosen:
        return ()
    well = {report.node for report in reports if report.well}
    return prove_release(ctx, [node for node in chosen if node.name in well])


def _keep(asked: Asked, ctx: Context, which: str, reports: tuple[NodeReport, ...]) -> None:
    """A check of all nodes by root on the head node is the proof."""
    if which == "all" and ctx.role is Role.HEAD and asked.system.is_root() and ctx.release and reports:
        Shared(ctx.paths).save_proof(Proof(ctx.release, timestamp(), reports))


def _chosen(ctx: Context, which: str) -> tuple[SlurmNode, ...]:
    try:
        known = {node.name: node for node in nodes(ctx.system)}
    except PetalError as error:
        what = "Slurm does not answer, so no node can be asked"
        raise PetalError(what, why=str(error), remedy="systemctl status slurmctld", code="slurm-silent") from error
    if which == "all":
        return tuple(node for node in known.values() if not node.powered_down)
    if which == "idle":
        return tuple(node for node in known.values() if node.up and node.state == "idle")
    wanted = [name for name in which.split(",") if name]
    strange = [name for name in wanted if name not in known]
    if strange or not wanted:
        raise UsageError(
            f"no such node: {', '.join(strange) or 'the list is empty'}",
            why=f"Slurm knows {', '.join(known)}",
            remedy="sinfo -N",
        )
    return tuple(known[name] for name in wanted)


def _status(reports: tuple[NodeReport, ...] | list[NodeReport], cluster: tuple[Finding, ...] = ()) -> Status:
    marks = {finding.mark for findings in (*(report.findings for report in reports), cluster) for finding in findings}
    return Status.DEGRADED if marks & {Mark.FAIL, Mark.WARN} or not reports else Status.OK
