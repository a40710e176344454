"""A hook's budget: the configured value, limited by ParallelCluster's own timeout."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.cluster.limits import CLUSTER_CONFIG, VERSION, head_limit, hook_budget
from bootstrap.core.model import Role
from bootstrap.core.paths import Paths
from bootstrap.engine.run import budget_of
from tests.world import World, typed

TIMEOUTS = "DevSettings:\n  Timeouts:\n    HeadNodeBootstrapTimeout: 3600\n"


@pytest.mark.parametrize(
    ("version", "config", "limit"),
    [
        ("aws-parallelcluster-cookbook-3.16.1", "", 2100),
        ("aws-parallelcluster-cookbook-3.11.0", "", 1800),
        ("aws-parallelcluster-cookbook-3.9.0", "", 1800),
        ("", "", 2100),
        ("aws-parallelcluster-cookbook-3.16.1", TIMEOUTS, 3600),
        ("", "A: &a {b: 1}\nC: *a\n" + TIMEOUTS, 3600),
        ("", "DevSettings: {Timeouts: {HeadNodeBootstrapTimeout: x}}", 2100),
        ("", "DevSettings: [", 2100),
        ("", TIMEOUTS.replace("3600", "9" * 400), 2100),
        ("", TIMEOUTS.replace("3600", "90000"), 2100),
        ("", TIMEOUTS.replace("3600", "true"), 2100),
        ("9" * 5000 + ".1.0", "", 2100),
        ("", "DevSettings: 1", 2100),
    ],
)
def test_the_head_nodes_limit_is_parallelclusters(version: str, config: str, limit: float) -> None:
    assert head_limit(version, config) == limit


@pytest.mark.parametrize(
    ("role", "event", "budget", "uptime", "seconds"),
    [
        (Role.HEAD, "configured", 300, 200, 300),
        (Role.HEAD, "configured", 3600, 200, 1300),
        (Role.HEAD, "configured", 300, 1400, 100),
        (Role.HEAD, "configured", 300, 1600, 0),
        (Role.HEAD, "configured", 300, 90_000, 300),
        (Role.HEAD, "updated", 3600, 90_000, 3600),
        (Role.COMPUTE, "configured", 300, 200, 9),
        (Role.LOGIN, "configured", 300, 200, 9),
    ],
)
def test_a_hooks_budget_is_limited(
    role: Role, event: str, budget: int, uptime: float, seconds: float, tmp_path: Path
) -> None:
    assert hook_budget(role, event, budget, Paths(tmp_path), uptime) == seconds


def test_the_limit_is_read_from_the_nodes_files(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for name, text in ((VERSION, "aws-parallelcluster-cookbook-3.11.0\n"), (CLUSTER_CONFIG, "Region: us-east-1\n")):
        paths.at(name).parent.mkdir(parents=True, exist_ok=True)
        paths.at(name).write_text(text)
    assert hook_budget(Role.HEAD, "configured", 3600, paths, 0) == 1200


@pytest.mark.parametrize(("live", "budget"), [(True, 0.0), (False, 300.0)])
def test_the_uptime_of_the_machine_is_used_only_on_a_node(tmp_path: Path, live: bool, budget: float) -> None:
    world = World(tmp_path / "head", live=live)
    world.system.uptime = lambda: 1600.0
    assert budget_of(typed(world.context, event="configured")) == budget
