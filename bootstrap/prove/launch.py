"""Starts one node in each queue that has none running (``MinCount: 0``), to prove the release on (``check.launch``).

A job that does nothing is enough: Slurm powers a node up for it, ParallelCluster starts the instance, and the node is
powered down again after its idle time (ScaledownIdletime), as after any other job.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..cluster.hostlist import folded
from ..cluster.slurm import SlurmNode, cancel, jobs, submit
from ..core.errors import PetalError
from ..host.log import LOG
from ..state.context import Context

MINUTES = 5


@dataclass(frozen=True)
class Launch:
    """Queues in which a job waits for a node; all these jobs have the same name."""

    job_name: str
    queues: tuple[str, ...] = ()

    def pending(self, ctx: Context, nodes: Iterable[SlurmNode]) -> tuple[str, ...]:
        """The queues without a node that may still get one: a node joins, or the job waits for one."""
        groups = by_queue(nodes)
        absent = tuple(queue for queue in self.queues if not any(node.up for node in groups.get(queue, ())))
        if not absent or any(node.joining for queue in absent for node in groups.get(queue, ())):
            return absent
        try:
            waiting = any(not job.ended for job in jobs(ctx.system, self.job_name))
        except PetalError as error:
            LOG.warning("slurm: %s", error)
            waiting = True
        return absent if waiting else ()

    def cancel(self, ctx: Context) -> None:
        """Cancels the jobs that still wait."""
        if self.queues:
            try:
                cancel(ctx.system, self.job_name)
            except PetalError as error:
                LOG.warning("the jobs %s may still wait: %s", self.job_name, error)


def launch_nodes(ctx: Context, nodes: Iterable[SlurmNode]) -> Launch:
    """Submits a job to each queue whose nodes are all powered down. A queue that refuses the job is noted."""
    name = f"petal-launch-{ctx.run_id}"
    started = []
    for queue, group in by_queue(nodes).items() if ctx.config.check.launch else ():
        if all(node.powered_down and not node.joining for node in group):
            try:
                submit(ctx.system, None, name=name, queue=queue, minutes=MINUTES, output=Path("/dev/null"), options=())
                started.append(queue)
            except PetalError as error:
                LOG.warning("no node of queue %s can be started: %s", queue, error)
                ctx.note(f"no node of queue {queue} can be started: {error}")
    if started:
        ctx.note(f"starting a node in {folded(started)}")
    return Launch(name, tuple(started))


def by_queue(nodes: Iterable[SlurmNode]) -> dict[str, list[SlurmNode]]:
    """The nodes of each queue."""
    queues: dict[str, list[SlurmNode]] = {}
    for node in nodes:
        queues.setdefault(node.partition, []).append(node)
    return queues
