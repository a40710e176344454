"""Releases: publishing, rollback, and garbage collection."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bootstrap.cli import main
from bootstrap.cluster.slurm import Job, jobs
from bootstrap.commands import releases as verbs
from bootstrap.commands.releases import _jobs, releases, rollback
from bootstrap.core.deadlines import EXPIRY, PROBE
from bootstrap.core.errors import LockLost, ProcessFailed, ReleaseError, StateError, StorageError, UsageError
from bootstrap.core.model import NodeReport, Outcome, Role, StepReport
from bootstrap.core.paths import Paths
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.atomic import replace_link
from bootstrap.host.log import close_log, entries, open_log
from bootstrap.host.system import Completed
from bootstrap.host.times import timestamp
from bootstrap.releases import catalog
from bootstrap.releases import gc as collector
from bootstrap.releases.catalog import all_releases, previous_release
from bootstrap.releases.publish import roll_back, rollback_target
from bootstrap.repair.records import Records
from bootstrap.report.releases_view import rollback_view
from bootstrap.spack import program
from bootstrap.spack.lockfile import Locked
from bootstrap.state.context import Context
from bootstrap.state.release import current_release, read_manifest, write_manifest
from bootstrap.state.store import ClusterState
from tests.world import World, tarball, with_package, with_spack


def silent(_: StepReport) -> None:
    pass


def publish(world: World, config_text: str) -> str:
    world.config_text = config_text
    reports = {report.name: report for report in engine.converge(STEPS, world.context, silent)}
    assert reports["publish"].outcome.holds, reports["publish"]
    return world.release


def three_releases(tmp_path: Path) -> tuple[World, list[str]]:
    """A head node with three published releases, each with one more package."""
    from bootstrap.host.files import sha256_of

    world = World(tmp_path / "head")
    lines, made = [], []
    for number in ("1", "2", "3"):
        path = tarball(tmp_path / f"p{number}.tar.gz", {f"p-{number}/bin/p": number})
        lines.append(f"{{name: p, version: '{number}', source: {path}, sha256: {sha256_of(path)}}}")
        made.append(publish(world, f"packages: [{', '.join(lines[-2:])}]"))
    return world, made


def test_a_rollback_and_a_failed_one_are_in_the_log(tmp_path: Path) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    open_log(world.paths.log, "r")
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), None))
    close_log()
    assert main(["rollback", "--root", str(tmp_path)]) != 0
    assert f"release {second} is current instead of {third}" in [entry.message for entry in entries(world.paths.log)]
    assert [entry.step for entry in entries(Paths(tmp_path).log) if entry.level == "error"] == ["rollback"]


def test_a_rollback_publishes_the_previous_release_permanently(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    assert [one.name for one in all_releases(world.context)] == [third, second, first]
    assert previous_release(world.context, all_releases(world.context)) == second
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), None))
    assert current_release(world.paths) == second
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    assert desired.release == second
    assert [package["version"] for package in desired.config["packages"]] == ["1", "2"]
    # a second rollback returns to the first release, like `cd -`
    assert previous_release(world.context, all_releases(world.context)) == third
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), first[:8]))
    assert current_release(world.paths) == first
    assert [one.release for one in ClusterState(world.paths).published()] == [first, second, third, second, first]


def test_a_release_that_cannot_be_published_again_is_refused_with_a_reason(tmp_path: Path) -> None:
    world, (first, second, _) = three_releases(tmp_path)
    with pytest.raises(ReleaseError) as unknown:
        rollback_target(world.context, all_releases(world.context), "feed")
    assert unknown.value.code == "release-unknown"
    (world.paths.release(first) / "desired.json").unlink()
    with pytest.raises(ReleaseError, match="cannot be published") as kept:
        rollback_target(world.context, all_releases(world.context), first)
    assert "does not hold the configuration" in kept.value.why
    (prefix,) = world.paths.store.glob("*/p-2-*")
    prefix.rename(prefix.with_name("away"))
    with pytest.raises(ReleaseError) as gone:
        rollback_target(world.context, all_releases(world.context), second)
    assert "missing packages: p-2-" in gone.value.why
    world.paths.manifest(second).unlink()
    with pytest.raises(ReleaseError) as half:
        rollback_target(world.context, all_releases(world.context), second)
    assert "it is incomplete" in half.value.why


def test_a_copy_of_a_release_does_not_make_its_id_ambiguous(tmp_path: Path) -> None:
    world, (first, _, _) = three_releases(tmp_path)
    copy = world.paths.releases / f"{first}.bak"
    shutil.copytree(world.paths.release(first), copy)
    assert copy.name not in [one.name for one in all_releases(world.context)]
    assert copy.name not in collector.plan(world.context, 1, ()).drop
    (copy / "manifest.json").unlink()  # it counts as an incomplete release
    found = all_releases(world.context)
    assert copy.name in [one.name for one in found]
    assert rollback_target(world.context, found, first).name == first


def test_a_directory_of_the_user_does_not_count_as_a_package_of_a_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (first, _, _) = three_releases(tmp_path)
    spec = Locked("zlib", "1.3", "z" * 32, True, False)
    monkeypatch.setattr(catalog, "locked_specs", lambda _: [spec])
    (world.paths.release(first) / "spack.lock").touch()
    (tmp_path / "zlib-1.3").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReleaseError, match="cannot be published") as refused:
        rollback_target(world.context, all_releases(world.context), first)
    assert refused.value.why == "missing packages: zlib-1.3"


@pytest.mark.parametrize("former", ["incomplete", "complete"])
def test_the_command_that_undoes_a_rollback_is_printed_if_it_can_run(tmp_path: Path, former: str) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    if former == "incomplete":
        world.paths.manifest(third).unlink()
    options = world.options(command="rollback", role=Role.HEAD, release=second)
    result = rollback(options, world.services)
    undo = [line.text for line in rollback_view(result) if line.text.startswith("undo:")]
    assert (result.data.release, undo) == (
        second,
        [f"undo: petal-node rollback {third}"] if former == "complete" else [],
    )
    if former == "complete":
        assert rollback(replace(options, release=third), world.services).data.release == third


@pytest.mark.parametrize(("module", "function"), [(catalog, "_locked"), (catalog, "read_manifest")])
def test_a_current_release_that_cannot_be_read_does_not_prevent_a_rollback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, function: str
) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    read = getattr(module, function)

    def broken(where: Any, release: Any, *more: Any) -> Any:
        if third in str(release):
            raise OSError(errno.EIO, os.strerror(errno.EIO), "spack.lock")
        return read(where, release, *more)

    monkeypatch.setattr(module, function, broken)
    result = rollback(world.options(command="rollback", role=Role.HEAD), world.services)
    assert current_release(world.paths) == result.data.release == second


def test_a_killed_rollback_is_completed_by_the_next_convergence(tmp_path: Path) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    to = rollback_target(world.context, all_releases(world.context), None)

    def dies() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise LockLost("killed here")

    calls: list[int] = []
    with pytest.raises(LockLost):
        roll_back(replace(world.context, confirm=dies), to)
    assert current_release(world.paths) == third
    assert to.desired is not None
    world.config_text = json.dumps(dict(to.desired.config))
    assert world.release == second
    publish(world, world.config_text)
    assert current_release(world.paths) == second


def test_a_rollback_to_the_current_release_undoes_a_bootstrap_that_did_not_publish(tmp_path: Path) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    options = world.options(command="rollback", role=Role.HEAD, release=third)
    assert not rollback(options, world.services).data.changed
    ClusterState(world.paths).save_desired_state(replace(desired, release=second, config={"packages": []}))
    result = rollback(options, world.services)
    assert ClusterState(world.paths).desired_state() == desired
    assert current_release(world.paths) == third
    (line,) = rollback_view(result)
    assert line.text == f"release {third} stays current, and its configuration is the desired one again"


def test_a_release_that_could_not_be_recorded_as_desired_is_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next run would take it back."""
    world, (_, _, third) = three_releases(tmp_path)
    world.config_text = "stack: none"

    def fails(*_: object) -> None:
        raise StateError("another run has the lock")

    monkeypatch.setattr(ClusterState, "save_desired_state", fails)
    outcomes = {report.name: report.outcome for report in engine.converge(STEPS, world.context, silent)}
    assert (outcomes["desired-state"], outcomes["publish"]) == (Outcome.FAILED, Outcome.BLOCKED)
    assert current_release(world.paths) == third


