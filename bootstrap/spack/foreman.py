"""The worker's side of a build job: submits it, follows it while it holds the lock, and never leaves one behind.

The job writes into the store for the worker that holds the lock, so it must be gone before the lock is. The worker sees
to that when it ends in any way that it notices; after a SIGKILL the next holder of the lock does (``end_left``), and
the job by itself once its lease is over.
"""

from __future__ import annotations

import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .. import batch
from ..context import Context
from ..errors import JobError, PetalError, SpackError, StateError
from ..files import make_dir, remove_tree
from ..log import LOG
from ..paths import Paths
from ..slurm import nodes, partitions
from ..system import PATH, System
from .compiler import find_compiler
from .driver import INSTALL_SECONDS, Spack
from .install import prune
from .order import DONE, LEASE_SECONDS, RENEW_SECONDS, RUNNING, SCRIPT, Desk, Order, State

# What a cancelled job may take: Slurm's KillWait (30 s) and a node that it does not reach. By then the lease is over.
GONE_SECONDS = LEASE_SECONDS + 30.0
SIGNALLED_SECONDS = 5.0  # systemd gives a unit that is stopped ten
ENDING_SECONDS = 15.0  # of a job that has said how it ended
FOLLOW_SECONDS = 1.0
ASK_SECONDS = 5.0
# A job that has ended has written its state before; NFS may show it later.
LATE_SECONDS = 60.0
# clustermgtd launches nodes. Before it runs, ParallelCluster's ResumeProgram marks every node down that a job asks for
# (aws-parallelcluster-node: slurm_plugin/resume.py, clustermgtd_timeout), so no job may be submitted.
HEARTBEAT = "/opt/slurm/etc/pcluster/.slurm_plugin/clustermgtd_heartbeat"
HEARTBEAT_SECONDS = 300.0


def build_in_job(ctx: Context, spacks: Mapping[str, Spack], queue: str) -> tuple[SpackError, ...]:
    """Installs the lockfiles of ``spacks`` in one job on a node of the queue.

    Returns:
        What failed in the job, as from an install on this node; logs are copied to where they would be.

    Raises:
        JobError: the job did not start or did not come to its end.
        LockLost: somebody else has the lock; the job is cancelled.
    """
    minutes = _wait_for_queue(ctx, queue)
    desk = Desk.of(ctx.paths, ctx.run_id)
    patience = GONE_SECONDS
    try:
        desk.open()
        desk.give(_order(ctx, spacks), spacks, _script(ctx, desk))
        state = _Follower(ctx, desk, queue, minutes).run()
    except Exception:
        raise
    except BaseException:  # a signal: somebody waits for this process to go
        patience = SIGNALLED_SECONDS
        raise
    finally:
        _keep_logs(ctx, desk)
        end_job(ctx.system, desk, patience)
    return tuple(_as_here(ctx, desk, raw) for raw in state.errors)


def end_left(paths: Paths, system: System) -> None:
    """Ends the jobs of runs that were killed; called by whoever has just taken the lock, before it writes."""
    for place in sorted(paths.builds.iterdir()) if paths.builds.is_dir() else ():
        LOG.warning("run %s has left a build job behind", place.name)
        end_job(system, Desk(place, paths.shared_mount), GONE_SECONDS)
        remove_tree(place)


def end_job(system: System, desk: Desk, patience: float) -> None:
    """Makes sure that no job of this desk writes any more, and clears it.

    A job that cannot be seen to end within ``GONE_SECONDS``, since Slurm or its node does not answer, has ended itself:
    its lease was over before.
    """
    if not desk.place.is_dir():
        return
    desk.revoke()
    gone = batch.end(system, desk.name, patience)
    if gone or patience >= GONE_SECONDS:
        if not gone:
            LOG.warning("%s was not seen to end; its lease is over", desk.name)
        remove_tree(desk.place)


