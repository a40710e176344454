"""The worker's side of a build job: submits it, follows it while it holds the cluster lock, and ends it.

The job writes into the store on behalf of the worker that holds the lock, so it must be gone before the lock is
released. The worker waits for that whenever it ends by itself or by a signal. After a SIGKILL the next holder of the
lock ends the job (``end_abandoned_jobs``), and without one the job ends itself, because its worker is silent.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from ...cluster import slurm
from ...core.deadlines import COMMAND, HEARTBEAT, INSTALL, REFRESH, SILENCE
from ...core.errors import JobError, PetalError, SpackError
from ...core.paths import Paths
from ...core.text import quoted
from ...host.files import remove_tree
from ...host.log import LOG
from ...host.system import PATH, System
from ...state.context import Context
from ..driver import Spack
from ..externals import find_compiler
from ..install import prune
from ..program import key_at
from .directory import DONE, RUNNING, WAITING, JobDirectory, JobReport, Order

LATE_SECONDS = 60.0  # after the end of a job for its report: NFS may show it that late (nfs(5), acregmax)
# For a cancelled job: Slurm's KillWait (30 s), or a node that Slurm cannot reach, until the job has ended itself.
GONE_SECONDS = SILENCE + 30.0
SIGNALLED_SECONDS = 5.0  # the same after a signal to this process: systemd waits ten (TimeoutStopSec)
# clustermgtd launches nodes. Before it runs, ParallelCluster's ResumeProgram marks every node down that a job requests
# (aws-parallelcluster-node: slurm_plugin/resume.py, clustermgtd_timeout), so no job may be submitted.
CLUSTERMGTD = "/opt/slurm/etc/pcluster/.slurm_plugin/clustermgtd_heartbeat"
CLUSTERMGTD_SECONDS = 300.0
OTHER_QUEUE = "another install.queue than {queue}, or install: {{where: head}}, in the configuration"
SCRIPT = """\
#!/bin/sh
# Runs the petal-node that has submitted this job, from a verified copy on the disk of this node.
export PATH={path} LANG=C.UTF-8 HOME=/root{python}
is_right() {{ echo "{sha256}  {sha256}" | sha256sum --check --status 2>/dev/null; }}
mkdir -p {cache} && cd {cache} || exit
is_right || {{ cp {archive} .{sha256}.$$ && mv -f .{sha256}.$$ {sha256}; }} || exit
is_right || {{ echo {archive} has another checksum than its name and is not run; exit 1; }}
chmod 755 {sha256}
exec ./{sha256} build-job --run-id {run} {directory}
"""


@contextmanager
def job_directory(ctx: Context) -> Iterator[JobDirectory]:
    """The directory of this run's job. At the end of the block no process of the job is alive, if one was submitted."""
    directory = JobDirectory(ctx.paths, ctx.run_id)
    patience = GONE_SECONDS
    try:
        directory.create()
        yield directory
    except Exception:
        raise
    except BaseException:  # a signal: the sender does not wait long
        patience = SIGNALLED_SECONDS
        raise
    finally:
        end_job(ctx.system, directory, patience)


def order_of(ctx: Context, spacks: Mapping[str, Spack]) -> Order:
    """The task of the job: the stack of this run, one Spack for each target."""
    spack, host, install = next(iter(spacks.values())), ctx.facts.host, ctx.config.install
    sources = [source for source in spack.program.sources if source.directory != spack.program.clingo]
    return Order(
        version=spack.program.version,
        tree=str(spack.program.tree),
        recipes=str(spack.program.recipes),
        store=str(spack.places.store),
        modules={target: str(each.places.modules) for target, each in spacks.items()},
        os=host.os,
        glibc=host.glibc,
        compiler=find_compiler(ctx.system).spec,
        keys={str(each.directory): key_at(each.directory) for each in sources},
        jobs=install.jobs,
        partial=install.partial,
        locks=spack.locks,
    )


