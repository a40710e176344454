"""A build job on its node: refusals, reports, and when it ends."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bootstrap.commands import build as build_verb
from bootstrap.commands.common import Services
from bootstrap.core.deadlines import SILENCE
from bootstrap.core.model import Outcome
from bootstrap.core.options import Options
from bootstrap.host.files import sha256_of
from bootstrap.remote.tarball import unpack
from bootstrap.spack.job.directory import (
    DONE,
    RUNNING,
    JobDirectory,
    JobReport,
    Order,
    WorkerWatch,
)
from bootstrap.spack.job.on_node import BuildJob
from bootstrap.spack.program import RECEIPT
from tests.queue_jobs import NODE, Slurm, builds, converge, emulate_node_without_waiting, head, job_directories


@pytest.fixture(autouse=True)
def a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    emulate_node_without_waiting(monkeypatch, tmp_path)


def test_the_error_of_a_package_names_logs_that_the_head_node_can_read(tmp_path: Path) -> None:
    world = head(tmp_path)

    def node(place: Path) -> str:
        real = world.system.answers["spack"]
        world.system.answers["spack"] = lambda _: "==> Error: no such thing\n"
        builds(world)(place)
        world.system.answers["spack"] = real
        return "FAILED"

    Slurm(world, node)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "spack-install"
    assert "no such thing" in report.reason
    log = world.paths.build_logs / "run-1" / "spack.log"
    assert report.remedy[0] == f"less {log}"
    assert "no such thing" in log.read_text()
    assert job_directories(world) == []


@pytest.mark.parametrize("change", [{"os": "rocky9"}, {"glibc": "2.34"}])
def test_a_node_that_differs_builds_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    world = head(tmp_path)
    Slurm(world, builds(world, **change))
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-node"
    assert next(iter(change.values())) in report.reason
    assert not (world.paths.store / "linux-debian12-x86_64_v3").exists()


def test_a_job_ends_with_its_worker(tmp_path: Path) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory, now = JobDirectory(world.paths, "run-1"), [0.0]
    directory.create()
    watch = WorkerWatch(directory, lambda: now[0])
    for touched in (1, 2):
        now[0] += SILENCE - 1
        os.utime(directory.path / "alive", (touched, touched))
        assert watch.problem() == ""
    now[0] += SILENCE - 1
    assert watch.problem() == ""
    now[0] += 2
    assert watch.problem().startswith("no sign of life of the worker for ")
    directory.touch()
    assert watch.problem() == ""
    directory.revoke()
    assert watch.problem() == "the worker has ended the job"


@pytest.mark.parametrize("ending", ["revoked", "cancelled"])
def test_a_signal_or_the_worker_ends_the_build_of_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    """The timer or Slurm's signal interrupts the build; its remaining processes are killed too.

    Another signal does not prevent that.
    """
    world = head(tmp_path)

    def end(run_id: str) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        world.system.ended.append(run_id)
        return 0

    monkeypatch.setattr(world.system, "end_run", end)
    monkeypatch.setattr(build_verb, "REFRESH", 0.05)
    monkeypatch.setattr(build_verb.detect, "gather", lambda *_: world.context.facts)
    results = []

    def build_without_end(_: Sequence[str]) -> str:
        place = next(world.paths.builds.iterdir())
        JobDirectory.at(place).revoke() if ending == "revoked" else os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return "built"

    def node(place: Path) -> str:
        options = Options("build-job", root=world.prefix, directory=place)
        services = Services(world.context.tool, world.system, "run-1", lambda _: None, lambda _: None)
        real, world.system.answers["spack"] = world.system.answers["spack"], build_without_end
        try:
            results.append(build_verb.build(options, services))
        finally:
            world.system.answers["spack"] = real
        return "CANCELLED"

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)}
    Slurm(world, node)
    try:
        report = converge(world)[0]["spack"]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    (result,) = results
    assert (result.exit_code, result.errors[0]["code"], world.system.ended) == (143, "job-ended", ["run-1"])
    assert ("Slurm" if ending == "cancelled" else "worker") in str(result.errors[0]["why"])
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert report.error is not None
    assert report.error["code"] == "job-ended"


def test_a_job_without_its_order_builds_nothing(tmp_path: Path) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory = JobDirectory(world.paths, "run-1")
    directory.create()
    (error,) = BuildJob(directory, NODE, world.system, tmp_path / "scratch", lambda _: None).run()
    assert error.code == "job-ended"
    assert directory.report().stage == DONE


@pytest.mark.parametrize("harm", ["mode", "directory", "link", "owner", "foreign directory"])
def test_an_order_that_others_can_write_is_refused(tmp_path: Path, harm: str) -> None:
    if harm in ("owner", "foreign directory") and os.geteuid() != 0:
        pytest.skip("the test changes the owner of a file, which needs root")
    world, ended = head(tmp_path), []

    def node(place: Path) -> str:
        order_file = place / "order.json"
        if harm == "link":
            order_file.rename(tmp_path / "theirs")
            order_file.symlink_to(tmp_path / "theirs")
        elif harm == "mode":
            order_file.chmod(0o666)
        elif harm == "directory":
            place.parent.chmod(0o777)
        else:
            os.chown(order_file if harm == "owner" else place, 12345, 12345)
        directory = JobDirectory.at(place)
        ended.extend(BuildJob(directory, NODE, world.system, world.prefix / "scratch", lambda _: None).run())
        return "FAILED"

    Slurm(world, node)
    assert converge(world)[0]["spack"].outcome is Outcome.FAILED
    assert [error.code for error in ended] == ["untrusted"]
    assert "order.json is not read" in str(ended[0])
    assert not any("install" in command for command in world.system.commands)
    assert not (world.paths.store / "linux-debian12-x86_64_v3").exists()


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda spack, _: (spack / RECEIPT).write_text('{"key": "another"}'), "another source: another"),
        (lambda spack, _: (spack / RECEIPT).unlink(), "another source: unknown"),
        (lambda _, recipes: (recipes / RECEIPT).write_text('{"key": "another"}'), "another source: another"),
        (lambda _, recipes: (recipes / "repos/spack_repo/builtin/repo.yaml").unlink(), "recipes at "),
    ],
    ids=["Spack", "a directory", "recipes", "no recipes"],
)
def test_a_node_with_another_spack_or_recipes_builds_nothing(
    tmp_path: Path, spoil: Callable[[Path, Path], object], why: str
) -> None:
    world = head(tmp_path)

    def node(place: Path) -> str:
        (spack,), (recipes,) = ((world.paths.root / "spack").glob(name) for name in ("1.1.1-*", "recipes-*"))
        spoil(spack, recipes)
        return builds(world)(place)

    Slurm(world, node)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-node"
    assert why in report.reason
    assert any("bootstrap --layout hybrid" in line for line in report.remedy)
    assert not (world.paths.store / "linux-debian12-x86_64_v3").exists()


def test_directories_that_are_used_in_place_must_exist_and_need_no_receipt(tmp_path: Path) -> None:
    world = head(tmp_path)
    for name in ("spack", "recipes"):
        archive = next(tmp_path.glob(f"{name}.tar.gz"))
        unpack(archive, tmp_path / name)
        digest = sha256_of(archive)
        world.config_text = world.config_text.replace(
            f"source: {archive}, sha256: {digest}", f"source: {tmp_path / name}"
        )
    slurm = Slurm(world, builds(world))
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED
    assert slurm.jobs


def test_progress_that_cannot_be_written_does_not_stop_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shared storage is full: neither progress nor messages nor Spack's output can be written."""
    world = head(tmp_path)
    write = JobDirectory.write_report

    def refuse(directory: JobDirectory, state: JobReport) -> None:
        if state.stage == RUNNING:
            raise OSError(errno.ENOSPC, "No space left on device", str(directory.path))
        write(directory, state)

    def node(place: Path) -> str:
        directory = JobDirectory.at(place)
        directory.spack_log.unlink()
        directory.spack_log.symlink_to("/dev/full")

        def printed(_: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(JobDirectory, "write_report", refuse)
        BuildJob(directory, NODE, world.system, world.prefix / "scratch", printed).run()
        return "COMPLETED"

    Slurm(world, node)
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED


def test_an_error_of_the_file_system_keeps_its_code_and_names_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = head(tmp_path)

    def stale(*_: object) -> Order:
        raise OSError(errno.ESTALE, "Stale file handle", "/shared/petal")

    def node(place: Path) -> str:
        with monkeypatch.context() as patch:
            patch.setattr(JobDirectory, "order", stale)
            return builds(world)(place)

    Slurm(world, node)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "file-stale"
    assert report.reason.startswith(f"on {NODE.name}: ")


def test_storage_that_does_not_answer_is_neither_heartbeat_nor_end_of_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory, now = JobDirectory(world.paths, "run-1"), [0.0]
    directory.create()
    watch = WorkerWatch(directory, lambda: now[0])
    assert watch.problem() == ""

    def stale(_: JobDirectory) -> object:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(JobDirectory, "last_sign", stale)
    now[0] += SILENCE - 1
    assert watch.problem() == ""
    now[0] += SILENCE
    assert "no sign of life" in watch.problem()
