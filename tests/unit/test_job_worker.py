"""The worker of a build job: it submits the job, follows it, and always ends it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.cluster.slurm import jobs, partitions
from bootstrap.config.load import parse
from bootstrap.core.errors import ConfigError, ProcessFailed
from bootstrap.core.facts import Queue
from bootstrap.core.model import Outcome, RunRecord, StepReport
from bootstrap.engine.recorder import Recorder
from bootstrap.engine.registry import STEPS
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.pull import Pulled
from bootstrap.spack.job import worker
from bootstrap.spack.job.directory import (
    RUNNING,
    WAITING,
    JobDirectory,
    JobReport,
)
from bootstrap.spack.lockfile import Locked
from bootstrap.state.release import check_queue
from bootstrap.state.runs import Runs
from bootstrap.steps.spack import SpackStack
from tests.queue_jobs import (
    INSTALL,
    NODE,
    Slurm,
    builds,
    converge,
    emulate_node_without_waiting,
    head,
    in_time,
    job_directories,
)
from tests.world import World, typed, with_spack


@pytest.fixture(autouse=True)
def a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    emulate_node_without_waiting(monkeypatch, tmp_path)


def test_a_job_on_the_queue_builds_and_the_head_publishes(tmp_path: Path) -> None:
    world = head(tmp_path)
    slurm = Slurm(world, builds(world))
    reports, messages = converge(world)
    assert reports["spack"].outcome is reports["publish"].outcome is Outcome.CHANGED, reports["spack"]
    assert (world.paths.store / "linux-debian12-x86_64_v3" / "fftw-3.3.10-aaaaaaa").is_dir()
    assert {"--partition=q1", "--exclusive", "--no-requeue", "--export=NIL", "--time=1440", "--chdir=/"} <= set(
        slurm.sbatch
    )
    assert messages[0].endswith("a job on queue q1 builds the packages, and no hook waits for it")
    spacks = [command for command in world.system.commands if command[0].endswith("bin/spack")]
    (install,) = [command for command in spacks if "install" in command]
    assert install[install.index("-p") + 1] == "8"  # the node's 64 cores, not the head's 2
    assert str(world.prefix / "scratch") in install[install.index("-e") + 1]
    assert job_directories(world) == []
    assert "install --only-concrete" in (world.paths.build_logs / "run-1" / "spack.log").read_text()
    assert converge(world)[0]["spack"].outcome is Outcome.OK


@pytest.mark.parametrize("state", ["TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "FAILED"])
def test_a_job_that_ends_without_a_result_is_reported_with_slurms_state(tmp_path: Path, state: str) -> None:
    world = head(tmp_path)
    Slurm(world, lambda _: state)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-ended"
    assert f"job 12 is {state}" in report.reason
    assert job_directories(world) == []


def test_a_job_that_does_not_start_in_time_is_cancelled(tmp_path: Path) -> None:
    world = head(tmp_path, wait=0)
    slurm = Slurm(world, lambda _: "PENDING")
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert "job 12 is PENDING" in report.reason
    assert [job[0] for job in slurm.jobs.values()] == ["CANCELLED"]
    assert any("where: head" in line for line in report.remedy)


def test_nothing_is_submitted_while_no_node_is_available(tmp_path: Path) -> None:
    """ParallelCluster marks nodes down that a job requests before clustermgtd runs."""
    world = head(tmp_path, wait=0)
    slurm = Slurm(world, builds(world))
    world.system.answers["sinfo"] = lambda argv: (
        "q1-dy-c5-1|idle~|q1|none\n" if "--Node" in argv else "q1|up|infinite\n"
    )
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert not slurm.jobs
    beat = world.paths.at(worker.CLUSTERMGTD)
    beat.parent.mkdir(parents=True)
    beat.write_text("now")
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED


def test_an_unknown_queue_is_a_mistake_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"install\.queue"):
        parse("install: {where: slurm}")
    config = parse(with_spack(tmp_path) + INSTALL.format(queue="gpu", wait=1))
    with pytest.raises(ConfigError, match="gpu is not a queue of this cluster") as caught:
        check_queue(config, (Queue("q1", ()), Queue("q2", ())))
    assert (int(caught.value.exit), caught.value.why) == (78, "it has q1, q2")
    check_queue(config, ())  # cluster-config.yaml cannot be read: Slurm checks the queue later
    with pytest.raises(ConfigError) as caught:
        SpackStack().probe(head(tmp_path, queue="gpu").context)
    assert caught.value.code == "job-queue"
    world = head(tmp_path, queue="gpu")
    world.queues = ()
    Slurm(world, builds(world))
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert "it has q1, q2" in report.reason


def test_the_target_is_checked_for_the_queues_cpu_and_not_the_head_nodes(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw], target: x86_64_v4")
    world = World(
        tmp_path / "head", live=True, config_text=text + INSTALL.format(queue="q1", wait=1),
        queues=(Queue("q1", ("c7a.large",)),),
    )  # fmt: skip
    assert not any("may fail" in line for line in SpackStack().probe(world.context).changes)
    lesser = replace(world, queues=(Queue("q1", ("c6a.large", "c7a.large")),))
    assert any("queue q1 has zen3 and zen4" in line for line in SpackStack().probe(lesser.context).changes)


def test_the_next_holder_of_the_lock_cancels_the_job_of_a_killed_run(tmp_path: Path) -> None:
    world = head(tmp_path)
    slurm = Slurm(world, lambda _: "RUNNING")
    world.paths.shared.mkdir()
    directory = JobDirectory(world.paths, "run-0")
    directory.create()
    directory.script.touch()
    slurm.jobs["petal-build-run-0"] = ["RUNNING", ""]
    worker.end_abandoned_jobs(world.paths, world.system)
    assert slurm.jobs["petal-build-run-0"][0] == "CANCELLED"
    assert job_directories(world) == []
    slurm.node = builds(world)
    directory.create()
    (world.paths.locks).mkdir(parents=True)
    (world.paths.locks / "stack.holder").write_text(json.dumps({
        "host": "another", "pid": 1, "boot_id": "b", "process_start": 1.0, "since": "t", "run_id": "run-0",
    }))  # fmt: skip
    converge(world)
    assert job_directories(world) == []


def test_a_worker_waits_for_the_end_of_a_job_on_a_lost_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The node may still write: the job's directory is not removed before the lease has expired."""
    world = head(tmp_path)
    slurm = Slurm(world, builds(world))
    world.paths.shared.mkdir()
    directory = JobDirectory(world.paths, "run-0")
    for silent in (False, True):
        directory.create()
        directory.script.touch()
        slurm.jobs[directory.job_name] = ["NODE_FAIL", ""]
        if silent:
            world.system.answers["squeue"] = refused
        worker.end_job(world.system, directory, 0.05)
        assert directory.last_sign() is None
        with monkeypatch.context() as patch:
            patch.setattr(worker, "GONE_SECONDS", 0.05)
            worker.end_job(world.system, directory, 0.05)
        assert job_directories(world) == []


