"""``build-job DIR``: the program of the Slurm job for ``install.where: slurm``; only the script of the job calls it."""

from __future__ import annotations

import signal
from dataclasses import replace

from ..cluster import detect
from ..core.deadlines import REFRESH
from ..core.errors import ExitCode, JobError
from ..core.model import Lines, Result, Role, Status, failed
from ..core.options import Options
from ..host.processes import Terminated
from ..spack.job.directory import JobDirectory, WorkerWatch
from ..spack.job.on_node import BuildJob
from ..state.context import Services
from .common import require_root


def build(options: Options, services: Services) -> Result[Lines] | Result[None]:
    """Builds the order in ``options.directory``. The processes of the build end with this one.

    The job ends if Slurm cancels it, or if a timer finds that its worker has ended or is silent: a job must not write
    into the store when the next holder of the cluster lock does.
    """
    require_root(options, services)
    directory = JobDirectory.at(options.directory)
    watch = WorkerWatch(directory)

    def cancel(number: int, _frame: object) -> None:
        problem = watch.problem() if number == signal.SIGALRM else "Slurm has cancelled it"
        if problem:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Terminated(problem)

    signals = (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    for number in signals:
        signal.signal(number, cancel)
    host = detect.gather(options.paths, services.system, Role.COMPUTE).host
    try:
        signal.setitimer(signal.ITIMER_REAL, REFRESH, REFRESH)
        errors = BuildJob(directory, host, services.system, options.paths.scratch, services.note).run()
    except Terminated as end:
        error = JobError("the build job was ended", why=str(end), code="job-ended")
        return replace(failed(options.command, error, services.run_id), exit=int(ExitCode.TERMINATED))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number in signals:  # another one must not interrupt the end of the builders
            signal.signal(number, signal.SIG_IGN)
        services.system.end_run(services.run_id)
    failures = tuple(error.to_dict() for error in errors)
    status = Status.FAILED if errors else Status.CHANGED
    return Result(options.command, status, Lines((f"built on {host.name}",)), failures, services.run_id)
