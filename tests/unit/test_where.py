"""Building in a job on a queue: what the job is told, how it is followed, and that none is left behind."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.cluster import slurm as slurm_commands
from bootstrap.cluster.slurm import ENDED, parse_partitions, parse_squeue
from bootstrap.config.load import parse
from bootstrap.core.errors import ConfigError, JobError, ProcessFailed
from bootstrap.core.facts import Queue
from bootstrap.core.model import Outcome, RunRecord, StepReport, Tool
from bootstrap.engine import converge as engine
from bootstrap.engine.lock_hooks import CLUSTER_HOOKS
from bootstrap.engine.registry import STEPS
from bootstrap.engine.run import Recorder, new_record, recording
from bootstrap.host.files import sha256_of
from bootstrap.remote.tarball import unpack
from bootstrap.spack.cache.entries import Layout
from bootstrap.spack.cache.pull import Pulled
from bootstrap.spack.job import capacity, order
from bootstrap.spack.job import follow as follower
from bootstrap.spack.job import submit as foreman
from bootstrap.spack.job.builder import Builder
from bootstrap.spack.job.order import DONE, LEASE_SECONDS, JobDirectory, JobState, Lease, Order
from bootstrap.spack.lockfile import Locked
from bootstrap.spack.program import RECEIPT
from bootstrap.state.release import check_queue
from bootstrap.state.request import Request
from bootstrap.state.store import Runs
from bootstrap.steps.spack import SpackStack
from tests.world import HOST, World, with_spack

INSTALL = "install: {{where: slurm, queue: {queue}, wait: {wait}}}\n"
NODE = replace(HOST, name="q1-st-c5-1", cpus=64, memory=128 << 30)


class Slurm:
    """Slurm with one queue: whenever squeue is asked for a job, its node goes on and says how the job stands."""

    def __init__(self, world: World, node: Callable[[Path], str]) -> None:
        self.world = world
        self.node = node
        self.jobs: dict[str, list[str]] = {}  # by name: state and the path of the script
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
        return f"12|root|0|{job[0]}|q1-st-c5-1|None\n"

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


@pytest.fixture(autouse=True)
def a_node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory is no disk of its own and has no Lmod; nobody waits for a second to pass."""
    (tmp_path / "lmod" / "libexec").mkdir(parents=True)
    (tmp_path / "lmod" / "libexec" / "lmod").touch()
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(tmp_path / "lmod"),))
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    for module, name in (
        (follower, "FOLLOW_SECONDS"), (follower, "ASK_SECONDS"), (follower, "LATE_SECONDS"),
        (slurm_commands, "POLL_SECONDS"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, 0.01)


def builds(world: World, **other: object) -> Callable[[Path], str]:
    """A node that does what the order says, with this world's programs."""

    def node(place: Path) -> str:
        host = replace(NODE, **other)  # type: ignore[arg-type]
        directory = JobDirectory(place, world.paths.shared_mount)
        Builder(directory, host, world.system, world.prefix / "local", lambda _: None).run()
        return "COMPLETED"

    return node


def in_time(node: Callable[[Path], str], *states: str) -> Callable[[Path], str]:
    """A node whose job stands like that, one state at each look, before it does anything."""
    left = list(states)
    return lambda place: left.pop(0) if left else node(place)


def converge(world: World, note: Callable[[str], None] = print) -> tuple[dict[str, StepReport], list[str]]:
    told: list[StepReport] = []
    reports = engine.converge(
        STEPS, replace(world.context, note=note), told.append, background=False, hooks=CLUSTER_HOOKS
    )
    return {report.name: report for report in reports}, [report.reason for report in told if report.name == "spack"]


def left(world: World) -> list[Path]:
    return sorted(world.paths.builds.iterdir()) if world.paths.builds.is_dir() else []


def test_a_job_on_the_queue_builds_and_the_head_publishes(tmp_path: Path) -> None:
    world = head(tmp_path)
    slurm = Slurm(world, builds(world))
    reports, told = converge(world)
    assert reports["spack"].outcome is reports["release"].outcome is Outcome.CHANGED, reports["spack"]
    assert (world.paths.store / "linux-debian12-x86_64_v3" / "fftw-3.3.10-aaaaaaa").is_dir()
    assert {"--partition=q1", "--exclusive", "--no-requeue", "--export=NIL", "--time=1440", "--chdir=/"} <= set(
        slurm.sbatch
    )
    assert told[0].endswith("a job on queue q1 builds it, and no hook waits for that")
    spacks = [command for command in world.system.commands if command[0].endswith("bin/spack")]
    (install,) = [command for command in spacks if "install" in command]
    assert install[install.index("-p") + 1] == "8"  # the node's 64 cores, not the head's 2
    assert str(world.prefix / "local") in install[install.index("-e") + 1]
    assert left(world) == []
    said = world.paths.log.parent / "petal-node" / "spack-run-1.log"
    assert "install --only-concrete" in said.read_text()
    assert converge(world)[0]["spack"].outcome is Outcome.OK


def test_what_a_package_failed_with_comes_back_with_paths_of_this_node(tmp_path: Path) -> None:
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
    assert report.remedy[0] == f"less {world.paths.log.parent / 'petal-node' / 'spack-run-1.log'}"
    assert left(world) == []


@pytest.mark.parametrize("change", [{"os": "rocky9"}, {"glibc": "2.34"}])
def test_a_node_that_differs_builds_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    world = head(tmp_path)
    Slurm(world, builds(world, **change))
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-node"
    assert next(iter(change.values())) in report.reason
    assert not (world.paths.store / "linux-debian12-x86_64_v3").exists()


@pytest.mark.parametrize("state", ["TIMEOUT", "CANCELLED", "OUT_OF_MEMORY", "FAILED"])
def test_a_job_that_ends_without_a_word_is_told_with_slurms(tmp_path: Path, state: str) -> None:
    world = head(tmp_path)
    Slurm(world, lambda _: state)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-ended"
    assert f"job 12 is {state}" in report.reason
    assert left(world) == []


def test_a_job_that_does_not_begin_is_given_up_and_cancelled(tmp_path: Path) -> None:
    world = head(tmp_path, wait=0)
    slurm = Slurm(world, lambda _: "PENDING")
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert "job 12 is PENDING" in report.reason
    assert [job[0] for job in slurm.jobs.values()] == ["CANCELLED"]
    assert any("where: head" in line for line in report.remedy)


def test_nothing_is_submitted_while_no_node_can_come(tmp_path: Path) -> None:
    """ParallelCluster marks nodes down that a job asks for before its daemon runs."""
    world = head(tmp_path, wait=0)
    slurm = Slurm(world, builds(world))
    world.system.answers["sinfo"] = lambda argv: (
        "q1-dy-c5-1|idle~|q1|none\n" if "--Node" in argv else "q1|up|infinite\n"
    )
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert not slurm.jobs
    beat = world.paths.at(capacity.HEARTBEAT)
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
    check_queue(config, ())  # cluster-config.yaml cannot be read: Slurm is asked later
    probe = SpackStack().probe(head(tmp_path, queue="gpu").context)
    assert probe.error is not None
    assert probe.error["code"] == "job-queue"
    world = head(tmp_path, queue="gpu")
    world.queues = ()
    Slurm(world, builds(world))
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert "it has q1, q2" in report.reason


def test_the_queues_cpu_is_judged_and_not_the_heads(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw], target: x86_64_v4")
    world = World(
        tmp_path / "head", live=True, config_text=text + INSTALL.format(queue="q1", wait=1),
        queues=(Queue("q1", ("c7a.large",)),),
    )  # fmt: skip
    assert not any("may fail" in line for line in SpackStack().probe(world.context).changes)
    lesser = replace(world, queues=(Queue("q1", ("c6a.large", "c7a.large")),))
    assert any("queue q1 is zen3 and zen4" in line for line in SpackStack().probe(lesser.context).changes)


def test_whoever_takes_the_lock_ends_what_a_killed_run_left(tmp_path: Path) -> None:
    world = head(tmp_path)
    slurm = Slurm(world, lambda _: "RUNNING")
    world.paths.shared.mkdir()
    directory = JobDirectory.of(world.paths, "run-0")
    directory.open()
    directory.script.touch()
    slurm.jobs["petal-build-run-0"] = ["RUNNING", ""]
    foreman.end_left(world.paths, world.system)
    assert slurm.jobs["petal-build-run-0"][0] == "CANCELLED"
    assert left(world) == []
    slurm.node = builds(world)
    directory.open()
    (world.paths.locks).mkdir(parents=True)
    (world.paths.locks / "stack.holder").write_text(json.dumps({
        "host": "another", "pid": 1, "boot_id": "b", "process_start": 1.0, "since": "t", "run_id": "run-0",
    }))  # fmt: skip
    converge(world)
    assert left(world) == []


def test_a_job_on_a_lost_node_is_outlasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its node may still write: nothing is cleared before the lease is over."""
    world = head(tmp_path)
    slurm = Slurm(world, builds(world))
    world.paths.shared.mkdir()
    directory = JobDirectory.of(world.paths, "run-0")
    for silent in (False, True):
        directory.open()
        directory.script.touch()
        slurm.jobs[directory.name] = ["NODE_FAIL", ""]
        if silent:
            world.system.answers["squeue"] = refused
        foreman.end_job(world.system, directory, 0.05)
        assert directory.beat() == order.REVOKED
        with monkeypatch.context() as patch:
            patch.setattr(foreman, "GONE_SECONDS", 0.05)
            foreman.end_job(world.system, directory, 0.05)
        assert left(world) == []


def refused(_: Sequence[str]) -> str:
    raise ProcessFailed("squeue ended with 1", why="Unable to contact slurm controller")


def test_a_job_ends_with_its_worker(tmp_path: Path) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory, now = JobDirectory.of(world.paths, "run-1"), [0.0]
    directory.open()
    lease = Lease(directory, lambda: now[0])
    for beat in (1, 2):
        now[0] += LEASE_SECONDS - 1
        directory.renew(beat)
        lease.check()
    now[0] += LEASE_SECONDS - 1
    lease.check()
    now[0] += LEASE_SECONDS
    with pytest.raises(JobError, match="no sign of life for"):
        lease.check()
    lease = Lease(directory, lambda: now[0])
    directory.revoke()
    lease.check()  # it looks every few seconds
    now[0] += order.LOOK_SECONDS
    with pytest.raises(JobError, match="told to end"):
        lease.check()


def test_a_job_that_finds_its_order_gone_builds_nothing(tmp_path: Path) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory = JobDirectory.of(world.paths, "run-1")
    directory.open()
    (error,) = Builder(directory, NODE, world.system, tmp_path / "local", lambda _: None).run()
    assert error.code == "job-orphaned"
    assert directory.state().stage == DONE


@pytest.mark.parametrize("harm", ["mode", "directory", "link", "owner", "foreign directory"])
def test_an_order_that_others_could_write_is_not_obeyed(tmp_path: Path, harm: str) -> None:
    if harm in ("owner", "foreign directory") and os.geteuid() != 0:
        pytest.skip("only root can give files away")
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
        directory = JobDirectory(place, world.paths.shared_mount)
        ended.extend(Builder(directory, NODE, world.system, world.prefix / "local", lambda _: None).run())
        return "FAILED"

    Slurm(world, node)
    assert converge(world)[0]["spack"].outcome is Outcome.FAILED
    assert [error.code for error in ended] == ["state-untrusted"]
    assert "order.json is not read" in str(ended[0])
    assert not any("install" in command for command in world.system.commands)
    assert not (world.paths.store / "linux-debian12-x86_64_v3").exists()


def test_a_hook_does_not_wait_for_what_cannot_begin_before_it_ends(tmp_path: Path) -> None:
    world = head(tmp_path)
    request = Request(world.tool, "run-1", prefix=world.prefix, event="configured")
    for text, settled in ((world.config_text, True), (world.config_text.replace("where: slurm", "where: head"), False)):
        world.config_text = text
        recorder = Recorder(world.paths, new_record(request, world.system, "hook"))
        told = recording(recorder, replace(world.context, bakes=True), STEPS, lambda _: None)
        told(StepReport("spack", "", Outcome.RUNNING, "an image is built where it is"))
        assert not recorder.record.settled
        world.paths.state.mkdir(parents=True, exist_ok=True)
        recording(recorder, world.context, STEPS, lambda _: None)(StepReport("spack", "", Outcome.RUNNING, "it begins"))
        assert recorder.record.settled is settled


def test_a_hook_that_stops_waiting_finds_why_in_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It polls, and leaves at the first record that says so: no later one is looked at."""
    world = head(tmp_path)
    world.paths.state.mkdir(parents=True, exist_ok=True)
    request = Request(world.tool, "run-1", prefix=world.prefix, event="configured")
    recorder = Recorder(world.paths, new_record(request, world.system, "hook"))
    saved: list[RunRecord] = []
    monkeypatch.setattr(Runs, "save", lambda _runs, record: saved.append(record))
    recording(recorder, world.context, STEPS, lambda _: None)(
        StepReport("spack", "", Outcome.RUNNING, "a job builds it")
    )
    settled = next(record for record in saved if record.settled)
    assert [step.reason for step in settled.steps] == ["a job builds it"]


def test_a_plan_says_that_the_head_cannot_solve_the_stack(tmp_path: Path) -> None:
    world = head(tmp_path)
    Slurm(world, builds(world))
    converge(world)
    (world.paths.release(world.release) / "spack.lock").unlink()
    assert not any("memory" in line for line in SpackStack().probe(world.context).changes)
    world.system.memory = 1 << 10
    assert any("too little to concretize" in line for line in SpackStack().probe(world.context).changes)


@pytest.mark.parametrize(
    ("limit", "minutes"),
    [("infinite", None), ("30:00", 30), ("2:30:15", 150), ("1-00:00:00", 1440), ("10-12:30:00", 15150), ("n/a", None)],
)
def test_time_limits_of_queues(limit: str, minutes: int | None) -> None:
    (partition,) = parse_partitions(f"q1|up|{limit}\nnoise\n")
    assert (partition.name, partition.state, partition.minutes) == ("q1", "up", minutes)


def test_squeue() -> None:
    first, second = parse_squeue("7|root|0|PENDING||Resources\nnoise\n8|root|0|NODE_FAIL|q1-st-c5-1|None\n")
    assert (first.ended, str(first)) == (False, "job 7 is PENDING (Resources)")
    assert (second.ended, second.gone, second.nodes) == (True, False, "q1-st-c5-1")


class Clock:
    """Time that passes only where somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_the_wait_for_nodes_and_the_wait_for_the_job_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, clock = head(tmp_path, wait=3600), Clock()
    Slurm(world, lambda _: "PENDING")
    answer = world.system.answers["sinfo"]
    world.system.answers["sinfo"] = lambda argv: (
        answer(argv) if "--Node" in argv or clock.now > 3000 else "q1|inact|infinite\n"
    )
    for module in (foreman, capacity, follower):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(follower, "FOLLOW_SECONDS", 30.0)
    report = converge(world)[0]["spack"]
    assert report.error is not None
    assert report.error["code"] == "job-not-started"
    assert "job 12 is PENDING" in report.reason
    assert 3600 < clock.now < 3700


def test_a_job_is_told_from_an_earlier_one_of_its_name(tmp_path: Path) -> None:
    """A run that systemd begins again has its id, and so the name of its job; squeue sorts by the states' names."""
    world = head(tmp_path)
    slurm = Slurm(world, in_time(builds(world), *["CONFIGURING"] * 5))
    answer = world.system.answers["squeue"]
    world.system.answers["squeue"] = lambda argv: answer(argv) + "11|root|0|FAILED|q1-st-c5-1|None\n"
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED
    assert [job[0] for job in slurm.jobs.values()] == ["COMPLETED"]


def test_a_job_that_slurm_did_not_know_for_a_moment_is_followed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, clock = head(tmp_path), Clock()
    monkeypatch.setattr(follower, "time", clock)
    monkeypatch.setattr(follower, "LATE_SECONDS", 0.05)
    Slurm(world, in_time(builds(world), *["RUNNING"] * 20))
    answer, first = world.system.answers["squeue"], [""]
    world.system.answers["squeue"] = lambda argv: first.pop() if first else answer(argv)
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED


def test_while_a_job_builds_the_record_says_where_how_far_and_where_its_log_is(tmp_path: Path) -> None:
    world = head(tmp_path)

    def begun(place: Path) -> str:
        directory = JobDirectory(place, world.paths.shared_mount)
        if directory.state().stage == order.WAITING:
            directory.write_state(JobState(order.RUNNING, NODE.name, "installing 0 of 1: fftw (build)"))
            return "RUNNING"
        return builds(world)(place)

    Slurm(world, in_time(begun, "PENDING", "CONFIGURING"))
    told = converge(world)[1]
    assert "job 12 is PENDING, on queue q1" in told
    (line,) = [line for line in told if "installing" in line]
    said = world.paths.builds / "run-1" / "spack.log"
    assert line == f"job 12 on q1-st-c5-1, queue q1: installing 0 of 1: fftw (build)\nlog  {said}"


def pulled(monkeypatch: pytest.MonkeyPatch, *found: str) -> None:
    """A build cache that has the package; ``found`` is what of it was taken."""

    def pull(specs: Sequence[Locked], _: object, layout: Layout, directory: Path, *__: object) -> Pulled:
        for spec in specs:
            described = directory / layout.description(spec, signed=False)
            described.parent.mkdir(parents=True)
            described.write_text("{}")
        return Pulled(directory, layout, tuple(spec for spec in specs if spec.name in found))

    monkeypatch.setattr("bootstrap.spack.stack.pull", pull)


def breaks_once(world: World) -> None:
    """Spack's first install ends with an error."""
    real, left = world.system.answers["spack"], ["==> Error: it cannot be unpacked\n"]
    world.system.answers["spack"] = lambda argv: left.pop() if left and "install" in argv else real(argv)


def test_what_build_caches_have_needs_no_compute_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = head(tmp_path, wait=0)
    mirror = "mirrors: {site: {url: 's3://site/cache', signed: false}}"
    world.config_text = world.config_text.replace("specs: [fftw]", f"specs: [fftw], {mirror}")
    slurm = Slurm(world, lambda _: "PENDING")
    pulled(monkeypatch, "fftw")
    reports, told = converge(world)
    assert reports["spack"].outcome is Outcome.CHANGED
    assert told[0].endswith("a job on queue q1 builds what no build cache has, and no hook waits for that")
    assert not slurm.jobs
    assert not [command for command in world.system.commands if command[0] in ("sbatch", "squeue", "scancel")]
    assert left(world) == []


@pytest.mark.parametrize("found", [("fftw",), ()], ids=["unpacked on the head", "unpacked in the job"])
def test_what_a_cache_gave_corrupt_is_built_in_the_job_and_the_head_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, found: tuple[str, ...]
) -> None:
    world, notes = head(tmp_path), list[str]()
    slurm = Slurm(world, builds(world))
    pulled(monkeypatch, *found)
    breaks_once(world)
    with caplog.at_level("WARNING", logger="petal"):
        assert converge(world, notes.append)[0]["spack"].outcome is Outcome.CHANGED
    assert slurm.jobs
    assert (
        len(
            [note for note in notes if note.startswith("fftw cannot be unpacked from a build cache, and will be built")]
        )
        == 1
    )
    assert "fftw cannot be unpacked from a build cache, and will be built" in caplog.text


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


