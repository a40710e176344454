"""Whether a queue can run a build job now, and when it is no longer worth waiting for that."""

from __future__ import annotations

import time

from ...cluster.slurm import nodes, partitions
from ...core.deadlines import INSTALL
from ...core.errors import JobError, PetalError
from ...core.paths import Paths
from ...state.context import Context

POLL_SECONDS = 5.0
# clustermgtd launches nodes. Before it runs, ParallelCluster's ResumeProgram marks every node down that a job asks for
# (aws-parallelcluster-node: slurm_plugin/resume.py, clustermgtd_timeout), so no job may be submitted.
HEARTBEAT = "/opt/slurm/etc/pcluster/.slurm_plugin/clustermgtd_heartbeat"
HEARTBEAT_SECONDS = 300.0


def wait_for_queue(ctx: Context, queue: str, deadline: float) -> int:
    """Until nodes of the queue are up or can be launched; the time that a job may have there, in minutes.

    Args:
        deadline: when it is no longer waited for, by ``time.monotonic``.

    Raises:
        JobError: ``job-queue``, Slurm has no such queue; ``job-not-started``.
    """
    while True:
        why, minutes = _obstacle(ctx, queue)
        if not why:
            return min(minutes or round(INSTALL / 60), round(INSTALL / 60))
        if time.monotonic() >= deadline:
            raise not_started(ctx, queue, why)
        ctx.progress(f"a job on queue {queue} is to build it: {why}")
        ctx.confirm()
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _obstacle(ctx: Context, queue: str) -> tuple[str, int | None]:
    """Why no job can run there now, empty where one can; and the queue's time limit."""
    try:
        known = {partition.name: partition for partition in partitions(ctx.system)}
        up = any(node.up for node in nodes(ctx.system, queue)) if queue in known else False
    except PetalError as error:
        return str(error), None
    if queue not in known:
        raise JobError(
            f"Slurm has no queue {queue}",
            why=f"it has {', '.join(sorted(known)) or 'none'}",
            remedy=elsewhere(queue),
            code="job-queue",
        )
    if known[queue].state != "up":
        return f"the queue is {known[queue].state}", None
    if not up and not _launches(ctx.paths):
        return "no node of it is up, and none is launched yet", None
    return "", known[queue].minutes


def _launches(paths: Paths) -> bool:
    """True while ParallelCluster launches nodes for jobs."""
    try:
        return time.time() - paths.at(HEARTBEAT).stat().st_mtime < HEARTBEAT_SECONDS
    except OSError:
        return False


def not_started(ctx: Context, queue: str, why: str) -> JobError:
    return JobError(
        f"no job could run on queue {queue} within {ctx.config.install.wait} s",
        why=why,
        remedy=(f"sinfo -p {queue} -R; squeue -p {queue}", *elsewhere(queue), "petal-node bootstrap"),
        code="job-not-started",
    )


def elsewhere(queue: str) -> tuple[str, ...]:
    """What to change if a queue does not build."""
    return (f"another install.queue than {queue}, or install: {{where: head}}, in the configuration",)
