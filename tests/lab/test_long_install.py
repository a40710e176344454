"""An install of an hour: hooks return in time, and the install goes on without holding their streams.

``make bench-hooks`` measures the time of the hooks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.lab import stack
from tests.lab.bench_hooks import hour_long
from tests.lab.cluster import PHASES, Lab
from tests.lab.engine import until

BUDGET = 5
BUILDER = "ps ax -o pid=,args= | grep '[b]in/spack.* install' | head -n 1"
# Prints the files of the standard streams of process $1.
STREAMS = 'for end in 0 1 2; do readlink "/proc/$1/fd/$end"; done'


@pytest.fixture(scope="module")
def busy(lab: Lab) -> Iterator[Lab]:
    """A head node during an install of an hour, after its hook has returned."""
    reason = stack.no_spack()
    if reason:
        pytest.skip(reason)
    lab.fresh()
    hour_long(lab, BUDGET)
    for result in lab.boot("head", PHASES[:4]):
        result.check()
    until("Spack installs", lambda: bool(lab.exec("head", ("sh", "-c", BUILDER)).stdout), 60)
    yield lab
    lab.exec("head", ("systemctl", "stop", "petal-node-worker-*")).check()


def builder(lab: Lab) -> str:
    return lab.exec("head", ("sh", "-c", BUILDER)).stdout.split()[0]


def test_the_install_goes_on_after_the_hook_without_its_streams(busy: Lab) -> None:
    streams = busy.exec("head", ("sh", "-c", STREAMS, "streams", builder(busy))).check().stdout.split("\n")[:3]
    assert streams[0] == "/dev/null"
    shown = busy.exec("head", ("petal-node", "status")).stdout
    assert "petal-node status: running" in shown
    record = json.loads(busy.exec("head", ("petal-node", "status", "--json")).stdout)["data"]["runs"][0]
    assert (record["verb"], record["finished"], record["budget"]) == ("hook", None, BUDGET)
    cgroup = busy.exec("head", ("cat", f"/proc/{builder(busy)}/cgroup")).check().stdout
    assert "petal-node-worker" in cgroup


def test_a_second_hook_follows_the_running_install_and_returns(busy: Lab) -> None:
    before = builder(busy)
    again = busy.phase("head", "configured").check()
    assert "waiting for ip-10-0-0-10, process" in again.stdout
    assert "still running" in again.stdout
    assert builder(busy) == before


@pytest.mark.parametrize("node", ["login-1", "compute-1"])
def test_hooks_of_other_nodes_do_not_wait_for_the_install(busy: Lab, node: str) -> None:
    for result in busy.boot(node):
        result.check()
    status = json.loads(busy.exec(node, ("petal-node", "status", "--json")).stdout)["data"]
    assert status["holder"]["host"] == "ip-10-0-0-10"
    assert status["current"] is None
    timer = ("systemctl", "is-active", "petal-node-converge.timer")
    until("the timer runs", lambda: busy.exec(node, timer).stdout.strip() == "active", 30)


def test_no_process_remains_after_the_workers_unit_is_stopped(busy: Lab) -> None:
    busy.exec("head", ("systemctl", "stop", "petal-node-worker-*")).check()
    assert busy.exec("head", ("sh", "-c", BUILDER)).stdout == ""
    record = json.loads(busy.exec("head", ("petal-node", "status", "--json")).stdout)["data"]["runs"][-2]
    assert record["errors"][0]["code"] == "interrupted"