def _order(ctx: Context, spacks: Mapping[str, Spack]) -> Order:
    spack = next(iter(spacks.values()))
    host, install = ctx.facts.host, ctx.config.install
    return Order(
        run_id=ctx.run_id,
        version=spack.program.version,
        tree=str(spack.program.tree),
        recipes=str(spack.program.recipes),
        store=str(spack.places.store),
        backing=str(ctx.paths.shared_root / spack.places.store.name),
        modules={target: str(each.places.modules) for target, each in spacks.items()},
        scratch=str(spack.places.scratch),
        os=host.os,
        glibc=host.glibc,
        compiler=find_compiler(ctx.system).spec,
        jobs=install.jobs,
        partial=install.partial,
    )


def _script(ctx: Context, desk: Desk) -> str:
    """The same petal-node as this one, whatever the node itself has by now.

    Raises:
        JobError: ``job-refused``, this one is no archive that other nodes could run.
    """
    if ctx.tool.sha256 is None:
        what = "a checkout of petal-node cannot build in a job"
        raise JobError(what, remedy="make dist, and run dist/petal-node", code="job-refused")
    chosen = os.environ.get("PETAL_PYTHON")
    return SCRIPT.format(
        path=PATH,
        python=f" PETAL_PYTHON={shlex.quote(chosen)}" if chosen else "",
        python_name=" PETAL_PYTHON" if chosen else "",
        archive=shlex.quote(str(ctx.paths.archives / ctx.tool.sha256)),
        run=shlex.quote(ctx.run_id),
        place=shlex.quote(str(desk.place)),
    )


def _wait_for_queue(ctx: Context, queue: str) -> int:
    """Until nodes of the queue are up or can be launched; the time that a job may have there, in minutes.

    Raises:
        JobError: ``job-queue``, Slurm has no such queue; ``job-not-started``.
    """
    deadline = time.monotonic() + ctx.config.install.wait
    while True:
        why, minutes = _obstacle(ctx, queue)
        if not why:
            return min(minutes or round(INSTALL_SECONDS / 60), round(INSTALL_SECONDS / 60))
        if time.monotonic() >= deadline:
            raise _not_started(ctx, queue, why)
        ctx.progress(f"a job on queue {queue} is to build it: {why}")
        ctx.confirm()
        time.sleep(min(ASK_SECONDS, max(0.0, deadline - time.monotonic())))


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
            remedy=batch.elsewhere(queue),
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


def _not_started(ctx: Context, queue: str, why: str) -> JobError:
    return JobError(
        f"no job could run on queue {queue} within {ctx.config.install.wait} s",
        why=why,
        remedy=(f"sinfo -p {queue} -R; squeue -p {queue}", *batch.elsewhere(queue), "petal-node bootstrap"),
        code="job-not-started",
    )


