"""Releases: what was published, the way back, and what nobody needs any more."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cluster.jobs import Job, jobs
from bootstrap.core.errors import LockLost, ProcessFailed, ReleaseError, StateError
from bootstrap.core.model import Outcome, StepReport
from bootstrap.engine import converge as engine
from bootstrap.releases import gc as unused
from bootstrap.releases.catalog import before_this, known_releases
from bootstrap.releases.publish import roll_back, to_roll_back
from bootstrap.state.release import current_release
from bootstrap.state.store import Shared
from bootstrap.steps.registry import STEPS
from tests.world import World, tarball, with_spack


def silent(_: StepReport) -> None:
    pass


def publish(world: World, config_text: str) -> str:
    world.config_text = config_text
    reports = {report.name: report for report in engine.converge(STEPS, world.context, silent)}
    assert reports["release"].outcome.holds, reports["release"]
    return world.release


def three(tmp_path: Path) -> tuple[World, list[str]]:
    """A head node that has published three releases, each with one package more."""
    from bootstrap.host.files import sha256_of

    world = World(tmp_path / "head")
    lines, made = [], []
    for number in ("1", "2", "3"):
        path = tarball(tmp_path / f"p{number}.tar.gz", {f"p-{number}/bin/p": number})
        lines.append(f"{{name: p, version: '{number}', source: {path}, sha256: {sha256_of(path)}}}")
        made.append(publish(world, f"packages: [{', '.join(lines[-2:])}]"))
    return world, made


def test_a_rollback_leads_to_the_release_before_and_stays(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    assert [one.name for one in known_releases(world.context)] == [third, second, first]
    assert before_this(world.context) == second
    roll_back(world.context, to_roll_back(world.context, None))
    assert current_release(world.paths) == second
    wanted = Shared(world.paths).wanted()
    assert wanted is not None
    assert wanted.release == second
    assert [package["version"] for package in wanted.config["packages"]] == ["1", "2"]
    # once more leads forth again, as `cd -` does
    assert before_this(world.context) == third
    roll_back(world.context, to_roll_back(world.context, first[:8]))
    assert current_release(world.paths) == first
    assert [one.release for one in Shared(world.paths).published()] == [first, second, third, second, first]


def test_what_cannot_be_published_again_is_told(tmp_path: Path) -> None:
    world, (first, second, _) = three(tmp_path)
    with pytest.raises(ReleaseError) as unknown:
        to_roll_back(world.context, "feed")
    assert unknown.value.code == "release-unknown"
    (world.paths.release(first) / "wanted.json").unlink()
    with pytest.raises(ReleaseError, match="cannot be published") as kept:
        to_roll_back(world.context, first)
    assert "did not keep its configuration" in kept.value.why
    (prefix,) = world.paths.store.glob("*/p-2-*")
    prefix.rename(prefix.with_name("away"))
    with pytest.raises(ReleaseError) as gone:
        to_roll_back(world.context, second)
    assert "1 of its packages are gone: p-2-" in gone.value.why
    world.paths.manifest(second).unlink()
    with pytest.raises(ReleaseError) as half:
        to_roll_back(world.context, second)
    assert "never complete" in half.value.why


def test_a_rollback_that_is_killed_in_the_middle_is_ended_by_the_next_convergence(tmp_path: Path) -> None:
    world, (_, second, third) = three(tmp_path)
    to = to_roll_back(world.context, None)

    def dies() -> None:
        calls.append(1)
        if len(calls) == 2:
            raise LockLost("killed here")

    calls: list[int] = []
    with pytest.raises(LockLost):
        roll_back(replace(world.context, confirm=dies), to)
    assert current_release(world.paths) == third
    assert to.wanted is not None
    world.config_text = json.dumps(dict(to.wanted.config))
    assert world.release == second
    publish(world, world.config_text)
    assert current_release(world.paths) == second


def test_a_run_that_waited_while_somebody_rolled_back_publishes_nothing(tmp_path: Path) -> None:
    world, (_, second, third) = three(tmp_path)
    roll_back(world.context, to_roll_back(world.context, None))
    world.paths.release(third).joinpath("manifest.json").unlink()  # so that there is something to do
    reports = engine.converge(STEPS, replace(world.context, decides=False), silent)
    failed = [report for report in reports if report.outcome is Outcome.FAILED]
    assert failed[0].error
    assert failed[0].error["code"] == "state-settled"
    assert current_release(world.paths) == second


# ------------------------------------------------------------------------------------------------------------ gc


def names(packages: Sequence[unused.Unused]) -> list[str]:
    return [package.prefix.name.rpartition("-")[0] for package in packages]


def test_gc_keeps_what_is_needed_and_takes_what_is_not(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    plan = unused.plan(world.context, 1, ())
    assert plan.keep == {third: "current"}
    assert set(plan.drop) == {first, second}
    assert names(plan.packages) == ["p-1"]  # p-2 is the third's too
    assert plan.size > 0
    unused.remove(world.context, plan)
    assert [one.name for one in known_releases(world.context)] == [third]
    assert sorted(path.name[:3] for path in world.paths.store.glob("*/[!.]*")) == ["p-2", "p-3"]
    assert [path.stem for path in (world.paths.pins / "petal").iterdir()] == [third]
    again = unused.plan(world.context, 1, ())
    assert (again.drop, again.packages) == ({}, ())


def test_gc_keeps_the_newest_what_is_wanted_and_what_jobs_use(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    assert unused.plan(world.context, 3, ()).drop == {}
    roll_back(world.context, to_roll_back(world.context, second))
    assert unused.plan(world.context, 1, ()).keep == {second: "current"}
    job = Job("7", "alice", frozenset({first}), known=True)
    assert unused.plan(world.context, 1, (job,)).keep == {second: "current", first: "job 7 of alice uses it"}
    unknown = Job("8", "bob", frozenset(), known=False)
    keep = unused.plan(world.context, 1, (unknown,)).keep
    assert set(keep) == {first, second, third}
    assert keep[third] == "job 8 of bob may use it"


def test_gc_leaves_tarballs_that_an_older_release_may_need(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    (world.paths.release(second) / "wanted.json").unlink()
    plan = unused.plan(world.context, 2, ())
    assert set(plan.keep) == {second, third}
    assert plan.packages == ()
    assert "tarballs" in plan.left[0]
    assert first in plan.drop


def test_gc_keeps_what_it_cannot_read(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    world.paths.manifest(first).write_text('{"format": 99}')
    plan = unused.plan(world.context, 1, ())
    assert "newer petal-node" in plan.keep[first]
    assert (set(plan.drop), plan.packages) == ({second}, ())
    assert third in plan.keep


def test_gc_goes_on_after_a_kill(tmp_path: Path) -> None:
    world, (first, second, third) = three(tmp_path)
    world.paths.release(first).rename(world.paths.releases / f".{first}.gone")
    plan = unused.plan(world.context, 1, ())
    unused.remove(world.context, plan)
    assert sorted(path.name for path in world.paths.releases.iterdir()) == [third]
    assert second in plan.drop


def test_gc_removes_spacks_packages_by_spack(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    first = publish(world, with_spack(tmp_path))
    lockfile = next(world.paths.release(first).glob("spack*.lock"))
    lockfile.write_text(json.dumps({"roots": [], "concrete_specs": {}}))
    plan = unused.plan(world.context, 1, ())
    assert [package.hash for package in plan.packages] == ["a" * 32]
    unused.remove(world.context, plan)
    (command,) = [command for command in world.system.commands if "uninstall" in command]
    assert command[-1] == "/" + "a" * 32
    assert "modules:default:enable::[]" in command
    assert "-E" in command
    assert not list(world.paths.store.glob("*/fftw-*"))


def test_without_a_current_release_nothing_is_unused(tmp_path: Path) -> None:
    world, _ = three(tmp_path)
    world.paths.current.unlink()
    with pytest.raises(ReleaseError) as error:
        unused.plan(world.context, 1, ())
    assert error.value.code == "release-no-current"


# ----------------------------------------------------------------------------------------------------------- jobs


def controller(tmp_path: Path, queue: str) -> World:
    world = World(tmp_path / "head", live=True)
    world.system.answers["squeue"] = lambda _: queue
    world.system.answers["scontrol"] = lambda _: (
        f"SlurmUser = slurm(64030)\nStateSaveLocation       = {tmp_path}/state\n"
    )
    return world


def kept(tmp_path: Path, number: int, environment: bytes, script: bytes = b"#!/bin/bash\n") -> None:
    place = tmp_path / "state" / f"hash.{number % 10}" / f"job.{number}"
    place.mkdir(parents=True)
    (place / "environment").write_bytes(b"\x03\x00\x00\x00" + environment)
    (place / "script").write_bytes(script)


def test_a_jobs_release_is_in_its_environment_and_its_script(tmp_path: Path) -> None:
    queue = (
        "17|17|alice|RUNNING",
        "19|18|bob|PENDING",
        "23|23|eve|COMPLETED",
        "31|31|carol|RUNNING",
        "42|42|dan|RUNNING",
    )
    world = controller(tmp_path, "".join(line + "\n" for line in queue))
    kept(tmp_path, 42, b"PATH=/bin\0PETAL_RELEASE=/opt/petal/current\0")  # its shells took what was current then
    kept(tmp_path, 17, b"PATH=/bin\0PETAL_RELEASE=/opt/petal/releases/aaaaaaaaaaaa\0HOME=/x\0")
    kept(tmp_path, 18, b"PATH=/bin\0", b"#!/bin/bash -l\nmodule load petal/bbbbbbbbbbbb\n")
    found = {job.number: job for job in jobs(world.system)}
    assert found["17"] == Job("17", "alice", frozenset({"aaaaaaaaaaaa"}), known=True)
    assert found["19"] == Job("19", "bob", frozenset({"bbbbbbbbbbbb"}), known=True)  # a task of an array
    assert found["31"] == Job("31", "carol", frozenset(), known=False)
    assert not found["42"].known
    assert "23" not in found


def test_no_jobs_need_no_look(tmp_path: Path) -> None:
    assert jobs(controller(tmp_path, "").system) == ()


def test_a_controller_that_does_not_say_where_its_state_is(tmp_path: Path) -> None:
    world = controller(tmp_path, "17|17|alice|RUNNING\n")
    world.system.answers["scontrol"] = lambda _: "SlurmUser = slurm\n"
    with pytest.raises(ProcessFailed):
        jobs(world.system)


def test_a_published_json_of_another_shape_is_refused(tmp_path: Path) -> None:
    world, _ = three(tmp_path)
    (world.paths.state / "published.json").write_text('{"format": 1, "published": [{"release": "../x"}]}')
    with pytest.raises(StateError):
        known_releases(world.context)


def test_a_damaged_note_keeps_nobody_from_publishing(tmp_path: Path) -> None:
    world, (first, _, _) = three(tmp_path)
    to = to_roll_back(world.context, first)
    (world.paths.state / "published.json").write_text("{")
    roll_back(world.context, to)
    assert current_release(world.paths) == first


def test_plain_data_of_a_plan_is_what_json_shows(tmp_path: Path) -> None:
    from bootstrap.core.model import plain

    world, (first, _, third) = three(tmp_path)
    told: Any = plain(unused.plan(world.context, 1, ()))
    assert told["keep"] == {third: "current"}
    assert set(told["packages"][0]) == {"prefix", "hash", "size"}
    assert first in told["drop"]
