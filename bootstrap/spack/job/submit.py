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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ...cluster import slurm
from ...core.errors import JobError, SpackError
from ...core.paths import Paths
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import PATH, System
from ...state.context import Context
from ..compiler import find_compiler
from ..driver import Spack
from ..install import prune
from ..program import key_at
from .capacity import wait_for_queue
from .follow import Follower
from .order import LEASE_SECONDS, SCRIPT, JobDirectory, Order

# What a cancelled job may take: Slurm's KillWait (30 s) and a node that it does not reach. By then the lease is over.
GONE_SECONDS = LEASE_SECONDS + 30.0
SIGNALLED_SECONDS = 5.0  # where somebody waits for this process to go; systemd gives a unit that is stopped ten


@contextmanager
def job_directory(ctx: Context) -> Iterator[JobDirectory]:
    """The directory of this run's job. Behind it no job of this run writes any more, whether one was submitted or not.

    The job's logs are copied to where those of an install on this node would be.
    """
    directory = JobDirectory.of(ctx.paths, ctx.run_id)
    patience = SIGNALLED_SECONDS
    try:
        directory.open()
        yield directory
        patience = GONE_SECONDS
    except Exception:
        patience = GONE_SECONDS
        raise
    finally:
        _keep_logs(ctx, directory)
        end_job(ctx.system, directory, patience)


def build_in_job(
    ctx: Context,
    directory: JobDirectory,
    spacks: Mapping[str, Spack],
    queue: str,
    locks: int | None,
    say: Callable[[str], None],
) -> tuple[SpackError, ...]:
    """Installs the lockfiles of ``spacks`` in one job on a node of the queue.

    Args:
        directory: with what build caches have.
        locks: how many locks the store's file system allows on one file, None where it has no limit.
        say: gets what the job has to say besides how far it is.

    Returns:
        What failed in the job, as from an install on this node.

    Raises:
        JobError: the job did not start or did not come to its end.
        LockLost: somebody else has the lock.
    """
    deadline = time.monotonic() + ctx.config.install.wait
    minutes = wait_for_queue(ctx, queue, deadline)
    directory.give(_order(ctx, spacks, locks), spacks, _script(ctx, directory))
    state = Follower(ctx, directory, queue, minutes, deadline, say).run()
    return tuple(_as_here(ctx, directory, raw) for raw in state.errors)


def end_left(paths: Paths, system: System) -> None:
    """Ends the jobs of runs that were killed; called by whoever has just taken the lock, before it writes."""
    for place in sorted(paths.builds.iterdir()) if paths.builds.is_dir() else ():
        LOG.warning("run %s has left the directory of a build job behind", place.name)
        end_job(system, JobDirectory(place, paths.shared_mount), GONE_SECONDS)
        remove_tree(place)


def end_job(system: System, directory: JobDirectory, patience: float) -> None:
    """Makes sure that no job of this directory writes any more, and clears it.

    A job that cannot be seen to end within ``GONE_SECONDS``, since Slurm or its node does not answer, has ended itself:
    its lease was over before.
    """
    if not directory.may_have_job:
        remove_tree(directory.place)
        return
    directory.revoke()
    gone = slurm.wait_until_gone(system, directory.name, patience, cancelling=True)
    if gone or patience >= GONE_SECONDS:
        if not gone:
            LOG.warning("%s was not seen to end; its lease is over", directory.name)
        remove_tree(directory.place)


def _order(ctx: Context, spacks: Mapping[str, Spack], locks: int | None) -> Order:
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
        keys={str(tree): key_at(tree) for tree in spack.program.trees},
        jobs=install.jobs,
        partial=install.partial,
        locks=locks,
    )


def _script(ctx: Context, directory: JobDirectory) -> str:
    """The same petal-node as this one, whatever the node itself has by now: copied there, compared, and run.

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
        sha256=ctx.tool.sha256,
        archive=shlex.quote(str(ctx.paths.archives / ctx.tool.sha256)),
        cache=shlex.quote(str(ctx.paths.scratch.parent)),
        run=shlex.quote(ctx.run_id),
        place=shlex.quote(str(directory.place)),
    )


def _keep_logs(ctx: Context, directory: JobDirectory) -> None:
    """Takes the job's words to this node before they are removed. What cannot be had costs the logs."""
    if not directory.may_have_job:
        return
    try:
        logs = ctx.paths.run_logs(ctx.run_id)
        _copy((directory.output, *sorted((directory.logs / ctx.run_id).glob("*.log"))), logs)
        prune(logs.parent)
        if directory.said.is_file():
            with directory.said.open("rb") as said, ctx.paths.spack_log(ctx.run_id).open("ab") as log:
                shutil.copyfileobj(said, log)
    except OSError as error:
        LOG.warning("the logs of the build job: %s", error)


def _copy(files: Sequence[Path], target: Path) -> None:
    make_dir(target)
    for path in files:
        if path.is_file():
            shutil.copyfile(path, target / path.name)


def _as_here(ctx: Context, directory: JobDirectory, raw: Mapping[str, object]) -> SpackError:
    """An error of the job, whose logs lie on this node by now."""
    logs, log = ctx.paths.run_logs(ctx.run_id), ctx.paths.spack_log(ctx.run_id)
    places = ((str(directory.logs / ctx.run_id), str(logs)), (str(directory.said), str(log)))

    def here(text: object) -> str:
        told = str(text)
        for there, place in places:
            told = told.replace(there, place)
        return told

    remedy = raw.get("remedy")
    lines = [here(line) for line in remedy] if isinstance(remedy, (list, tuple)) else []
    return SpackError(here(raw["what"]), why=here(raw["why"]), remedy=lines, code=str(raw["code"]))
