"""``build-job DIR``: what a Slurm job runs for ``install.where: slurm``; only a job script runs it."""

from __future__ import annotations

import signal

from ..cluster import detect as facts
from ..core.errors import ExitCode
from ..core.model import Lines, Result, Role, Status
from ..core.options import Options
from ..engine.run import Terminated
from ..spack.job.builder import Builder
from ..spack.job.order import JobDirectory
from .common import Services, require_root


def build(options: Options, services: Services) -> Result[Lines]:
    """Builds what the order in ``options.directory`` says; processes that it leaves end with it."""
    require_root(options, services)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    paths = options.paths
    host = facts.gather(paths, services.system, Role.COMPUTE).host
    directory = JobDirectory(options.directory, options.directory.parents[2])
    try:
        errors = Builder(directory, host, services.system, paths.scratch / "build-job", services.note).run()
    except Terminated:
        return Result(options.command, Status.FAILED, Lines(("cancelled",)), exit=int(ExitCode.TERMINATED))
    finally:
        services.system.end_run(services.run_id)
    failures = tuple(error.to_dict() for error in errors)
    status = Status.FAILED if errors else Status.CHANGED
    return Result(options.command, status, Lines((f"built on {host.name}",)), failures, services.run_id)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated
