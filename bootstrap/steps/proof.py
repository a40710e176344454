"""The release is proved: a job on the compute nodes loaded its modules and ran its programs."""

from __future__ import annotations

from ..cluster.slurm import find_slurm, nodes
from ..core.errors import PetalError, ProofError, StateError
from ..core.model import Finding, Mark, NodeReport, change, elsewhere, refused, satisfied
from ..host.system import timestamp
from ..prove.fleet import prove, wait_for_lmod, wait_for_nodes
from ..prove.mpi_proof import between_nodes
from ..state.context import Context
from ..state.desired import Proof as Record
from ..state.store import Shared
from .base import HEAD, Step
from .release import Release
from .root import Root


class Proof(Step):
    """Runs when compute nodes have joined, long after the head's hook: nobody waits for it."""

    name = "proof"
    title = "compute nodes can use it"
    roles = HEAD
    needs = (Root, Release)
    background = True
    in_repair = False  # a job that proves repairs nothing
    is_check = False

    def probe(self, ctx: Context) -> Finding:
        if not ctx.paths.live:
            return elsewhere("no jobs run under --root")
        if find_slurm(ctx.system) is None:
            return elsewhere("this node has no Slurm")
        try:
            proof = Shared(ctx.paths).proof()
        except StateError as error:
            return refused(error)
        return _judge(ctx, proof)

    def apply(self, ctx: Context) -> None:
        found = wait_for_nodes(ctx)
        if not any(node.up for node in found):
            raise ProofError(
                "no compute node is up, so nothing could be proved",
                why=f"waited {ctx.config.check.wait} s",
                remedy="when nodes are up: petal-node check --nodes all",
                code="proof-no-nodes",
            )
        wait_for_lmod(ctx, found)
        reports = prove(ctx, found)
        proof = Record(ctx.wanted_release, timestamp(), reports, between_nodes(ctx, found, reports))
        Shared(ctx.paths).save_proof(proof)
        if not proof.is_whole:
            troubles = [_first_failure(report) for report in reports if report.asked and not report.well]
            troubles += [f"{finding.check}: {finding.message}" for finding in proof.failed_between]
            raise ProofError(
                f"only {proof}",
                why="; ".join(troubles),
                remedy="petal-node check --nodes all",
            )


def _judge(ctx: Context, proof: Record | None) -> Finding:
    if proof is not None and proof.release == ctx.wanted_release:
        if proof.is_whole:
            return satisfied(str(proof))
        return change(f"only {proof}", "run a job on the compute nodes")
    if _nobody_will_come(ctx):
        return elsewhere("no compute node is up: petal-node check --nodes all, when there are some")
    return change("not proved yet: petal-node check --nodes all", "run a job on the compute nodes")


def _nobody_will_come(ctx: Context) -> bool:
    """True on a cluster whose nodes are all powered down until somebody submits a job (MinCount 0)."""
    if ctx.config.check.launch:
        return False
    try:
        known = nodes(ctx.system)
    except PetalError:
        return False
    return not any(node.up or node.joining for node in known)


def _first_failure(report: NodeReport) -> str:
    failed = [finding for finding in report.findings if finding.mark is Mark.FAIL]
    return f"{report.node}: " + (
        f"{failed[0].check}: {failed[0].message}" if failed else f"has release {report.release}"
    )
