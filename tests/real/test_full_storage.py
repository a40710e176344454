"""Full and read-only shared storage: the files of worker and build job, and the verbs that make room."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bootstrap.commands.status import read_status
from bootstrap.core.errors import PackageError
from bootstrap.core.model import Role, Status
from bootstrap.core.paths import Paths
from bootstrap.engine.converge import converge
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import sha256_of
from bootstrap.remote.tarball import unpack
from bootstrap.spack.job.directory import DONE, RUNNING, JobDirectory, JobReport, WorkerWatch
from bootstrap.state.release import current_release
from tests.disks import mounted
from tests.world import World, tarball, with_package

ERRORS = ({"code": "file-no-space", "what": "w", "why": "y" * 20_000, "remedy": []},)
BLOCK = 4096
TOP = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[JobDirectory]:
    """A job's directory on a disk of 2 MiB."""
    with mounted(tmp_path / "shared", 2, "1777") as mount:
        (mount / "petal").mkdir(mode=0o755)
        made = JobDirectory(Paths(Path("/"), str(mount)), "run-1")
        made.create()
        (made.path / "x86_64_v3" / "scope").mkdir(parents=True)  # the input of the job
        (made.path / "x86_64_v3" / "scope" / "packages.yaml").write_bytes(b"#" * 32_768)
        yield made


def fill(disk: Path) -> None:
    """Fill a disk to the last block."""
    with (disk / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(BLOCK))
    assert os.statvfs(disk).f_bavail == 0


def test_a_job_frees_its_input_to_write_its_result(directory: JobDirectory) -> None:
    directory.write_report(JobReport(RUNNING, "q1-st-c5-1", "installing 1 of 2"))
    fill(directory.mount)
    with pytest.raises(OSError, match="No space left") as caught:
        directory.write_report(JobReport(RUNNING, "q1-st-c5-1", "installing 2 of 2"))
    assert caught.value.errno == errno.ENOSPC
    assert directory.report().text == "installing 1 of 2"  # complete, and the previous content
    directory.write_result(JobReport(DONE, "q1-st-c5-1", "", ERRORS, ("built instead",)))
    report = directory.report()
    assert (report.stage, report.errors, report.notes) == (DONE, ERRORS, ("built instead",))


def test_a_worker_updates_its_heartbeat_and_ends_its_job(directory: JobDirectory) -> None:
    fill(directory.mount)
    now = [0.0]
    watch = WorkerWatch(directory, lambda: now[0])
    for _ in range(2):
        sign, deadline = directory.last_sign(), time.monotonic() + 5
        while directory.last_sign() == sign and time.monotonic() < deadline:  # file times have a resolution of some ms
            directory.touch()
        assert directory.last_sign() not in (sign, None)
        now[0] += 100.0
        assert watch.problem() == ""
    directory.revoke()
    assert watch.problem() == "the worker has ended the job"


def test_a_tarball_that_does_not_fit_is_refused_before_it_is_written(tmp_path: Path) -> None:
    archive = tarball(tmp_path / "x.tar.gz", {"a/small": "x", "a/large": "x" * (3 << 20)})
    with mounted(tmp_path / "disk", 2) as disk:
        with pytest.raises(PackageError, match=r"its files have 3\.0 MiB, and 2\.0 MiB are free") as caught:
            unpack(archive, disk / "t")
        assert (caught.value.code, caught.value.remedy) == ("file-no-space", (f"df -h {disk}; df -i {disk}",))
        assert [path.name for path in (disk / "t").rglob("*")] == ["a", "small"]


def typed(world: World, *words: str) -> subprocess.CompletedProcess[str]:
    """A command on the head node."""
    argv = [sys.executable, "-c", "from bootstrap.cli import entry; entry()", *words]
    argv += ["--root", str(world.prefix), "--role", "head"]
    return subprocess.run(argv, check=False, capture_output=True, text=True, cwd=TOP)


def test_gc_and_rollback_work_on_full_storage(tmp_path: Path) -> None:
    """Two releases share the disk with files of users, which take its last block."""
    world = World(tmp_path / "head")
    (world.prefix / "shared").rmdir()
    with mounted(world.prefix / "shared", 12, "1777") as disk:
        releases = []
        for version in "12":
            archive = tarball(tmp_path / f"p{version}.tar.gz", {f"p-{version}/data": version * (3 << 20)})
            package = f"name: p, version: '{version}', source: {archive}, sha256: {sha256_of(archive)}"
            package = f"{{{package}, env: {{TEXT: {'x' * 40_000}}}}}"  # the records of a large configuration
            world.config_text = f"packages: [{package}]"
            converge(STEPS, world.context, lambda _: None)
            releases.append(current_release(world.paths))
        for verb in (["rollback"], ["gc", "--keep", "1", "--yes"]):
            fill(disk)
            done = typed(world, *verb)
            assert done.returncode == 0, done.stdout + done.stderr
            assert current_release(world.paths) == releases[0]
        assert [path.name[:4] for path in world.paths.store.glob("*/p-*")] == ["p-1-"]
        assert world.paths.reserve.stat().st_size == 1 << 20  # for the next time
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        for verb in (["rollback", str(releases[0])], ["gc", "--yes"], ["repair"]):
            done = typed(world, *verb)
            assert done.returncode != 0
            assert f"mount -o remount,rw {disk}" in done.stdout + done.stderr
            assert "needs the step" not in done.stdout.partition("remaining findings:")[2]  # nothing is wrong there


def test_status_does_not_call_read_only_storage_ok(tmp_path: Path) -> None:
    world = World(tmp_path / "login", role=Role.LOGIN)
    world.paths.shared_mount.rmdir()
    with mounted(world.paths.shared_mount, 2, "1777") as disk:
        world.paths.state.mkdir(parents=True)
        options = world.options(command="status", role=Role.LOGIN)
        assert read_status(options, world.services).errors == ()
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        status = read_status(options, world.services)
        assert [error["code"] for error in status.errors] == ["storage-read-only"]
        assert (status.status, status.exit_code) == (Status.DEGRADED, 3)


def test_a_full_disk_for_the_log_does_not_change_the_result_of_a_command(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=with_package(tmp_path))
    converge(STEPS, world.context, lambda _: None)
    with mounted(world.paths.log.parent.with_name("full"), 1) as disk:
        world.paths.log.parent.symlink_to(disk)
        (disk / world.paths.log.name).touch()
        fill(disk)
        argv = [sys.executable, "-c", "from bootstrap.cli import entry; entry()", "gc", "--yes"]
        argv += ["--root", str(world.prefix), "--role", "head"]
        (world.paths.archives / "unused").touch()
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=TOP)
        assert (done.returncode, done.stderr) == (0, "")
        assert "removed 1 other file" in done.stdout


def test_a_full_local_disk_is_named_by_the_command_and_by_status(tmp_path: Path) -> None:
    """The records have a disk of their own, so the run cannot leave one."""
    world = World(tmp_path / "head", config_text=with_package(tmp_path))
    (tmp_path / "petal.yaml").write_text(world.config_text)
    with mounted(world.paths.var, 1) as disk:
        fill(disk)
        done = typed(world, "bootstrap", "--config", str(tmp_path / "petal.yaml"))
        assert done.returncode == 1
        assert f"a file operation failed: {disk}/" in done.stderr
        assert f"df -h {disk}" in done.stderr
        found = read_status(world.options(), world.services)
    assert found.status is Status.DEGRADED
    assert found.data.problems[0].reason == "/var/lib/petal-node has 0 MiB left"
    assert found.data.problems[0].remedy[0] == "df -h /var/lib/petal-node"
