"""Starts one node in each queue where none runs (``MinCount: 0``), so that there is one to prove on (``check.launch``).

A job that does nothing is enough: Slurm powers a node up for it, ParallelCluster starts the instance, and the node is
powered down again after its idle time (ScaledownIdletime) as behind any other job.
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
class Launched:
    """Queues for which a job waits, under the name that all these jobs have."""

    name: str
    queues: tuple[str, ...] = ()

    def awaited(self, ctx: Context, known: Iterable[SlurmNode]) -> tuple[str, ...]:
        """The queues that have no node yet and may still get one: it joins, or its job waits for it."""
        nodes = list(known)
        without = [queue for queue in self.queues if not any(node.up for node in nodes if node.partition == queue)]
        if not without or any(node.joining for node in nodes if node.partition in without):
            return tuple(without)
        try:
            waits = any(not job.ended for job in jobs(ctx.system, self.name))
        except PetalError as error:
            LOG.warning("slurm: %s", error)
            waits = True
        return tuple(without) if waits else ()

    def withdraw(self, ctx: Context) -> None:
        """What still waits for a node is not needed any more."""
        if not self.queues:
            return
        try:
            cancel(ctx.system, self.name)
        except PetalError as error:
            LOG.warning("the jobs %s may still wait: %s", self.name, error)


def launch_where_none_runs(ctx: Context, known: Iterable[SlurmNode]) -> Launched:
    """Asks Slurm for one node of each queue that has only nodes that are powered off. A queue that refuses is told."""
    name = f"petal-launch-{ctx.run_id}"
    queues: dict[str, list[SlurmNode]] = {}
    for node in known:
        queues.setdefault(node.partition, []).append(node)
    asleep = [queue for queue, nodes in queues.items() if all(node.powered_down and not node.joining for node in nodes)]
    started = [queue for queue in asleep if ctx.config.check.launch and _ask(ctx, queue, name)]
    if started:
        ctx.note(f"starting a node in {folded(started)}")
    return Launched(name, tuple(started))


def _ask(ctx: Context, queue: str, name: str) -> bool:
    try:
        submit(ctx.system, None, name=name, queue=queue, minutes=MINUTES, output=Path("/dev/null"), options=())
    except PetalError as error:
        LOG.warning("no node of queue %s can be started: %s", queue, error)
        ctx.note(f"no node of queue {queue} can be started: {error}")
        return False
    return True
