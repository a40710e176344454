"""The lock between the head node, which uses a local disk, and its NFS clients; holders that are killed or cut off."""

from __future__ import annotations

import re
import time

import pytest

from .machine import LEASE, Machine, Node, Running
from .software import codes, configure, current, publish

FOLDER = "/shared/locks"
# A client renews its lease when two thirds of it are over (Linux, fs/nfs/nfs4renewd.c), so at least a third is left.
LEFT = LEASE / 3


def contend(nfs: Machine, folder: str, rounds: list[int], *how: str) -> tuple[int, int, int]:
    """Run six processes on three nodes; return the number of rounds, of double holders and of changes between nodes."""
    nfs.head.run("mkdir", "-p", f"/shared/{folder}").ok()
    nodes = [nfs.head, nfs.client(1), nfs.client(2)] * 2
    workers = [
        (node.name, node.begin("python3", "/lab/lock_rounds.py", f"/shared/{folder}", str(share), *how, seconds=600))
        for node, share in zip(nodes, rounds)
    ]
    stays = sorted((*stay, name) for name, worker in workers for stay in worker.result().ok().json()["stays"])
    pairs = list(zip(stays, stays[1:]))
    doubles = sum(entered < left for (_, left, _), (entered, _, _) in pairs)
    return len(stays), doubles, sum(one[2] != other[2] for one, other in pairs)


def test_the_lock_never_has_two_holders_in_a_thousand_rounds(nfs: Machine) -> None:
    count, doubles, changes = contend(nfs, "rounds", [167, 167, 167, 167, 166, 166])
    assert (count, doubles) == (1000, 0)
    assert changes > 20, "the nodes hardly competed for the lock"


def test_double_holders_are_counted_if_flock_is_used_as_control(nfs: Machine) -> None:
    _, doubles, _ = contend(nfs, "flock", [20] * 6, "flock")
    assert doubles > 0


@pytest.fixture
def folder(nfs: Machine) -> str:
    """An empty folder for one lock."""
    path = f"{FOLDER}-{time.monotonic_ns()}"
    nfs.head.run("mkdir", path).ok()
    return path


def hold(node: Node, folder: str, run: str, *go: str) -> Running:
    """Take the lock as ``run``; with ``go`` keep it until that file exists, and confirm it."""
    return node.begin("python3", "/lab/hold.py", folder, run, "60", *go, seconds=120)


def holding(nfs: Machine, node: Node, folder: str, go: str) -> Running:
    """Start ``hold`` and wait until it holds the lock."""
    running = hold(node, folder, "first", go)
    nfs.head.until("the first holds", f"grep -qs first {folder}/stack.holder")
    return running


def test_the_lock_of_a_killed_holder_is_free_at_once(nfs: Machine, folder: str) -> None:
    first = holding(nfs, nfs.client(1), folder, "/tmp/never")
    nfs.client(1).run("pkill", "-KILL", "-f", "hold.py /shared").ok()
    for node in (nfs.client(2), nfs.head):
        assert hold(node, folder, "next").result().ok().json()["waited"] < LEFT
    assert first.result().code == -9


def test_the_head_node_names_the_address_of_the_client_that_holds_the_lock(nfs: Machine, folder: str) -> None:
    first = holding(nfs, nfs.client(1), folder, "/tmp/named")
    error = nfs.head.run("python3", "/lab/hold.py", folder, "next", "1").ok().json()["error"]
    nfs.client(1).write("/tmp/named", "")
    first.result().ok()
    assert error["code"] == "lock-timeout"
    assert re.fullmatch(r"held by client1, process \d+, .*, run first and NFS client 10\.[\d.]+", error["why"])


def test_a_holder_that_was_cut_off_knows_whether_it_lost_the_lock(nfs: Machine, folder: str) -> None:
    """Another node takes one lock after the lease; no node requests the other lock, so its holder keeps it."""
    robbed, alone = nfs.client(1), nfs.client(2)
    nfs.head.run("mkdir", f"{folder}/wanted", f"{folder}/quiet").ok()
    first = holding(nfs, robbed, f"{folder}/wanted", "/tmp/robbed")
    second = holding(nfs, alone, f"{folder}/quiet", "/tmp/alone")
    robbed.unplug()
    alone.unplug()
    began = time.monotonic()
    waited = hold(nfs.head, f"{folder}/wanted", "next").result().ok().json()["waited"]
    assert LEFT - 1 < waited < 4 * LEASE
    time.sleep(max(0, began + 1.5 * LEASE - time.monotonic()))  # the test is about a time longer than the lease
    robbed.plug()
    alone.plug()
    robbed.write("/tmp/robbed", "")
    alone.write("/tmp/alone", "")
    error = first.result().ok().json()["error"]
    assert error["code"] == "lock-lost"
    assert "taken by head" in error["why"]
    assert second.result().ok().json()["error"] is None


def test_a_run_that_lost_its_lock_publishes_nothing(nfs: Machine, releases: tuple[str, str]) -> None:
    """A head node with NFS storage (EFS, FSx) is cut off during an install; another head node takes the lock."""
    client = nfs.client(1)
    path = configure(client, "3.0", files=4000)
    robbed = client.begin("/lab/petal-node", "bootstrap", "--role", "head", "--config", path, "--json", seconds=200)
    nfs.head.until("it unpacks", "ls -d /shared/petal/root/store/*/.hello-3.0*.part", 90)
    client.unplug()
    try:
        nfs.head.sh("ls -d /shared/petal/root/store/*/.hello-3.0*.part").ok()
        assert publish(nfs, "2.0") == releases[1]
    finally:
        client.plug()
    done = robbed.result()
    assert (done.code, codes(done)) == (75, {"lock-lost"})
    assert current(nfs.head) == releases[1]
    assert releases[1] in nfs.head.read("/shared/petal/state/desired.json")
    assert nfs.head.sh("ls -d /shared/petal/root/store/*/hello-3.0*").code != 0
    assert publish(nfs, "1.0") == releases[0]
    client.until("it sees the release", f"readlink /shared/petal/root/current | grep {releases[0]}", 90)
    client.petal("repair").ok()  # it acted as a head node, and is a compute node again
    client.petal("check").ok()
