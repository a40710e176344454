"""Starts one node in each queue that has none running (``MinCount: 0``), to prove the release on (``check.launch``).

A job that does nothing is enough: Slurm powers a node up for it, ParallelCluster starts the instance, and the node is
powered down again after its idle time (ScaledownIdletime), as after any other job.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..cluster.hostlist import folded
from ..cluster.slurm import SlurmNode, cancel, jobs, submit
from ..core.errors import PetalError
from ..host.log import LOG
from ..state.context import Context


def launch_nodes(ctx: Context, nodes: Iterable[SlurmNode]) -> tuple[str, ...]:
    """Submits a job to each queue whose nodes are all powered down, and returns these queues.

    A queue that refuses the job is noted and left out.
    """
    launched = []
    for queue, group in by_queue(nodes).items() if ctx.config.check.launch else ():
        if all(node.powered_down and not node.joining for node in group):
            try:
                output = Path("/dev/null")
                account = [f"--account={ctx.config.check.account}"] if ctx.config.check.account else []
                submit(ctx.system, None, name=_job_name(ctx), queue=queue, minutes=5, output=output, options=account)
                launched.append(queue)
            except PetalError as error:
                LOG.warning("no node of queue %s can be started: %s", queue, error)
                ctx.note(f"no node of queue {queue} can be started: {error}")
    if launched:
        ctx.note(f"starting a node in {folded(launched)}")
    return tuple(launched)


def pending_queues(ctx: Context, launched: Iterable[str], nodes: Iterable[SlurmNode]) -> tuple[str, ...]:
    """The queues without a node that may still get one: a node joins, or the job waits for one."""
    groups = by_queue(nodes)
    absent = tuple(queue for queue in launched if not any(node.up for node in groups.get(queue, ())))
    if not absent or any(node.joining for queue in absent for node in groups.get(queue, ())):
        return absent
    try:
        return absent if any(not job.ended for job in jobs(ctx.system, _job_name(ctx))) else ()
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return absent


def cancel_launch(ctx: Context) -> None:
    """Cancels the jobs of ``launch_nodes`` that still wait."""
    try:
        cancel(ctx.system, _job_name(ctx))
    except PetalError as error:
        LOG.warning("the jobs %s may still wait: %s", _job_name(ctx), error)


def _job_name(ctx: Context) -> str:
    return f"petal-launch-{ctx.run_id}"


def by_queue(nodes: Iterable[SlurmNode]) -> dict[str, list[SlurmNode]]:
    """The nodes of each queue."""
    queues: dict[str, list[SlurmNode]] = {}
    for node in nodes:
        queues.setdefault(node.partition, []).append(node)
    return queues
