"""The release is proved: a job on the compute nodes loaded its modules and ran its programs."""

from __future__ import annotations

from ..context import Context
from ..errors import ProofError, StateError
from ..fleet import prove, wait_for_nodes
from ..model import Mark, NodeReport, Probe, Scope, blocked, change, elsewhere, satisfied
from ..slurm import find_slurm
from ..state import Proof as Record
from ..state import Shared
from ..system import timestamp
from .base import HEAD


class Proof:
    """Runs when compute nodes have joined, long after the head's hook: nobody waits for it."""

    name = "proof"
    title = "compute nodes can use it"
    roles = HEAD
    scope = Scope.NODE
    needs = ("release",)
    local = False
    background = True

    def probe(self, ctx: Context) -> Probe:
        if not ctx.paths.live:
            return elsewhere("no jobs run under --root")
        if find_slurm(ctx.system) is None:
            return elsewhere("this node has no Slurm")
        try:
            proof = Shared(ctx.paths).proof()
        except StateError as error:
            return blocked(str(error), *error.remedy)
        if proof is None or proof.release != ctx.wanted_release:
            return change("not proved yet: petal-node check --nodes all", "run a job on the compute nodes")
        if proof.proved < len(proof.nodes) or not proof.nodes:
            return change(f"only {proof}", "run a job on the compute nodes")
        return satisfied(str(proof))

    def apply(self, ctx: Context) -> None:
        nodes = wait_for_nodes(ctx)
        if not nodes:
            raise ProofError(
                "no compute node is up, so nothing could be proved",
                why=f"waited {ctx.config.check.wait} s",
                remedy="when nodes are up: petal-node check --nodes all",
                code="proof-no-nodes",
            )
        reports = prove(ctx, nodes)
        proof = Record(ctx.wanted_release, timestamp(), reports)
        Shared(ctx.paths).save_proof(proof)
        if proof.proved < len(reports):
            raise ProofError(
                f"only {proof}",
                why="; ".join(_first_failure(report) for report in reports if not report.well),
                remedy="petal-node check --nodes all",
            )


def _first_failure(report: NodeReport) -> str:
    failed = next(finding for finding in report.findings if finding.mark is Mark.FAIL)
    return f"{report.node}: {failed.check}: {failed.message}"
