"""``build-job DIR``: what a Slurm job runs for ``install.where: slurm``; nobody types it."""

from __future__ import annotations

import signal
from pathlib import Path

from ..cluster import detect as facts
from ..core.errors import ExitCode
from ..core.model import Result, Role, Status
from ..engine.run import Terminated
from ..spack.job.builder import Builder
from ..spack.job.order import JobDirectory
from .common import Asked, require_root


def build(asked: Asked, place: Path) -> Result:
    """Builds what the order in ``place`` says; processes that it leaves end with it."""
    require_root(asked)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    paths = asked.paths()
    host = facts.gather(paths, asked.system, Role.COMPUTE).host
    directory = JobDirectory(place, place.parents[2])
    try:
        errors = Builder(directory, host, asked.system, paths.scratch / "build-job", asked.note).run()
    except Terminated:
        return Result(asked.command, "lines", Status.FAILED, {"lines": ["cancelled"]}, exit=int(ExitCode.TERMINATED))
    finally:
        asked.system.end_run(asked.run_id)
    told = tuple(error.to_dict() for error in errors)
    status = Status.FAILED if errors else Status.CHANGED
    return Result(asked.command, "lines", status, {"lines": [f"built on {host.name}"]}, told, asked.run_id)


def _terminate(_number: int, _frame: object) -> None:
    raise Terminated
