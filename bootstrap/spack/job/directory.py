"""The directory of a build job on shared storage, through which the worker on the head node and the job communicate.

``<mount>/petal/build/<run id>/`` exists before the job is submitted, and until no process of the job can be running:

- ``alive``: the worker touches it; the job ends if it is removed, or stays unchanged for ``SILENCE``.
- ``order.json``, ``<target>/scope``, ``<target>/environment``, ``pulled``: the input of the job.
- ``job.sh``: the script for sbatch. It is written last, so without it no job was submitted.
- ``report.json``: written by the job: its progress and its result.

Logs are written to ``<mount>/petal/build-logs/<run id>/``, where they stay.

Each side changes files that exist already: an NFS client may take a name that did not exist for missing for a minute
(nfs(5), lookupcache), but it revalidates a file that it opens.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core import decode
from ...core.deadlines import SILENCE
from ...core.decode import ErrorDict, Name
from ...core.errors import JobError, StateError
from ...core.model import plain
from ...core.paths import Paths
from ...core.text import quoted
from ...host.atomic import write_atomic, write_json
from ...host.files import make_dir, make_own_dir, path_problem, read_json, remove_tree
from ...host.log import LOG
from ...state.store import shaped
from ..driver import Spack

WAITING, RUNNING, DONE = "waiting", "running", "done"


@dataclass(frozen=True)
class Order:
    """The task of a job, and the properties that its node must have.

    Args:
        version, tree, recipes: the Spack to use; it has the same path on every node.
        store: the install tree, below the root.
        modules: the module tree of each target.
        os, glibc, compiler: those of the node that concretized.
        keys: the source of the trees of Spack and recipes, by path (``program.key_at``).
        jobs: cores to use, 0 for all.
        partial: build the other targets too if packages of one target failed.
        locks: how many locks the store's file system allows on one file, None without a limit.
    """

    version: str
    tree: str
    recipes: str
    store: str
    modules: Mapping[Name, str]
    os: str
    glibc: str
    compiler: str
    keys: Mapping[str, str]
    jobs: int = 0
    partial: bool = False
    locks: int | None = None


@dataclass(frozen=True)
class JobReport:
    """Progress and result of a job.

    Args:
        stage: ``waiting`` until the job runs, ``running``, ``done``.
        text: the progress of the build.
        errors: why the job failed; empty if it built everything.
        notes: messages for the operator, in order.
    """

    stage: str = WAITING
    node: str = ""
    text: str = ""
    errors: tuple[ErrorDict, ...] = ()
    notes: tuple[str, ...] = ()


class JobDirectory:
    """The directory of the job of one run."""

    def __init__(self, paths: Paths, run_id: str) -> None:
        self.path = paths.builds / run_id
        self.mount = paths.shared_mount
        self.shared_root = paths.shared_root
        self.job_name = f"petal-build-{run_id}"
        self.script = self.path / "job.sh"
        self.pulled = self.path / "pulled"  # packages of build caches
        self.logs = paths.build_logs / run_id
        self.output = self.logs / "job.out"  # of the job itself
        self.spack_log = self.logs / "spack.log"
        self._alive = self.path / "alive"
        self._order = self.path / "order.json"
        self._report = self.path / "report.json"

    @classmethod
    def at(cls, path: Path) -> JobDirectory:
        """The directory that a job gets as its argument: ``<mount>/petal/build/<run id>``, as in ``Paths.builds``."""
        return cls(Paths(Path("/"), str(path.parents[2])), path.name)

    def create(self) -> None:
        """Makes the directory, and removes one that a killed run with the same id has left."""
        remove_tree(self.path)
        make_own_dir(self.path, self.mount)
        self.write_report(JobReport())
        write_atomic(self._alive, b"")

    def prepare(self, order: Order, spacks: Mapping[str, Spack], script: str) -> None:
        """Writes the input of the job."""
        make_own_dir(self.logs, self.mount)
        self.spack_log.touch()  # on full storage the job could not create it
        for target, spack in spacks.items():
            make_dir(self.path / target)
            shutil.copytree(spack.scope, self.path / target / "scope")
            make_dir(self.path / target / "environment")
            for name in ("spack.yaml", "spack.lock"):
                shutil.copyfile(spack.environment / name, self.path / target / "environment" / name)
        write_json(self._order, plain(order))
        write_atomic(self.script, script.encode(), mode=0o755)

    def order(self) -> Order:
        """The task of the job.

        Raises:
            JobError: ``job-ended``, the directory is gone.
            StateError: the order is damaged, or another user could have changed it.
        """
        raw = self._read(self._order)
        if raw is None:
            raise JobError(f"{self._order} is missing", why="the run of this job has ended", code="job-ended")
        return shaped(self._order, lambda: decode.build(Order, raw))

    def report(self) -> JobReport:
        """What the job has written; StateError if it is damaged, or another user could have changed it."""
        raw = self._read(self._report)
        return JobReport() if raw is None else shaped(self._report, lambda: decode.build(JobReport, raw))

    def write_report(self, report: JobReport) -> None:
        write_json(self._report, plain(report))

    def write_result(self, report: JobReport) -> None:
        """Writes the last report. On full storage the input, which is not needed any more, makes room for it."""
        try:
            self.write_report(report)
        except OSError as error:
            LOG.warning("the result of the job: %s; trying again without the job's input", error)
            for path in self.path.iterdir():
                if path.is_dir():
                    remove_tree(path)
            self.write_report(report)

    def touch(self) -> None:
        """The worker is alive. It works on full storage too."""
        os.utime(self._alive)

    def revoke(self) -> None:
        """Tells the job to end; Slurm is asked for the same, so an error is only logged."""
        try:
            self._alive.unlink(missing_ok=True)
        except OSError as error:
            LOG.warning("%s: %s", self._alive, error)

    def last_sign(self) -> int | None:
        """When the worker touched its file, by the clock of the storage; None if the job must end."""
        try:
            with self._alive.open("rb") as stream:  # open(2) makes an NFS client ask the server (nfs(5), close-to-open)
                return os.fstat(stream.fileno()).st_mtime_ns
        except FileNotFoundError:
            return None

    def _read(self, path: Path) -> dict[str, Any] | None:
        problem = path_problem(path, self.mount)
        if problem:
            raise StateError(f"{path} is not read", why=str(problem), remedy=f"ls -ld {quoted(path)}", code="untrusted")
        return read_json(path)


class WorkerWatch:
    """Whether the worker of a job is alive. Only changes of the file's time count, so clocks need not agree."""

    def __init__(self, directory: JobDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._sign: int | None = 0
        self._changed = clock()

    def problem(self) -> str:
        """Why the job must end, or an empty string. Storage that does not answer counts as silence."""
        now = self._clock()
        try:
            sign = self._directory.last_sign()
        except OSError:
            sign = self._sign
        if sign is None:
            return "the worker has ended the job"
        if sign != self._sign:
            self._sign, self._changed = sign, now
        silence = now - self._changed
        return f"no sign of life of the worker for {silence:.0f} s" if silence > SILENCE else ""