def refused(_: Sequence[str]) -> str:
    raise ProcessFailed("squeue ended with 1", why="Unable to contact slurm controller")


def test_a_hook_does_not_wait_for_a_build_job(tmp_path: Path) -> None:
    world = head(tmp_path)
    options = world.options(event="configured")
    for text, settled in ((world.config_text, True), (world.config_text.replace("where: slurm", "where: head"), False)):
        world.config_text = text
        recorder = Recorder(options, world.services)
        listen = recorder.listener(typed(world.context, layout="hybrid"), STEPS)
        listen(StepReport("spack", Outcome.RUNNING, "an image is built where it is"))
        assert not recorder.record.hook_may_return
        world.paths.state.mkdir(parents=True, exist_ok=True)
        listen = recorder.listener(world.context, STEPS)
        listen(StepReport("spack", Outcome.RUNNING, "it begins"))
        assert recorder.record.hook_may_return is settled


def test_the_record_lets_the_hook_return_while_a_job_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It polls, and returns at the first such record without reading a later one."""
    world = head(tmp_path)
    world.paths.state.mkdir(parents=True, exist_ok=True)
    options = world.options(event="configured")
    recorder = Recorder(options, world.services)
    saved: list[RunRecord] = []
    monkeypatch.setattr(Runs, "save", lambda _runs, record: saved.append(record))
    recorder.listener(world.context, STEPS)(StepReport("spack", Outcome.RUNNING, "a job builds it"))
    settled = next(record for record in saved if record.hook_may_return)
    assert [step.reason for step in settled.steps] == ["a job builds it"]


def test_a_plan_reports_that_the_head_node_cannot_solve_the_stack(tmp_path: Path) -> None:
    world = head(tmp_path)
    Slurm(world, builds(world))
    converge(world)
    (world.paths.release(world.release) / "spack.lock").unlink()
    assert not any("memory" in line for line in SpackStack().probe(world.context).changes)
    world.system.memory = 1 << 10
    assert any("too little to concretize" in line for line in SpackStack().probe(world.context).changes)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("infinite", None), ("0:30", 30), ("2:30:15", 9015), ("1-00:00:00", 86400), ("10-12:30:00", 909000), ("n", None)],
)
def test_time_limits_of_queues_are_parsed(limit: str, seconds: int | None, tmp_path: Path) -> None:
    world = World(tmp_path)
    world.system.answers["sinfo"] = lambda _: f"q1|up|{limit}\nnoise\n"
    assert partitions(world.system) == {"q1": ("up", seconds)}


def test_the_output_of_squeue_is_parsed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.system.answers["squeue"] = lambda _: "7|root|0|PENDING|Resources\nnoise\n8|root|0|NODE_FAIL|None\n"
    first, second = jobs(world.system)
    assert (first.ended, str(first)) == (False, "job 7 is PENDING (Resources)")
    assert (second.ended, second.gone) == (True, False)


class Clock:
    """A clock that only sleep() advances."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_waiting_for_nodes_and_for_the_job_share_one_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clock = head(tmp_path, wait=3600), Clock()
    Slurm(world, lambda _: "PENDING")
    answer = world.system.answers["sinfo"]
    world.system.answers["sinfo"] = lambda argv: (
        answer(argv) if "--Node" in argv or clock.now > 3000 else "q1|inact|infinite\n"
    )
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(worker, "REFRESH", 30.0)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert "job 12 is PENDING" in report.reason
    assert 3600 < clock.now < 3700