def build_in_job(
    ctx: Context,
    directory: JobDirectory,
    spacks: Mapping[str, Spack],
    queue: str,
    tell: Callable[[str], None],
) -> tuple[SpackError, ...]:
    """Installs the lockfiles of ``spacks`` in one job on a node of the queue.

    Args:
        tell: called with each message of the job for the operator.

    Returns:
        Why packages are not installed, as from an install on this node.

    Raises:
        JobError: the job did not start, or ended without a result.
        LockLost: another process has the lock.
    """
    deadline = time.monotonic() + ctx.config.install.wait
    seconds = wait_for_queue(ctx, queue, deadline)
    directory.prepare(order_of(ctx, spacks), spacks, _script(ctx, directory))
    prune(ctx.paths.build_logs)
    number = slurm.submit(
        ctx.system,
        directory.script,
        name=directory.job_name,
        queue=queue,
        minutes=max(1, seconds // 60),
        output=directory.output,
        options=("--exclusive", "--mem=0", "--open-mode=append"),
    )
    LOG.info("job %s on queue %s builds, its log is %s", number, queue, directory.spack_log, extra={"step": "spack"})
    report = _follow(ctx, directory, number, queue, deadline, tell)
    return tuple(
        SpackError(raw["what"], why=raw["why"], remedy=raw["remedy"], code=raw["code"]) for raw in report.errors
    )


def end_abandoned_jobs(paths: Paths, system: System) -> None:
    """Ends the jobs of runs that were killed. The holder of the cluster lock calls it before it changes anything."""
    for path in sorted(paths.builds.iterdir()) if paths.builds.is_dir() else ():
        LOG.warning("run %s was killed and has left the directory of a build job", path.name)
        end_job(system, JobDirectory(paths, path.name), GONE_SECONDS)
        remove_tree(path)


def end_job(system: System, directory: JobDirectory, patience: float) -> None:
    """Ends the job of a directory and removes the directory.

    If the job is not seen to end within ``patience`` seconds because Slurm or its node does not answer, the directory
    stays for the next holder of the lock; after ``GONE_SECONDS`` the job has ended itself.
    """
    try:
        was_submitted = directory.script.exists()
    except OSError:  # the storage is stale or gone
        was_submitted = True
    gone = True
    if was_submitted:
        directory.revoke()
        gone = slurm.wait_until_gone(system, directory.job_name, patience, cancelling=True)
    if not gone and patience >= GONE_SECONDS:
        LOG.warning("the end of %s was not seen; it has ended itself by now", directory.job_name)
    if gone or patience >= GONE_SECONDS:
        remove_tree(directory.path)


def wait_for_queue(ctx: Context, queue: str, deadline: float) -> int:
    """Waits until nodes of the queue are up or can be launched, and returns the time limit of a job there, in seconds.

    Raises:
        JobError: ``job-queue``, Slurm has no such queue; ``job-not-started``.
    """
    most = round(INSTALL)
    while True:
        obstacle, seconds = _obstacle(ctx, queue)
        if not obstacle:
            return min(seconds or most, most)
        if time.monotonic() >= deadline:
            raise _not_started(ctx, queue, obstacle)
        ctx.progress(f"waiting for queue {queue}, which is to build: {obstacle}")
        ctx.confirm()
        time.sleep(min(REFRESH, max(0.0, deadline - time.monotonic())))


def _obstacle(ctx: Context, queue: str) -> tuple[str, int | None]:
    """Why no job can run in the queue now, or an empty string; and the queue's time limit."""
    try:
        queues = slurm.partitions(ctx.system)
        nodes = slurm.nodes(ctx.system, queue) if queue in queues else ()
    except PetalError as error:
        return str(error), None
    if queue not in queues:
        raise JobError(
            f"Slurm has no queue {queue}",
            why=f"it has {', '.join(sorted(queues)) or 'none'}",
            remedy=OTHER_QUEUE.format(queue=queue),
            code="job-queue",
        )
    partition = queues[queue]
    if partition.state != "up":
        return f"the queue is {partition.state}", None
    try:
        launching = abs(time.time() - ctx.paths.at(CLUSTERMGTD).stat().st_mtime) < CLUSTERMGTD_SECONDS
    except OSError:
        launching = False
    if not launching and not any(node.up for node in nodes):
        why = slurm.states(node for node in nodes if not node.powered_down)
        return why or "none of its nodes is up, and ParallelCluster does not launch nodes yet", None
    return "", partition.seconds


def _follow(
    ctx: Context, directory: JobDirectory, number: str, queue: str, deadline: float, tell: Callable[[str], None]
) -> JobReport:
    """Keeps the job alive and passes on its messages until it has written its result."""
    job: slurm.Job | None = None
    ended: float | None = None
    logged = float("-inf")
    text, messages = "", 0
    while True:
        ctx.confirm()
        directory.touch()
        try:  # a restarted run has the id that it had before, so Slurm may remember an earlier job of the same name
            current = next((each for each in slurm.jobs(ctx.system, directory.job_name) if each.id == number), None)
            job = current or job
            ended = None if current and not current.ended else ended or time.monotonic()
        except PetalError as error:  # the job may run all the same
            LOG.warning("squeue: %s", error)
        report = directory.report()  # after squeue, so that the report of an ended job is its last one
        for note in report.notes[messages:]:
            tell(note)
        messages = max(messages, len(report.notes))
        if report.stage == DONE:
            slurm.wait_until_gone(ctx.system, directory.job_name, COMMAND, cancelling=False)
            return report
        now = time.monotonic()
        previous, text = text, f"{job or f'job {number} is submitted'}, on queue {queue}"
        if report.stage == RUNNING:
            text = f"job {number} on {report.node}, queue {queue}: {report.text or 'it begins'}"
        if text != previous:  # the second line names a file that every node can read
            ctx.progress(f"{text}\nlog  {directory.spack_log}" if report.stage == RUNNING else text)
            if now - logged >= HEARTBEAT:
                logged = now
                LOG.info("%s", text, extra={"step": "spack"})
        killed = job is not None and job.ended and job.state not in ("COMPLETED", "FAILED")  # it writes no report
        if ended is not None and now - ended > (0.0 if killed else LATE_SECONDS):
            raise JobError(
                f"the build job on queue {queue} ended without a result",
                why=str(job or f"Slurm does not know job {number} any more"),
                remedy=(
                    f"less {quoted(directory.output)}",
                    "petal-node bootstrap    # continues; installed packages stay",
                    OTHER_QUEUE.format(queue=queue),
                ),
            )
        pending = report.stage == WAITING and not (job and (job.started or job.ended))
        if pending and now > deadline:
            raise _not_started(ctx, queue, str(job or "Slurm does not answer"))
        time.sleep(REFRESH)


def _not_started(ctx: Context, queue: str, why: str) -> JobError:
    try:
        away = slurm.states(node for node in slurm.nodes(ctx.system, queue) if not node.up and not node.powered_down)
    except PetalError:
        away = ""
    why = f"{why}; {away}" if away and away not in why else why
    return JobError(
        f"no job could run on queue {queue} within {ctx.config.install.wait} s",
        why=why,
        remedy=(f"sinfo -p {queue} -R; squeue -p {queue}", OTHER_QUEUE.format(queue=queue), "petal-node bootstrap"),
        code="job-not-started",
    )


def _script(ctx: Context, directory: JobDirectory) -> str:
    """The script of the job: it runs the same petal-node as this one, whatever the node has installed.

    Raises:
        JobError: ``job-not-started``, this petal-node is a checkout, which other nodes cannot run.
    """
    if ctx.tool.sha256 is None:
        what = "a checkout of petal-node cannot build in a job"
        raise JobError(what, remedy="make dist, and run dist/petal-node", code="job-not-started")
    python = os.environ.get("PETAL_PYTHON")
    return SCRIPT.format(
        path=PATH,
        python=f" PETAL_PYTHON={shlex.quote(python)}" if python else "",
        sha256=ctx.tool.sha256,
        archive=shlex.quote(str(ctx.paths.archives / ctx.tool.sha256)),
        cache=shlex.quote(str(ctx.paths.scratch.parent)),
        run=shlex.quote(ctx.run_id),
        directory=shlex.quote(str(directory.path)),
    )