def test_a_run_that_waited_during_a_rollback_publishes_nothing(tmp_path: Path) -> None:
    world, (_, second, third) = three_releases(tmp_path)
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), None))
    world.paths.release(third).joinpath("manifest.json").unlink()  # so that a step is pending
    reports = engine.converge(STEPS, replace(world.context, sets_desired_state=False), silent)
    failed = [report for report in reports if report.outcome is Outcome.FAILED]
    assert failed[0].error
    assert failed[0].error["code"] == "state-outdated"
    assert current_release(world.paths) == second


@pytest.mark.parametrize("verb", ["releases", "rollback", "gc", "gc --yes"])
def test_no_verb_about_releases_waits_for_storage_that_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    world, _ = three_releases(tmp_path)
    prepare = verbs.prepare

    def hangs(_: object, where: object, seconds: float) -> None:
        assert (where, seconds) == (world.paths.shared_mount, PROBE)
        raise StorageError("no answer", code="storage-hangs")

    def prepare_and_hang(*arguments: Any, **options: Any) -> Context:
        ctx = prepare(*arguments, **options)
        monkeypatch.setattr(world.system, "on_storage", hangs)
        return ctx

    monkeypatch.setattr(verbs, "prepare", prepare_and_hang)
    monkeypatch.setattr(verbs, "cluster_lock", lambda _: pytest.fail("a lock waits without a deadline"))
    name, *yes = verb.split()
    with pytest.raises(StorageError) as caught:
        getattr(verbs, name)(world.options(command=name, role=Role.HEAD, yes=bool(yes)), world.services)
    assert caught.value.code == "storage-hangs"