def test_a_drained_queue_is_reported_with_slurms_own_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not the job could be submitted: ParallelCluster may be about to launch another node."""
    world, clock = head(tmp_path, wait=60), Clock()
    Slurm(world, lambda _: "PENDING")
    drained = "q1-st-c5-1|drained|q1|disk swap\nq1-st-c5-2|down*|q1|Not responding\nq2-st-c5-1|drained|q2|gpu\n"
    world.system.answers["sinfo"] = lambda argv: drained if "--Node" in argv else "q1|up|infinite\n"
    monkeypatch.setattr(worker, "time", clock)
    reason = "q1-st-c5-1: draining (drained): disk swap; q1-st-c5-2: not responding (down*): Not responding"
    for launching in (False, True):
        if launching:
            heartbeat = world.paths.at(worker.CLUSTERMGTD)
            heartbeat.parent.mkdir(parents=True)
            heartbeat.touch()
            clock.now = heartbeat.stat().st_mtime
        report = converge(world)[0]["spack"]
        assert reason in report.reason, report
        assert "q2" not in report.reason, report


def test_an_earlier_job_of_the_same_name_is_ignored(tmp_path: Path) -> None:
    """A run that systemd restarts has the same id and job name; squeue sorts by the names of states."""
    world = head(tmp_path)
    slurm = Slurm(world, in_time(builds(world), *["CONFIGURING"] * 5))
    answer = world.system.answers["squeue"]
    world.system.answers["squeue"] = lambda argv: answer(argv) + "11|root|0|FAILED|None\n"
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED
    assert [job[0] for job in slurm.jobs.values()] == ["COMPLETED"]


def test_a_job_that_is_missing_in_squeue_once_is_still_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clock = head(tmp_path), Clock()
    monkeypatch.setattr(worker, "time", clock)
    monkeypatch.setattr(worker, "LATE_SECONDS", 0.05)
    Slurm(world, in_time(builds(world), *["RUNNING"] * 20))
    answer, first = world.system.answers["squeue"], [""]
    world.system.answers["squeue"] = lambda argv: first.pop() if first else answer(argv)
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED


def test_the_record_of_a_running_job_has_node_progress_and_log(tmp_path: Path) -> None:
    world = head(tmp_path)

    def begun(place: Path) -> str:
        directory = JobDirectory.at(place)
        if directory.report().stage == WAITING:
            directory.write_report(JobReport(RUNNING, NODE.name, "installing 0 of 1: fftw (build)"))
            return "RUNNING"
        return builds(world)(place)

    Slurm(world, in_time(begun, "PENDING", "CONFIGURING"))
    messages = converge(world)[1]
    assert "job 12 is PENDING, on queue q1" in messages
    (line,) = [line for line in messages if "installing" in line]
    said = world.paths.build_logs / "run-1" / "spack.log"
    assert line == f"job 12 on q1-st-c5-1, queue q1: installing 0 of 1: fftw (build)\nlog  {said}"


def pulled(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """A build cache with the package; ``found`` is the result of its use."""

    def pull(specs: Sequence[Locked], _: object, layout: Layout, directory: Path, *__: object) -> Pulled:
        for spec in specs:
            described = directory / layout.description(spec, signed=False)
            described.parent.mkdir(parents=True)
            described.write_text("{}")
        return Pulled(directory, layout, {spec: "/cache" for spec in specs if spec.name in found})

    monkeypatch.setattr("bootstrap.spack.stack.pull", pull)


def breaks_once(world: World) -> None:
    """Let Spack's first install fail."""
    real, left = world.system.answers["spack"], ["==> Error: it cannot be unpacked\n"]
    world.system.answers["spack"] = lambda argv: left.pop() if left and "install" in argv else real(argv)


