"""The lock between the head node, which sees a local disk, and its NFS clients; and what becomes of its holders."""

from __future__ import annotations

import time

import pytest

from .machine import LEASE, Machine, Node, Running
from .software import codes, configure, current, publish

FOLDER = "/shared/locks"
# A client renews its lease when two thirds of it are over (Linux, fs/nfs/nfs4renewd.c), so so much is left at least.
LEFT = LEASE / 3


def contend(nfs: Machine, folder: str, rounds: list[int], *how: str) -> tuple[int, int, int]:
    """Six processes on three nodes, so many rounds each: rounds in all, double holders, changes from node to node."""
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


def test_a_thousand_rounds_and_never_two_holders(nfs: Machine) -> None:
    count, doubles, changes = contend(nfs, "rounds", [167, 167, 167, 167, 166, 166])
    assert (count, doubles) == (1000, 0)
    assert changes > 20, "hardly anybody contended"


def test_the_count_sees_double_holders_where_flock_is_the_lock(nfs: Machine) -> None:
    _, doubles, _ = contend(nfs, "flock", [20] * 6, "flock")
    assert doubles > 0


@pytest.fixture
def folder(nfs: Machine) -> str:
    """An empty folder for one lock."""
    path = f"{FOLDER}-{time.monotonic_ns()}"
    nfs.head.run("mkdir", path).ok()
    return path


def hold(node: Node, folder: str, run: str, *go: str) -> Running:
    """Takes the lock as ``run``; with ``go`` keeps it until that file is there, and confirms it."""
    return node.begin("python3", "/lab/hold.py", folder, run, "60", *go, seconds=120)


def holding(nfs: Machine, node: Node, folder: str, go: str) -> Running:
    """The same, and it holds."""
    running = hold(node, folder, "first", go)
    nfs.head.until("the first holds", f"grep -qs first {folder}/stack.holder")
    return running


def test_a_killed_holder_frees_it_at_once(nfs: Machine, folder: str) -> None:
    first = holding(nfs, nfs.client(1), folder, "/tmp/never")
    nfs.client(1).run("pkill", "-KILL", "-f", "hold.py /shared").ok()
    for node in (nfs.client(2), nfs.head):
        assert hold(node, folder, "next").result().ok().json()["waited"] < LEFT
    assert first.result().code == -9


def test_who_is_cut_off_knows_afterwards_whether_it_still_holds(nfs: Machine, folder: str) -> None:
    """One is robbed after its lease; the other one, cut off for as long, was not missed by anybody."""
    robbed, alone = nfs.client(1), nfs.client(2)
    nfs.head.run("mkdir", f"{folder}/wanted", f"{folder}/quiet").ok()
    first = holding(nfs, robbed, f"{folder}/wanted", "/tmp/robbed")
    second = holding(nfs, alone, f"{folder}/quiet", "/tmp/alone")
    robbed.unplug()
    alone.unplug()
    began = time.monotonic()
    waited = hold(nfs.head, f"{folder}/wanted", "next").result().ok().json()["waited"]
    assert LEFT - 1 < waited < 4 * LEASE
    time.sleep(max(0, began + 1.5 * LEASE - time.monotonic()))  # longer than the lease: that is the case
    robbed.plug()
    alone.plug()
    robbed.write("/tmp/robbed", "")
    alone.write("/tmp/alone", "")
    error = first.result().ok().json()["error"]
    assert error["code"] == "lock-lost"
    assert "taken by head" in error["why"]
    assert second.result().ok().json()["error"] is None


def test_a_robbed_run_publishes_nothing_over_the_new_holders_work(nfs: Machine, releases: tuple[str, str]) -> None:
    """A head node whose storage is NFS too (EFS, FSx), cut off in the middle of an install; another one goes on."""
    client = nfs.client(1)
    path = configure(client, "3.0", files=400)
    robbed = client.begin("/lab/petal-node", "bootstrap", "--role", "head", "--config", path, "--json", seconds=200)
    nfs.head.until("it unpacks", "ls -d /shared/petal/root/store/*/.hello-3.0*.part", 90)
    client.unplug()
    try:
        assert publish(nfs, "2.0") == releases[1]
    finally:
        client.plug()
    done = robbed.result()
    assert (done.code, codes(done)) == (75, {"lock-lost"})
    assert current(nfs.head) == releases[1]
    assert releases[1] in nfs.head.read("/shared/petal/state/desired.json")
    assert nfs.head.sh("ls -d /shared/petal/root/store/*/hello-3.0*").code != 0
    assert publish(nfs, "1.0") == releases[0]
    client.petal("repair").ok()  # it acted as a head node, and is a compute node again
    client.petal("check").ok()