def test_directories_that_are_used_where_they_are_have_no_receipt_and_must_be_there(tmp_path: Path) -> None:
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


def test_what_cannot_be_told_costs_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shared storage is full: how far the job is, what it prints and what Spack says have no room."""
    world = head(tmp_path)
    write = JobDirectory.write_state

    def refuse(directory: JobDirectory, state: JobState) -> None:
        if state.stage == order.RUNNING:
            raise OSError(errno.ENOSPC, "No space left on device", str(directory.place))
        write(directory, state)

    def node(place: Path) -> str:
        directory = JobDirectory(place, world.paths.shared_mount)
        directory.said.mkdir()

        def printed(_: str) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(JobDirectory, "write_state", refuse)
        Builder(directory, NODE, world.system, world.prefix / "local", printed).run()
        return "COMPLETED"

    Slurm(world, node)
    assert converge(world)[0]["spack"].outcome is Outcome.CHANGED


def test_trouble_with_files_comes_back_with_its_code_and_its_node(
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


def test_a_lease_that_cannot_be_read_is_no_sign_of_life_and_no_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = head(tmp_path)
    world.paths.shared.mkdir()
    directory, now = JobDirectory.of(world.paths, "run-1"), [0.0]
    directory.open()
    lease = Lease(directory, lambda: now[0])

    def stale(_: JobDirectory) -> object:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr(JobDirectory, "beat", stale)
    now[0] += LEASE_SECONDS - 1
    lease.check()
    now[0] += LEASE_SECONDS
    with pytest.raises(JobError, match="no sign of life for"):
        lease.check()