@pytest.mark.parametrize("verb", ["rollback", "gc"])
def test_a_user_of_another_node_learns_first_that_the_verb_runs_on_the_head_node(tmp_path: Path, verb: str) -> None:
    world, _ = three_releases(tmp_path)
    world.system.root = False
    options = world.options(command=verb, role=Role.LOGIN, yes=True)
    with pytest.raises(UsageError, match="runs on the head node only"):
        getattr(verbs, verb)(options, world.services)


# ------------------------------------------------------------------------------------------------------------ gc


def names(packages: Sequence[collector.Unused]) -> list[str]:
    return [package.path.name.rpartition("-")[0] for package in packages]


def test_without_its_record_a_rollback_needs_the_id_of_a_release(tmp_path: Path) -> None:
    """A repair records what is known for certain: which release is current, and since when."""
    world, (first, second, third) = three_releases(tmp_path)
    current = ClusterState(world.paths).published()[-1]
    (world.paths.state / "published.json").write_text("{")
    found = Records().probe(world.context)
    assert "needs the id of a release" in found.reason
    assert found.changes == (f"mv {world.paths.state}/published.json {world.paths.state}/published.json.bad",)
    Records().apply(world.context)
    assert [(one.release, one.time) for one in ClusterState(world.paths).published()] == [(third, current.time)]
    assert set(collector.plan(world.context, 1, (job(1000),)).keep) == {first, second, third}
    with pytest.raises(ReleaseError, match="the previous release is not recorded") as caught:
        rollback_target(world.context, all_releases(world.context), None)
    assert second in caught.value.why
    assert rollback_target(world.context, all_releases(world.context), second).name == second


