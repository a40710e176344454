"""Waits for compute nodes, and starts one in each queue that has none running (``MinCount: 0``, ``check.launch``).

A job that does nothing is enough: Slurm powers a node up for it, ParallelCluster starts the instance, and the node is
powered down again after its idle time (ScaledownIdletime), as after any other job.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ..cluster.hostlist import folded
from ..cluster.slurm import Partition, SlurmNode, cancel, jobs, known_nodes, submit
from ..core.deadlines import POLL
from ..core.errors import PetalError
from ..core.model import Severity
from ..core.text import grouped
from ..host.log import LOG
from ..lmod.bundle import SUFFIX
from ..lmod.find import CHECK_NAME
from ..state.context import Context
from .fleet import own_reports
from .queues import job_options, job_seconds, limits_of, queues_for

JOIN_SECONDS = 60.0  # for other nodes, after the first one is up
UNPACK_SECONDS = 180.0  # for Lmod on a node: its converge timer repeats every 30 s


def wait_for_nodes(ctx: Context) -> tuple[SlurmNode, ...]:
    """Waits until compute nodes are up and none is joining, at most ``JOIN_SECONDS`` after the first is up.

    With ``check.launch`` a node is started in each queue that has none running, and waited for as long as it may come.

    Returns:
        All nodes that are not powered down; empty if none is up within ``check.wait`` seconds.
    """
    limits = limits_of(ctx) if ctx.config.check.launch else {}
    launched = launch_nodes(ctx, _in_queues(ctx, known_nodes(ctx.system), limits), limits)
    deadline = time.monotonic() + ctx.config.check.wait
    first_up: float | None = None
    previous = ""
    try:
        while True:
            known = known_nodes(ctx.system)
            up = [node for node in known if node.up]
            joining = [node for node in known if node.joining]
            pending = pending_queues(ctx, launched, _in_queues(ctx, known, limits))
            now = time.monotonic()
            first_up = first_up or (now if up else None)
            if up and not pending and (not joining or now - (first_up or now) > JOIN_SECONDS):
                return tuple(node for node in known if not node.powered_down)
            if now >= deadline or (launched and not pending and not up and not joining):
                return tuple(up)
            message = f"waiting for compute nodes: {len(up)} up, {len(joining)} joining"
            message += f", none in {folded(pending)} yet" if pending else ""
            if message != previous:
                ctx.note(message)
                ctx.progress(message)
                previous = message
            time.sleep(min(POLL, deadline - now))
    finally:
        if launched:
            cancel_launch(ctx)


def _in_queues(ctx: Context, known: Sequence[SlurmNode], limits: Mapping[str, Partition]) -> list[SlurmNode]:
    """The nodes that can be checked, each with the partition that is tried first."""
    queues = ((node, queues_for(ctx, node, limits)) for node in known)
    return [replace(node, partition=names[0]) for node, names in queues if names]


def wait_for_lmod(ctx: Context, candidates: Sequence[SlurmNode]) -> None:
    """Waits for nodes that started before the release to unpack its Lmod, at most ``UNPACK_SECONDS``.

    Returns at once if the release carries no Lmod. The proof reports nodes that still have none.
    """
    if not any(ctx.paths.lmod_packs(ctx.desired_release).glob(f"*/*{SUFFIX}")):
        return
    deadline = time.monotonic() + UNPACK_SECONDS
    names = {node.name for node in candidates if node.up}
    previous = ""
    while time.monotonic() < deadline:
        waiting = [
            report.node
            for report in own_reports(ctx).values()
            if report.node in names
            and any(finding.check == CHECK_NAME and finding.severity is Severity.FAIL for finding in report.findings)
        ]
        if not waiting:
            return
        message = f"waiting for {folded(waiting)} to unpack Lmod from the release"
        if message != previous:
            ctx.progress(message)
            previous = message
        time.sleep(POLL)


def launch_nodes(ctx: Context, nodes: Iterable[SlurmNode], limits: Mapping[str, Partition]) -> tuple[str, ...]:
    """Submits a job to each queue whose nodes are all powered down, and returns these queues.

    A queue that refuses the job is noted and left out.
    """
    launched = []
    for queue, group in grouped((node.partition, node) for node in nodes).items() if ctx.config.check.launch else ():
        if all(node.powered_down and not node.joining for node in group):
            try:
                output = Path("/dev/null")
                submit(
                    ctx.system,
                    None,
                    name=_job_name(ctx),
                    queue=queue,
                    minutes=max(1, job_seconds(ctx, queue, limits) // 60),
                    output=output,
                    options=job_options(ctx),
                )
                launched.append(queue)
            except PetalError as error:
                LOG.warning("no node of queue %s can be started: %s", queue, error)
                ctx.note(f"no node of queue {queue} can be started: {error}")
    if launched:
        ctx.note(f"starting a node in {folded(launched)}")
    return tuple(launched)


def pending_queues(ctx: Context, launched: Iterable[str], nodes: Iterable[SlurmNode]) -> tuple[str, ...]:
    """The queues without a node that may still get one: a node joins, or the job waits for one."""
    groups = grouped((node.partition, node) for node in nodes)
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
