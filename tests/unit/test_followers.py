"""A configuration that running nodes keep on their own disks: the head node names those that do not follow."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.core.model import NodeReport
from bootstrap.engine.followers import kept_by_nodes, not_following
from bootstrap.state.context import Context
from bootstrap.state.store import ClusterState
from bootstrap.steps.storage import Storage
from tests.world import World

OLD, NEW = "stack: none", "stack: none\nmodules: {paths: [/shared/site], hide: [x]}"


def deciding(world: World) -> Context:
    return replace(world.context, sets_desired_state=True)


def head_with_reports(tmp_path: Path) -> World:
    world = World(tmp_path / "head", live=True, config_text=OLD)
    Storage().apply(world.context)
    state = ClusterState(world.context.paths)
    state.save_desired_state(world.context.desired_state)
    for node, role in (
        ("login-1", "login"),
        ("q1-st-c5-1", "compute"),
        ("q1-st-c5-2", "compute"),
        ("q1-dy-9", "compute"),
        ("q2-st-1", "compute"),
    ):
        state.save_report(NodeReport(node, role, "2026-11-30T00:00:00Z", None))
    return world


def test_nodes_that_are_up_are_named_with_the_commands(tmp_path: Path) -> None:
    world = head_with_reports(tmp_path)
    up = world.system.answers["sinfo"]
    world.system.answers["sinfo"] = lambda argv: up(argv) + "q1-dy-9|idle~|q1*|none\nq2-st-1|mixed|q2|none\n"
    before = kept_by_nodes(deciding(world))
    world.config_text = NEW
    (finding,) = not_following(world.context, before, world.config.to_dict())
    assert finding.message == "login-1,q1-st-c5-[1-2],q2-st-1 still follow the earlier modules.paths"
    login, *compute = finding.remedy
    assert login == "on login-1: petal-node bootstrap"
    of_q1, of_q2 = (shlex.split(line, comments=True)[1:] for line in compute)
    program = str(world.context.paths.link)
    assert of_q1 == ["-p", "q1", "-N2", "-w", "q1-st-c5-[1-2]", program, "bootstrap"]
    assert of_q2 == ["-p", "q2", "-N1", "-w", "q2-st-1", program, "bootstrap"]


def test_without_slurm_all_nodes_are_named(tmp_path: Path) -> None:
    world = head_with_reports(tmp_path)
    del world.system.answers["sinfo"]
    before = kept_by_nodes(deciding(world))
    world.config_text = NEW
    (finding,) = not_following(world.context, before, world.config.to_dict())
    assert finding.remedy == ("on login-1,q1-dy-9,q1-st-c5-[1-2],q2-st-1: petal-node bootstrap",)


@pytest.mark.parametrize("config", [OLD, "stack: none\nmodules: {hide: [x]}\ncheck: {mpi: true}"])
def test_a_change_that_nodes_do_not_keep_needs_no_command(config: str, tmp_path: Path) -> None:
    world = head_with_reports(tmp_path)
    before = kept_by_nodes(deciding(world))
    world.config_text = config
    assert not_following(world.context, before, world.config.to_dict()) == ()


def test_a_run_that_follows_the_desired_state_compares_nothing(tmp_path: Path) -> None:
    world = head_with_reports(tmp_path)
    following = replace(world.context, sets_desired_state=False)
    assert kept_by_nodes(following) is None
    assert not_following(following, None, {}) == ()