def test_gc_removes_releases_and_packages_that_are_not_needed(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    plan = collector.plan(world.context, 1, ())
    assert plan.keep == {third: "current"}
    assert set(plan.drop) == {first, second}
    assert names(plan.packages) == ["p-1"]  # the third release uses p-2 too
    assert plan.bytes > 0
    collector.remove(world.context, plan)
    assert [one.name for one in all_releases(world.context)] == [third]
    assert sorted(path.name[:3] for path in world.paths.store.glob("*/[!.]*")) == ["p-2", "p-3"]
    assert [path.stem for path in (world.paths.pins / "petal").iterdir()] == [third]
    again = collector.plan(world.context, 1, ())
    assert (again.drop, again.packages) == ({}, ())


def test_gc_removes_nothing_without_its_lock(tmp_path: Path) -> None:
    world, releases = three_releases(tmp_path)
    plan = collector.plan(world.context, 1, ())
    before = sorted(world.paths.shared_root.rglob("*"))

    def lost() -> None:
        raise LockLost("another process took it")

    for part in (plan, replace(plan, drop={}), replace(plan, drop={}, files=())):
        with pytest.raises(LockLost):
            collector.remove(replace(world.context, confirm=lost), part)
    assert sorted(world.paths.shared_root.rglob("*")) == before
    assert [one.name for one in all_releases(world.context)] == releases[::-1]


def job(submitted: float, state: str = "RUNNING") -> Job:
    return Job("7", "alice", submitted, state, "None")


def publish_times(world: World, *times: float) -> None:
    """Set the times of the entries of the record."""
    path = world.paths.state / "published.json"
    document = json.loads(path.read_text())
    for entry, time in zip(document["published"], times):
        entry["time"] = timestamp(time)
    path.write_text(json.dumps(document))


def test_gc_keeps_the_newest_and_the_desired_release(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    assert collector.plan(world.context, 3, ()).drop == {}
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), second))
    assert collector.plan(world.context, 1, ()).keep == {second: "current"}
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    ClusterState(world.paths).save_desired_state(replace(desired, release=third))  # a killed rollback
    assert collector.plan(world.context, 1, ()).keep == {second: "current", third: "desired"}
    assert first in collector.plan(world.context, 1, ()).drop


def test_gc_keeps_releases_current_in_the_month_before_the_oldest_job(tmp_path: Path) -> None:
    """A shell that is older than the release submits a job with the environment of the release before."""
    world, (first, second, third) = three_releases(tmp_path)
    publish_times(world, 1000, 2000, 3000)
    world.system.answers["scontrol"] = lambda _: "#!/bin/sh\n"
    why = "was current after job 7 of alice was submitted, or in the 30 days before"

    def keep(submitted: float, state: str = "RUNNING") -> dict[str, str]:
        jobs = (job(submitted + EXPIRY, state), job(9e9))
        return dict(collector.plan(world.context, 1, jobs).keep)

    assert keep(3500) == {third: "current"}
    assert keep(2500) == {third: "current", second: why}
    assert keep(2000) == {third: "current", second: why, first: why}  # in the second of the switch both are kept
    assert keep(1500, "SUSPENDED") == {third: "current", second: why, first: why}
    assert keep(1500, "COMPLETED") == keep(1500, "TIMEOUT") == {third: "current"}
    assert set(keep(500)) == {first, second, third}  # before the first entry of the record
    assert keep(500)[first] == f"{why}, as far as is recorded"


def test_gc_keeps_a_release_that_the_script_of_a_job_names(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    publish_times(world, 1000, 2000, 3000)
    scripts = {"8": "#!/bin/sh\n", "9_1": f"module use /opt/petal/releases/{first}/modules/debian12-x86_64/Core\n"}
    world.system.answers["scontrol"] = lambda argv: scripts[argv[3]]
    jobs = [Job(number, "alice", 9e9, "PENDING", "None") for number in ("8", "9_[2-4]", "9_1")]
    plan = collector.plan(world.context, 1, jobs)
    assert plan.keep == {third: "current", first: "the script of job 9 of alice names it"}
    assert list(plan.drop) == [second]
    asked = [command[3] for command in world.system.commands if command[0] == "scontrol"]
    assert asked == ["8", "9_1"]  # one job of the array


def test_gc_keeps_releases_that_the_scripts_of_too_many_jobs_may_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    publish_times(world, 1000, 2000, 3000)
    monkeypatch.setattr(collector, "SCRIPTS", -1.0)
    plan = collector.plan(world.context, 1, [Job("8", "alice", 9e9, "PENDING", "None")])
    assert plan.keep.keys() == {first, second, third}
    assert plan.keep[first].startswith("the scripts of 1 job may name it")


@pytest.mark.parametrize("code", [0, 1])  # versions of scontrol exit 0 if they print an error
@pytest.mark.parametrize(
    ("answer", "kept", "left"),
    [
        ("Invalid job id specified", False, False),
        ("Job script not specified", False, False),
        ("Invalid user id", False, True),
        ("Unable to contact slurm controller (connect failure)", True, False),
        ("", True, False),
    ],
)
def test_gc_keeps_releases_that_a_script_may_name_which_scontrol_does_not_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, answer: str, kept: bool, left: bool
) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    publish_times(world, 1000, 2000, 3000)
    shown = Completed(code, "", answer and f"job script retrieval failed: {answer}\n")
    monkeypatch.setattr(world.system, "run", lambda *_, **__: shown)
    plan = collector.plan(world.context, 1, [Job("8", "alice", 9e9, "PENDING", "None")])
    assert plan.keep.keys() == ({first, second, third} if kept else {third})
    if kept:
        assert plan.keep[first].startswith(
            "the scripts of 1 job may name it: scontrol does not print the script of job 8"
        )
        assert answer in plan.keep[first]
    why = "releases that the scripts of 1 job name: only root can read those of other users"
    assert plan.left == ((why,) if left else ())


