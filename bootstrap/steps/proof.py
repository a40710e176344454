"""Proves the release: a job on the compute nodes loads its modules and runs its programs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ..cluster.slurm import Partition, find_slurm, known_nodes, nodes, states
from ..core.errors import PetalError, ProofError
from ..core.model import Finding, change, elsewhere, plain, satisfied
from ..host.times import timestamp
from ..modules import expected
from ..prove.fleet import prove
from ..prove.launch import wait_for_lmod, wait_for_nodes
from ..prove.mpi_proof import between_nodes
from ..prove.queues import limits_of, require_queue
from ..prove.user import ordinary_user
from ..state import desired
from ..state.context import Context
from ..state.store import ClusterState
from .base import HEAD, Question, Run, Step
from .publish import Publish
from .root import Root

JOB = "run a job on the compute nodes"


class Proof(Step):
    """Runs when compute nodes have joined, long after the head node's hook has returned."""

    name = "proof"
    roles = HEAD
    needs = (Root, Publish)
    background = True
    part_of = frozenset({Run.BOOTSTRAP})  # a job that proves repairs nothing

    def probe(self, ctx: Context) -> Finding:
        if not ctx.paths.live:
            return elsewhere("no jobs run under --root")
        if find_slurm(ctx.system) is None:
            return elsewhere("this node has no Slurm")
        proof = ClusterState(ctx.paths).proof()
        is_of_release = proof is not None and proof.release == ctx.desired_release
        if proof is not None and is_of_release and proof.check == plain(ctx.config.check):
            return satisfied(str(proof)) if proof.is_whole else change(f"only {proof}", JOB)
        if _no_node_will_join(ctx):
            return elsewhere("no compute node is up; when nodes are up: petal-node check --nodes all")
        what = "the proof is of an earlier section check" if is_of_release else "the release is not proved yet"
        return change(f"{what}: petal-node check --nodes all", JOB)

    def inputs(self, ctx: Context) -> Mapping[str, Question]:
        """The queues and the user that the configuration names, and the modules that nodes load."""
        limits, check = limits_of(ctx), ctx.config.check
        queues = {"check.partition": check.partition} if check.partition else {}
        for number, program in enumerate(check.run):
            queues |= {f"check.run[{number}].queues[{index}]": queue for index, queue in enumerate(program.queues)}
        asked: dict[str, Question] = {
            key: partial(_look_up_queue, key, queue, limits) for key, queue in queues.items() if limits
        }
        asked |= {"check.user": partial(_look_up_user, ctx)} if check.user else {}
        return {**asked, **{key: ask for key, ask in expected.questions(ctx).items() if key.startswith("check.load")}}

    def apply(self, ctx: Context) -> None:
        candidates = wait_for_nodes(ctx)
        if not any(node.up for node in candidates):
            raise ProofError(
                "no compute node is up, so nothing could be proved",
                why="; ".join(filter(None, (f"waited {ctx.config.check.wait} s", states(known_nodes(ctx.system))))),
                remedy="when nodes are up: petal-node check --nodes all",
                code="proof-no-nodes",
            )
        wait_for_lmod(ctx, candidates)
        reports = prove(ctx, candidates)
        between = between_nodes(ctx, candidates, reports)
        proof = desired.Proof(ctx.desired_release, timestamp(), reports, between, plain(ctx.config.check))
        ClusterState(ctx.paths).save_proof(proof)
        if not proof.is_whole:
            checked = [report for report in reports if report.was_checked]
            problems = [f"{report.node}: {report.headline()}" for report in checked if not report.passed]
            others = [report for report in checked if report.passed and report.release != proof.release]
            problems += [f"{report.node}: has release {report.release}" for report in others]
            problems += [f"{finding.check}: {finding.message}" for finding in proof.failed_between]
            raise ProofError(f"only {proof}", why="; ".join(problems), remedy="petal-node check --nodes all")


def _look_up_queue(key: str, queue: str, limits: Mapping[str, Partition]) -> str:
    require_queue(key, queue, limits)
    return ""


def _look_up_user(ctx: Context) -> str:
    ordinary_user(ctx)
    return ""


def _no_node_will_join(ctx: Context) -> bool:
    """True if all nodes are powered down until a user submits a job (MinCount 0)."""
    if ctx.config.check.launch:
        return False
    try:
        return not any(node.up or node.joining for node in nodes(ctx.system))
    except PetalError:
        return False
