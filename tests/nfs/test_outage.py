"""The server stops answering and comes back: commands end in time with the reason, and nodes recover automatically."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .machine import Done, Machine, Node
from .software import codes

# The time of a hook, and the time to start Python twice in the machine while other tests run.
HOOK_SECONDS = 10.0
STARTS = 8.0
# Our processes older than any deadline, except those that the kernel cannot kill (state D).
OLD = "ps -eo etimes=,state=,args= | awk '$1 > 60 && $2 != \"D\" && /[p]etal-node/' | grep ."


@pytest.fixture
def client(nfs: Machine, releases: tuple[str, str]) -> Iterator[Node]:
    """A ready client; the server answers again after the test."""
    yield nfs.client(2)
    nfs.head.plug()


def record_of(client: Node, hook: Done) -> dict[str, Any]:
    """Wait for the worker's end and return its record: a hook waits only for a limited time."""
    record = f"/var/lib/petal-node/runs/{hook.json()['run_id']}.json"
    client.until("the worker has ended", f"""grep '"finished": "2' {record}""", 60)
    run: dict[str, Any] = json.loads(client.read(record))
    return run


def test_status_and_plan_end_in_time_while_the_server_is_silent(nfs: Machine, client: Node) -> None:
    nfs.head.unplug()
    asked = [client.begin("/lab/petal-node", verb, "--json", seconds=30) for verb in ("status", "plan")]
    status, plan = (running.result() for running in asked)
    assert status.code == 3
    assert "storage-hangs" in codes(status)
    assert (plan.code, codes(plan)) == (78, {"config-missing"})
    assert "/shared did not answer within 5 s" in plan.output


def test_a_hook_exits_0_during_an_outage_and_the_node_recovers_automatically(nfs: Machine, client: Node) -> None:
    client.write("/etc/petal.yaml", "stack: none\n")
    hook = ("hook", "configured", "--config", "/etc/petal.yaml")
    record_of(client, client.petal(*hook, "--json").ok())
    nfs.head.unplug()
    done = client.petal(*hook, "--json", seconds=60)
    assert done.code == 0
    assert done.seconds < HOOK_SECONDS + STARTS
    run = record_of(client, done)
    assert run["status"] == "degraded"
    assert "did not answer within 5 s" in str(run["steps"])
    client.until("the timer tries again", "systemctl is-active petal-node-converge.timer", 30)
    check = client.petal("check", "--json", seconds=60)
    assert check.code == 3
    (storage,) = (found for found in check.json()["data"]["findings"] if found["check"] == "storage")
    assert storage["severity"] == "fail"
    assert "did not answer within 5 s" in storage["message"]
    assert client.sh(OLD).code != 0

    nfs.head.plug()
    client.until("the timer stops: ready", "! systemctl is-active petal-node-converge.timer", 150)
    client.petal("check").ok()
    client.until("nothing is left hanging", f"! {OLD} && ! ps -eo state= | grep -q D", 60)