class _Follower:
    """One job from its submission to its end, as the worker sees it."""

    def __init__(self, ctx: Context, desk: Desk, queue: str, minutes: int) -> None:
        self._ctx = ctx
        self._desk = desk
        self._queue = queue
        self._beat = 0
        self._renewed = self._asked = float("-inf")
        self._said = ""
        self._job: batch.Job | None = None
        self._ended: float | None = None
        self._submitted = time.monotonic()
        self._minutes = minutes

    def run(self) -> State:
        """Submits the job and goes with it; the state that it left.

        Raises:
            JobError: ``job-refused``, ``job-not-started``, ``job-ended``.
        """
        desk, name = self._desk, self._desk.name
        number = batch.submit(
            self._ctx.system, desk.script, name=name, queue=self._queue, minutes=self._minutes, output=desk.output
        )
        LOG.info("job %s on queue %s builds", number, self._queue, extra={"step": "spack"})
        while True:
            now = time.monotonic()
            self._renew(now)
            state = self._state()
            if state.stage == DONE:
                batch.end(self._ctx.system, name, ENDING_SECONDS, cancel=False)
                return state
            self._look(now)
            self._tell(number, state)
            self._check(now, state)
            time.sleep(FOLLOW_SECONDS)

    def _renew(self, now: float) -> None:
        if now - self._renewed >= RENEW_SECONDS:
            self._ctx.confirm()
            self._renewed, self._beat = now, self._beat + 1
            self._desk.renew(self._beat)

    def _state(self) -> State:
        try:
            return self._desk.state()
        except StateError as error:
            raise JobError("the build job's state cannot be read", why=str(error), remedy=error.remedy) from error

    def _look(self, now: float) -> None:
        """Asks Slurm now and then. While it does not answer, the job may well go on."""
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        try:
            jobs = batch.look(self._ctx.system, self._desk.name)
        except PetalError as error:
            LOG.warning("squeue: %s", error)
            return
        self._job = jobs[-1] if jobs else self._job
        if not jobs or self._job is None or self._job.ended:
            self._ended = self._ended or now

    def _tell(self, number: str, state: State) -> None:
        if state.stage == RUNNING:
            text = f"job {number} on {state.node}: {state.text or 'it begins'}"
        else:
            text = f"{self._job or f'job {number} is submitted'}, on queue {self._queue}"
        if text != self._said:
            self._said = text
            self._ctx.progress(text)

    def _check(self, now: float, state: State) -> None:
        """Whether it is still worth waiting."""
        if self._ended is not None and now - self._ended > (0 if self._is_lost else LATE_SECONDS):
            raise self._lost()
        waits = state.stage != RUNNING and not (self._job and (self._job.started or self._job.ended))
        if waits and now - self._submitted > self._ctx.config.install.wait:
            raise _not_started(self._ctx, self._queue, str(self._job or "Slurm does not tell"))

    @property
    def _is_lost(self) -> bool:
        """It ended in a way in which nothing more is written."""
        return self._job is not None and self._job.ended and self._job.state not in ("COMPLETED", "FAILED")

    def _lost(self) -> JobError:
        queue, output = self._queue, _kept(self._ctx) / self._desk.output.name
        return JobError(
            f"the build job on queue {queue} ended before it was done",
            why=str(self._job or "Slurm knows it no more"),
            remedy=(f"less {output}", "petal-node bootstrap    (what is built stays)", *batch.elsewhere(queue)),
        )


def _kept(ctx: Context) -> Path:
    """Where logs of this run are, as after an install on this node."""
    return ctx.paths.log.parent / "petal-node" / ctx.run_id


def _keep_logs(ctx: Context, desk: Desk) -> None:
    """Takes the job's words to this node before they are removed. What cannot be had costs the logs."""
    try:
        _copy((desk.output, *sorted((desk.logs / ctx.run_id).glob("*.log"))), _kept(ctx))
        prune(_kept(ctx).parent)
        if desk.said.is_file():
            with desk.said.open("rb") as said, _said(ctx).open("ab") as log:
                shutil.copyfileobj(said, log)
    except OSError as error:
        LOG.warning("the logs of the build job: %s", error)


def _said(ctx: Context) -> Path:
    return ctx.paths.log.parent / "petal-node" / f"spack-{ctx.run_id}.log"


def _copy(files: Sequence[Path], target: Path) -> None:
    make_dir(target)
    for path in files:
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def _as_here(ctx: Context, desk: Desk, raw: Mapping[str, object]) -> SpackError:
    """An error of the job, whose logs lie on this node by now."""
    places = ((str(desk.logs / ctx.run_id), str(_kept(ctx))), (str(desk.said), str(_said(ctx))))

    def here(text: object) -> str:
        told = str(text)
        for there, kept in places:
            told = told.replace(there, kept)
        return told

    remedy = raw.get("remedy")
    lines = [here(line) for line in remedy] if isinstance(remedy, (list, tuple)) else []
    return SpackError(here(raw["what"]), why=here(raw["why"]), remedy=lines, code=str(raw["code"]))