def test_packages_of_build_caches_need_no_compute_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = head(tmp_path, wait=0)
    mirror = "mirrors: {site: {url: 's3://site/cache', signed: false}}"
    world.config_text = world.config_text.replace("specs: [fftw]", f"specs: [fftw], {mirror}")
    slurm = Slurm(world, lambda _: "PENDING")
    pulled(monkeypatch, "fftw")
    reports, messages = converge(world)
    assert reports["spack"].outcome is Outcome.CHANGED
    assert messages[0].endswith(
        "a job on queue q1 builds the packages that no build cache has, and no hook waits for it"
    )
    assert not slurm.jobs
    assert not [command for command in world.system.commands if command[0] in ("sbatch", "squeue", "scancel")]
    assert job_directories(world) == []


@pytest.mark.parametrize("found", [("fftw",), ()], ids=["unpacked on the head", "unpacked in the job"])
def test_a_corrupt_package_of_a_build_cache_is_built_in_the_job_and_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: tuple[str, ...]
) -> None:
    world, notes = head(tmp_path), list[str]()
    slurm = Slurm(world, builds(world))
    pulled(monkeypatch, *found)
    breaks_once(world)
    with caplog.at_level("WARNING", logger="petal"):
        assert converge(world, notes.append)[0]["spack"].outcome is Outcome.CHANGED
    assert slurm.jobs
    message = "fftw cannot be unpacked from a build cache, and will be built"
    assert len([note for note in notes if note.startswith(message)]) == 1
    assert message in caplog.text