def test_gc_removes_no_release_that_was_current_if_slurm_does_not_answer(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    world.paths.manifest(first).unlink()
    (world.paths.releases / "feedfeedfeed").mkdir()  # never complete, never current
    plan = collector.plan(world.context, 1, None)
    assert set(plan.keep) == {first, second, third}
    assert "Slurm does not list" in plan.keep[second]
    assert list(plan.drop) == ["feedfeedfeed"]


def test_a_lost_record_of_published_releases_keeps_them_while_there_are_jobs(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    (world.paths.state / "published.json").unlink()
    assert set(collector.plan(world.context, 1, (job(9e9),)).keep) == {first, second, third}
    assert len(collector.plan(world.context, 1, ()).keep) <= 2  # the current one, and the newest by its manifest


def test_a_switch_that_a_killed_run_did_not_record_is_recorded_before_the_next_one(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    publish_times(world, 1000, 2000, 3000)
    replace_link(world.paths.current, f"releases/{first}")
    os.utime(world.paths.current, (4000, 4000), follow_symlinks=False)
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), second))
    entries = ClusterState(world.paths).published()
    assert [entry.release for entry in entries] == [first, second, third, first, second]
    assert entries[3].time == timestamp(4000)
    assert collector.current_since(entries, 4500) == {first, second}


