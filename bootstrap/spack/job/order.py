"""What the worker and its build job tell each other, in a directory on shared storage.

The worker writes ``order.json``, each target's scope and environment, and again and again ``lease``; the job writes
``state.json`` (how far it is, how it ended) and logs. The directory is there from before the job is submitted until it
is certainly gone: whoever takes the lock next ends what a directory that is left stands for.

Each side replaces files that are there already: on NFS a name that did not exist may be taken for absent for a minute
(nfs(5), lookupcache), while a file is looked at anew whenever it is opened.

What is built lies on the same storage and may fill it. How far a job is can then not be told, and that costs nothing
else; how it ended goes where ``room`` was, and the lease lives on by its file's time.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core import decode as shapes
from ...core.errors import JobError, StateError
from ...core.model import plain
from ...core.paths import Paths
from ...host.atomic import write_atomic, write_json
from ...host.files import distrust, make_dir, make_own_dir, read_json, remove_tree
from ...host.log import LOG
from ...state.store import shaped
from ..driver import Spack

# A job that has seen no sign of life of its worker for so long ends by itself. Longer than what NFS may keep of
# a directory (60 s by nfs(5), acdirmax), much shorter than anybody would wait for a lock.
LEASE_SECONDS = 120.0
RENEW_SECONDS = 10.0
LOOK_SECONDS = 5.0
REVOKED = "revoked"
WAITING, RUNNING, DONE = "waiting", "running", "done"
ROOM = 1 << 18  # bytes; more than the errors of an install take
NAME = "petal-build-"
SCRIPT = """\
#!/bin/sh
PATH={path} LANG=C.UTF-8 HOME=/root{python}
export PATH LANG HOME{python_name}
is_right() {{ echo "{sha256}  $1" | sha256sum --check --status 2>/dev/null; }}
mkdir -p {cache} || exit
cd {cache} || exit
is_right {sha256} || {{ cp {archive} .{sha256}.$$ && mv -f .{sha256}.$$ {sha256}; }} || exit
is_right {sha256} || {{ echo {archive} is not what its name says, and is not run; exit 1; }}
chmod 755 {sha256}
exec ./{sha256} build-job --run-id {run} {place}
"""


@dataclass(frozen=True)
class Order:
    """What a job shall build, and what its node must be like.

    Args:
        version, tree, recipes: the Spack to use; every node sees it at the same path.
        store: the install tree, below the root; ``backing`` is the same directory on shared storage.
        modules: the module tree of each target.
        scratch: where Spack's stage and caches go on any node.
        os, glibc, compiler: of the node that concretized.
        keys: what tells the trees of Spack and recipes from others, by their paths (``program.key_at``).
        jobs: cores to use, 0 for all.
        partial: go on with the next target where packages of one could not be built.
        locks: how many locks the store's file system allows on one file, None where it has no limit.
    """

    run_id: str
    version: str
    tree: str
    recipes: str
    store: str
    backing: str
    modules: Mapping[str, str]
    scratch: str
    os: str
    glibc: str
    compiler: str
    keys: Mapping[str, str]
    jobs: int = 0
    partial: bool = False
    locks: int | None = None

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Order:
        texts = ("version", "tree", "recipes", "store", "backing", "scratch", "os", "glibc", "compiler")
        modules = {shapes.name(key): shapes.text(value) for key, value in shapes.mapping(raw["modules"]).items()}
        keys = {shapes.text(key): shapes.text(value) for key, value in shapes.mapping(raw["keys"]).items()}
        return cls(
            run_id=shapes.name(raw["run_id"]), modules=modules, keys=keys, jobs=shapes.whole(raw["jobs"]),
            partial=raw["partial"] is True, locks=None if raw["locks"] is None else shapes.whole(raw["locks"]),
            **{name: shapes.text(raw[name]) for name in texts},
        )  # fmt: skip


@dataclass(frozen=True)
class JobState:
    """Where a job stands.

    Args:
        stage: ``waiting`` until it runs, ``running``, ``done``.
        text: how far it is.
        errors: what it ended with.
        notes: everything that whoever follows it is to be told, in order.
    """

    stage: str = WAITING
    node: str = ""
    text: str = ""
    errors: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> JobState:
        stage, node, text = (shapes.text(raw[name]) for name in ("stage", "node", "text"))
        errors, notes = shapes.items(raw["errors"], shapes.error), shapes.items(raw["notes"], shapes.text)
        return cls(stage, node, text, errors, notes)


class JobDirectory:
    """The directory of one run's job."""

    def __init__(self, place: Path, mount: Path) -> None:
        self.place = place
        self.mount = mount

    @classmethod
    def of(cls, paths: Paths, run_id: str) -> JobDirectory:
        return cls(paths.builds / run_id, paths.shared_mount)

    @property
    def name(self) -> str:
        """The name of the job."""
        return NAME + self.place.name

    @property
    def script(self) -> Path:
        return self.place / "job.sh"

    @property
    def may_have_job(self) -> bool:
        """False where none was submitted: the script comes last of all that a job needs."""
        try:
            return self.script.exists()
        except OSError:  # the storage is stale or gone
            return True

    @property
    def output(self) -> Path:
        """What the job itself prints."""
        return self.place / "job.out"

    @property
    def said(self) -> Path:
        """What Spack prints in the job, as far as it has told how far it is."""
        return self.place / "spack.log"

    @property
    def pulled(self) -> Path:
        """What was taken from build caches for the job."""
        return self.place / "pulled"

    @property
    def logs(self) -> Path:
        """The build logs of packages that failed."""
        return self.place / "logs"

    def open(self) -> None:
        """Makes the directory; one that a killed run with this id has left is made anew."""
        remove_tree(self.place)
        make_own_dir(self.place, self.mount)
        self.write_state(JobState())
        self.renew(0)
        write_atomic(self._room, b"\n" * ROOM)

    def give(self, order: Order, spacks: Mapping[str, Spack], script: str) -> None:
        """Lays out all that the job needs."""
        for target, spack in spacks.items():
            make_dir(self.place / target)
            shutil.copytree(spack.scope, self.place / target / "scope")
            make_dir(self.place / target / "environment")
            for name in ("spack.yaml", "spack.lock"):
                shutil.copyfile(spack.environment / name, self.place / target / "environment" / name)
        write_json(self.place / "order.json", plain(order))
        write_atomic(self.script, script.encode(), mode=0o755)

    def order(self) -> Order:
        """What is to be built.

        Raises:
            JobError: ``job-orphaned``, it is not there any more.
            StateError: it is damaged, or not root's.
        """
        path = self.place / "order.json"
        raw = self._read(path)
        if raw is None:
            raise JobError(f"{path} is not there", why="the run that wanted this job has ended", code="job-orphaned")
        order: Order = shaped(path, lambda: Order.from_dict(raw))
        return order

    def state(self) -> JobState:
        raw = self._read(self.place / "state.json")
        return JobState() if raw is None else shaped(self.place / "state.json", lambda: JobState.from_dict(raw))

    def write_state(self, state: JobState) -> None:
        write_json(self.place / "state.json", plain(state))

    def write_end(self, state: JobState) -> None:
        """Leaves how the job ended, on full storage too.

        Raises:
            OSError: the storage takes nothing at all.
        """
        try:
            self.write_state(state)
        except OSError as error:
            LOG.warning("the job's state: %s; once more with the room that was kept for it", error)
            self._room.unlink(missing_ok=True)
            self.write_state(state)

    def renew(self, beat: int) -> None:
        """The worker lives, and holds the lock.

        Raises:
            OSError: the storage takes nothing, not even a file's time.
        """
        try:
            write_json(self._lease, {"beat": beat})
        except OSError as error:
            LOG.warning("the job's lease gets a new time only: %s", error)
            os.utime(self._lease)

    def revoke(self) -> None:
        """The job must end. Slurm is told so as well, so a storage that takes nothing is no error."""
        try:
            if self.place.is_dir():
                write_json(self._lease, {"beat": REVOKED})
        except OSError as error:
            LOG.warning("the job's lease is taken away: %s", error)
            try:
                self._lease.unlink(missing_ok=True)
            except OSError as trouble:
                LOG.warning("the job's lease stays: %s", trouble)

    def beat(self) -> object:
        """What the lease says, and when that was written: it changes while the worker lives.

        ``REVOKED`` when the job must end, None where the lease is gone.
        """
        said = self._read(self._lease)
        if said is None:
            return None
        return REVOKED if said.get("beat") == REVOKED else (said.get("beat"), self._lease.stat().st_mtime_ns)

    @property
    def _lease(self) -> Path:
        return self.place / "lease.json"

    @property
    def _room(self) -> Path:
        return self.place / "room"

    def _read(self, path: Path) -> dict[str, Any] | None:
        reason = distrust(path, self.mount)
        if reason:
            raise StateError(f"{path} is not read", why=reason, remedy=f"ls -ld {path}", code="state-untrusted")
        return read_json(path)


class Lease:
    """The job's side of the lease: measured by the job's own clock from the last change that it saw."""

    def __init__(self, directory: JobDirectory, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._beat = directory.beat()
        self._changed = self._looked = clock()

    def check(self) -> None:
        """Looks every few seconds whether the worker lives.

        Raises:
            JobError: ``job-orphaned``.
        """
        now = self._clock()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked, beat = now, self._seen()
        if beat != self._beat:
            self._beat, self._changed = beat, now
        if beat in (None, REVOKED):
            raise _orphaned("it was told to end")
        if now - self._changed > LEASE_SECONDS:
            raise _orphaned(f"no sign of life for {now - self._changed:.0f} s")

    def _seen(self) -> object:
        """What the lease says; what cannot be read now, on storage that hangs or is stale, is no sign of life."""
        try:
            return self._directory.beat()
        except (OSError, StateError) as error:
            LOG.warning("the job's lease: %s", error)
            return self._beat


def _orphaned(why: str) -> JobError:
    return JobError("the worker that this job builds for has ended", why=why, code="job-orphaned")
