"""A head node whose stack is built in a job, with a fake Slurm that runs the job of the queue's node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.cluster import slurm as slurm_commands
from bootstrap.cluster.slurm import ENDED
from bootstrap.core.model import StepReport, Tool
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import sha256_of
from bootstrap.spack.job import worker
from bootstrap.spack.job.directory import JobDirectory
from bootstrap.spack.job.on_node import BuildJob
from tests.world import HOST, World, with_spack

INSTALL = "install: {{where: slurm, queue: {queue}, wait: {wait}}}\n"
NODE = replace(HOST, name="q1-st-c5-1", cpus=64, memory=128 << 30)


class Slurm:
    """Slurm with one queue: each squeue for a job advances its node and prints the job's state."""

    def __init__(self, world: World, node: Callable[[Path], str]) -> None:
        self.world = world
        self.node = node
        self.jobs: dict[str, list[str]] = {}  # job name -> state and path of the script
        self.sbatch: tuple[str, ...] = ()
        world.system.answers |= {
            "sbatch": self._sbatch, "squeue": self._squeue, "scancel": self._scancel, "sinfo": self._sinfo,
        }  # fmt: skip

    def _sinfo(self, argv: Sequence[str]) -> str:
        if "--Node" in argv:
            return "q1-st-c5-1|idle|q1*|none\n"
        return "q1|up|infinite\nq2|up|30:00\n"

    def _sbatch(self, argv: Sequence[str]) -> str:
        self.sbatch = tuple(argv)
        name = next(word for word in argv if word.startswith("--job-name=")).partition("=")[2]
        self.jobs[name] = ["PENDING", argv[-1]]
        return "12\n"

    def _squeue(self, argv: Sequence[str]) -> str:
        name = next(word for word in argv if word.startswith("--name=")).partition("=")[2]
        job = self.jobs.get(name)
        if job is None:
            return ""
        if job[0] not in ENDED:
            job[0] = self.node(Path(job[1]).parent)
        return f"12|root|0|{job[0]}|None\n"

    def _scancel(self, argv: Sequence[str]) -> str:
        name = next(word for word in argv if word.startswith("--name=")).partition("=")[2]
        if name in self.jobs and self.jobs[name][0] not in ENDED:
            self.jobs[name][0] = "CANCELLED"
        return ""


def head(tmp_path: Path, queue: str = "q1", wait: int = 60) -> World:
    archive = tmp_path / "petal-node"
    archive.write_text("the archive")
    tool = Tool("0.1.0", archive, sha256_of(archive))
    text = with_spack(tmp_path) + INSTALL.format(queue=queue, wait=wait)
    return World(tmp_path / "head", live=True, config_text=text, tool=tool)


def emulate_node_without_waiting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Replace the tests for a separate disk and Lmod, which a directory does not have, and remove waiting times."""
    (tmp_path / "lmod" / "libexec").mkdir(parents=True)
    (tmp_path / "lmod" / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"),))
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    for module, name in ((worker, "REFRESH"), (worker, "LATE_SECONDS"), (slurm_commands, "POLL")):
        monkeypatch.setattr(module, name, 0.01)


def builds(world: World, **other: object) -> Callable[[Path], str]:
    """A node that executes the order with this world's programs."""

    def node(place: Path) -> str:
        host = replace(NODE, **other)  # type: ignore[arg-type]
        BuildJob(JobDirectory.at(place), host, world.system, world.prefix / "scratch", lambda _: None).run()
        return "COMPLETED"

    return node


def in_time(node: Callable[[Path], str], *states: str) -> Callable[[Path], str]:
    """A node whose job has the given states, one per squeue, before it starts."""
    left = list(states)
    return lambda place: left.pop(0) if left else node(place)


def converge(world: World, note: Callable[[str], None] = print) -> tuple[dict[str, StepReport], list[str]]:
    events: list[StepReport] = []
    ctx = replace(world.context, services=replace(world.services, note=note))
    reports = engine.converge(STEPS, ctx, events.append, background=False)
    return {report.name: report for report in reports}, [report.reason for report in events if report.name == "spack"]


def job_directories(world: World) -> list[Path]:
    return sorted(world.paths.builds.iterdir()) if world.paths.builds.is_dir() else []