def test_gc_keeps_binary_packages_if_a_release_has_no_configuration(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    (world.paths.release(second) / "desired.json").unlink()
    plan = collector.plan(world.context, 2, ())
    assert set(plan.keep) == {second, third}
    assert plan.packages == ()
    assert plan.left == (f"1 binary package: {second} {collector.UNKNOWN}",)
    assert first in plan.drop


def test_gc_keeps_a_release_that_it_cannot_read(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    world.paths.manifest(first).write_text('{"format": 99}')
    plan = collector.plan(world.context, 1, ())
    assert "newer petal-node" in plan.keep[first]
    assert (set(plan.drop), plan.packages) == ({second}, ())
    assert third in plan.keep


def test_gc_keeps_a_release_whose_configuration_this_version_does_not_know(tmp_path: Path) -> None:
    world, (first, second, _) = three_releases(tmp_path)
    path = world.paths.release(first) / "desired.json"
    document = json.loads(path.read_text())
    document["config"]["of-a-newer-version"] = 1
    path.write_text(json.dumps(document))
    plan = collector.plan(world.context, 1, ())
    assert "of-a-newer-version" in plan.keep[first]
    assert (set(plan.drop), plan.packages) == ({second}, ())
    assert plan.left == (f"1 binary package: {first} {collector.UNKNOWN}",)
    with pytest.raises(ReleaseError) as caught:
        rollback_target(world.context, all_releases(world.context), first)
    assert "of-a-newer-version" in caught.value.why


def test_gc_continues_after_a_kill(tmp_path: Path) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    world.paths.release(first).rename(world.paths.releases / f".{first}.gone")
    (package,) = world.paths.store.glob("*/p-1-*")
    package.rename(package.with_name(f".{package.name}.gone"))
    plan = collector.plan(world.context, 1, ())
    collector.remove(world.context, plan)
    assert sorted(path.name for path in world.paths.releases.iterdir()) == [third]
    assert list(world.paths.store.glob("*/.*")) == []
    assert second in plan.drop


def test_gc_removes_spacks_packages_by_spack(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    first = publish(world, with_spack(tmp_path))
    lockfile = next(world.paths.release(first).glob("spack*.lock"))
    lockfile.write_text(json.dumps({"roots": [], "concrete_specs": {}}))
    plan = collector.plan(world.context, 1, ())
    assert [package.hash for package in plan.packages] == ["a" * 32]
    collector.remove(world.context, plan)
    (command,) = [command for command in world.system.commands if "uninstall" in command]
    assert command[-1] == "/" + "a" * 32
    assert "modules:default:enable::[]" in command
    assert "-E" in command
    assert not list(world.paths.store.glob("*/fftw-*"))


def test_gc_names_the_spack_that_removes_packages_if_the_configuration_has_none(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    publish(world, with_spack(tmp_path))
    publish(world, with_package(tmp_path))
    (left,) = collector.plan(world.context, 1, ()).left
    why = "only Spack 1.1.1 removes them, and the configuration uses no Spack"
    assert left == f"1 package in {world.paths.store}: {why}; apply one with that Spack, then gc again"


@pytest.mark.parametrize("state", ["missing", "damaged", "a directory"])
def test_a_release_with_an_unknown_lockfile_keeps_its_packages_and_is_not_published(tmp_path: Path, state: str) -> None:
    world = World(tmp_path / "head")
    first = publish(world, with_spack(tmp_path))
    second = publish(world, with_spack(tmp_path).replace("'1.0'", "'1.1'"))
    lockfile = world.paths.release(first) / "spack.lock"
    lockfile.unlink()
    if state == "damaged":
        lockfile.write_text("{")
    elif state == "a directory":
        lockfile.mkdir()
    (world.paths.release(second) / "spack.lock").write_text(json.dumps({"roots": [], "concrete_specs": {}}))
    plan = collector.plan(world.context, 2, ())
    assert str(lockfile) in plan.keep[first]
    assert plan.packages == ()
    assert plan.left[0] == f"1 package in {world.paths.store}: {first} {collector.UNKNOWN}"
    with pytest.raises(ReleaseError) as refused:
        rollback_target(world.context, all_releases(world.context), first)
    assert str(lockfile) in refused.value.why
    data = releases(world.options(command="releases", role=Role.HEAD, no_sizes=True), world.services).data
    assert [(one.release, bool(one.problem), one.packages) for one in data.releases] == [
        (second, False, 1),
        (first, True, 0),
    ]


def test_each_target_of_a_release_needs_its_lockfile(tmp_path: Path) -> None:
    world, (_, _, third) = three_releases(tmp_path)
    manifest = read_manifest(world.paths, third)
    assert manifest is not None
    trees = tuple(replace(manifest.trees[0], target=target) for target in ("x86_64_v3", "x86_64_v4"))
    write_manifest(world.paths, replace(manifest, specs=("zlib",), trees=trees))
    (world.paths.release(third) / "spack-x86_64_v3.lock").write_text(json.dumps({"roots": [], "concrete_specs": {}}))
    assert "spack-x86_64_v4.lock is missing" in all_releases(world.context)[0].problem


def test_gc_keeps_the_packages_of_a_release_of_another_operating_system(tmp_path: Path) -> None:
    """A storage outlives its cluster, and the next one may have another image."""
    world, (first, second, third) = three_releases(tmp_path)
    world.host = replace(world.host, os="debian13")
    latest = publish(world, world.config_text)
    plan = collector.plan(world.context, 9, ())
    assert set(plan.keep) == {latest, first, second, third}
    assert plan.is_empty
    plan = collector.plan(world.context, 1, ())
    assert set(plan.drop) == {first, second, third}
    collector.remove(world.context, plan)
    assert {path.parent.name for path in world.paths.store.glob("*/[!.]*")} == {"linux-debian13-x86_64"}
    assert rollback_target(world.context, all_releases(world.context), latest).name == latest


def test_a_release_of_another_operating_system_is_not_published_again(tmp_path: Path) -> None:
    world, (first, _, _) = three_releases(tmp_path)
    world.host = replace(world.host, os="debian13")
    with pytest.raises(ReleaseError) as caught:
        rollback_target(world.context, all_releases(world.context), first)
    assert caught.value.why == "it was made on debian12, this node has debian13"


def test_gc_keeps_the_packages_of_a_desired_release_that_is_not_complete_yet(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    publish(world, "stack: none")
    world.config_text = with_spack(tmp_path)
    steps = [step for step in STEPS if step.name not in ("publish", "module-tree")]
    engine.converge(steps, world.context, silent)
    assert len(list(world.paths.store.glob("linux*/[!.]*"))) == 2  # a binary package and one of Spack
    assert collector.plan(world.context, 1, ()).is_empty
    shutil.rmtree(world.paths.release(world.release))  # the run was killed before it solved the stack
    plan = collector.plan(world.context, 1, ())
    assert not [package for package in plan.packages if "hello" in package.path.name]
    assert plan.files == ()


def test_gc_removes_and_logs_files_that_no_kept_release_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(tmp_path / "head")
    config = with_spack(tmp_path)
    old, new = publish(world, config), publish(world, config.replace("'1.0'", "'1.1'"))
    paths, shared = world.paths, ClusterState(world.paths)
    spack = paths.root / "spack"
    report = NodeReport("q1-st-c5-1", "compute", timestamp(), None)
    shared.save_report(report)
    shared.save_report(replace(report, node="login-gone", time=timestamp(0)))
    boot = f"{os.uname().nodename}-{2**22 + 1}"  # no process has this number
    unused = [
        *(paths.archives / name for name in ("0" * 64, f".{'1' * 64}.{boot}.part")),
        *(spack / name for name in ("1.0.0-0123456789ab", f".recipes-01.{boot}.part", f".clingo-01.{boot}.old")),
        paths.state / "nodes" / "login-gone.json",
        paths.state / "proof.json.bad",
        paths.work(old),
        paths.scratch / "spack" / "sources" / "_source-cache",
        next(paths.store.glob("linux*")) / f".p-1.{boot}.part",
        paths.root / f".current.{boot}.part",
        paths.pins / "petal" / f".{old}.lua.{boot}.part",
        paths.locks / f".stack.holder.{boot}.part",
    ]
    for path in unused[-3:]:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
    for path in unused[2:5] + unused[-6:-3]:
        (path / "lib").mkdir(parents=True, exist_ok=True)
        (path / ".petal-origin.json").write_text("{}")
    for path in (*unused[:2], unused[6]):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(5000))
        os.utime(path, (0, 0))
    kept = [spack / f".recipes-02.{os.uname().nodename}-{os.getpid()}.part", paths.state / "token.json.bad"]
    kept[0].mkdir()
    kept[1].touch()
    desired = shared.desired_state()
    assert desired is not None
    shared.save_desired_state(replace(desired, sha256="2" * 64))
    kept.append(paths.archives / ("2" * 64))
    kept[2].touch()
    plan = collector.plan(world.context, 1, ())
    assert {file.path for file in plan.files} == set(unused)
    assert plan.bytes == sum(item.size for item in (*plan.packages, *plan.files)) + sum(plan.drop.values()) > 10_000
    trees = sorted(path for path in spack.glob("[!.]*") if path not in unused)
    with caplog.at_level("INFO", logger="petal"):
        collector.remove(world.context, plan)
    assert not [path for path in unused if path.exists()]
    assert all(path.exists() for path in (*kept, *trees, paths.work(new)))
    assert [one.node for one in shared.reports().current] == ["q1-st-c5-1"]
    for path in (*unused, paths.release(old)):
        assert f"removed {path}, " in caplog.text
    assert collector.plan(world.context, 1, ()).is_empty


@pytest.mark.parametrize("change", [Path.unlink, os.utime])
def test_gc_keeps_the_spack_of_a_release_whose_source_was_replaced(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    """The source is a local file without a checksum."""
    world = World(tmp_path / "head")
    publish(world, re.sub(r"(spack.tar.gz), sha256: \w+", r"\1", with_spack(tmp_path)))
    (tree,) = (world.paths.root / "spack").glob("1.1.1-*")
    change(tmp_path / "spack.tar.gz")
    assert program.locate(world.context.config, world.paths).tree != tree
    assert collector.plan(world.context, 1, ()).files == ()


def test_gc_needs_a_current_release(tmp_path: Path) -> None:
    world, _ = three_releases(tmp_path)
    world.paths.current.unlink()
    with pytest.raises(ReleaseError) as error:
        collector.plan(world.context, 1, ())
    assert error.value.code == "release-unknown"


# ----------------------------------------------------------------------------------------------------------- jobs


def test_jobs_of_all_users_are_read_with_the_time_of_their_submission(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    lines = ["17|alice|1764500000|RUNNING|None", "18_[1-9]|bob|1764400000|PENDING|Resources | x", "noise"]
    world.system.answers["squeue"] = lambda _: "\n".join(lines)
    first, second = jobs(world.system)
    assert (first.id, first.user, first.submitted) == ("17", "alice", 1764500000.0)
    assert (second.ended, str(second)) == (False, "job 18_[1-9] is PENDING (Resources | x)")
    (command,) = world.system.commands
    assert {"--all", "--states=all"} <= set(command)


def test_a_job_without_a_time_of_submission_is_an_error(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    world.system.answers["squeue"] = lambda _: "17|alice|N/A|RUNNING|None\n"
    with pytest.raises(ProcessFailed, match="when a job was submitted"):
        jobs(world.system)


def test_gc_names_the_remedy_if_slurm_does_not_answer(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)

    def silent_controller(_: Sequence[str]) -> str:
        raise ProcessFailed("squeue ended with 1", why="Unable to contact slurm controller")

    world.system.answers["squeue"] = silent_controller
    unknown, (error,) = _jobs(world.context)
    assert unknown is None
    assert (error.code, error.remedy[0]) == ("slurm-silent", "scontrol ping")
    assert "Unable to contact slurm controller" in error.why
    world.live = False
    assert _jobs(world.context) == ((), ())


@pytest.mark.parametrize("text", ["{", '{"format": 1, "published": [{"release": "../x"}]}'])
def test_a_damaged_record_of_published_releases_stops_only_what_needs_it(tmp_path: Path, text: str) -> None:
    world, (first, second, third) = three_releases(tmp_path)
    options = world.options(command="rollback", role=Role.HEAD)
    record = world.paths.state / "published.json"
    record.write_text(text)
    plan = collector.plan(world.context, 1, ())
    assert (plan.drop, plan.packages, plan.keep[third]) == ({}, (), "current")
    assert all(str(record) in plan.keep[release] for release in (first, second))
    listed = releases(options, world.services)
    assert ({one.release for one in listed.data.releases}, listed.data.before) == ({first, second, third}, None)
    assert [error["remedy"] for error in listed.errors] == [["on the head node: petal-node repair"]]
    with pytest.raises(StateError, match=re.escape(str(record))):
        rollback(options, world.services)
    assert rollback(replace(options, release=second), world.services).data.release == second


def test_a_damaged_record_does_not_prevent_publishing(tmp_path: Path) -> None:
    world, (first, _, _) = three_releases(tmp_path)
    to = rollback_target(world.context, all_releases(world.context), first)
    (world.paths.state / "published.json").write_text("{")
    roll_back(world.context, to)
    assert current_release(world.paths) == first


def test_plain_data_of_a_plan_is_what_json_shows(tmp_path: Path) -> None:
    from bootstrap.core.model import plain

    world, (first, _, third) = three_releases(tmp_path)
    shown: Any = plain(collector.plan(world.context, 1, ()))
    assert shown["keep"] == {third: "current"}
    assert set(shown["packages"][0]) == {"path", "hash", "size"}
    assert first in shown["drop"]
