"""A cluster is deleted, its shared storage is kept: the nodes of the next cluster boot with it, in any order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab.cluster import PHASES, Lab
from tests.lab.engine import until
from tests.lab.faults import assert_users_can_work, blocked_step, last_hook, sh, wait_until_ready
from tests.lab.test_convergence import status

# A process of the dying head node holds the lock, and has recorded its name.
INSTALLS = (
    "import fcntl, time; f = open('/shared/petal/lock/stack.lock', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX); "
    "open('/run/holds', 'w').close(); time.sleep(600)"
)
ENDPOINT = {"AWS_ENDPOINT_URL": "http://s3:5000"}
KEPT = "cd /shared/petal/root && find store releases current -printf '%p %i %T@ %l\\n' | sort"


def rename(lab: Lab, node: str) -> None:
    """Make the node a part of the cluster ``next``; ParallelCluster writes these files before any hook runs."""
    stack = "arn:aws:cloudformation:us-east-1:123456789012:stack/next/9f8e7d6c"
    dna = json.loads(lab.read(node, "/etc/chef/dna.json"))
    named = {key: "next" for key in ("stack_name", "cluster_name") if key in dna["cluster"]}
    lab.write(node, "/etc/chef/dna.json", json.dumps({"cluster": {**dna["cluster"], **named, "stack_arn": stack}}))
    sh(lab, node, "sed -i 's/^stack_name=.*/stack_name=next/' $(readlink -f /etc/parallelcluster/cfnconfig)")


def boot(lab: Lab, node: str) -> None:
    """Boot a new machine as a node of the next cluster."""
    first, *rest = PHASES
    lab.phase(node, first).check()
    rename(lab, node)
    for phase in rest:
        lab.phase(node, phase).check()


@pytest.fixture
def old_storage(cluster: Lab) -> dict[str, Any]:
    """The storage of the first cluster after its head node died in the middle of a run."""
    found: dict[str, Any] = status(cluster, "head")["data"]
    assert [report["node"] for report in found["reports"]]
    sh(cluster, "head", f'systemd-run --quiet --collect python3 -c "{INSTALLS}"')
    until("the lock is held", lambda: cluster.exec("head", ("test", "-e", "/run/holds")).ok, 30)
    found["kept"] = sh(cluster, "head", KEPT)
    return found


def test_the_next_cluster_uses_the_software_of_the_deleted_cluster(cluster: Lab, old_storage: dict[str, Any]) -> None:
    for node in ("head", "login-1", "compute-1"):  # and with the head node the holder of the lock
        cluster.replace(node)
    boot(cluster, "login-1")
    early = blocked_step(last_hook(cluster, "login-1"), "storage-unprepared")
    assert f"serves cluster {cluster.name} in us-east-1" in early["reason"]

    boot(cluster, "head")
    owner = blocked_step(last_hook(cluster, "head"), "storage-other-cluster", "storage-owner")
    assert "if that cluster is deleted: petal-node bootstrap --accept-storage" in owner["remedy"]
    assert sh(cluster, "head", KEPT) == old_storage["kept"]
    done = cluster.exec("head", ("petal-node", "bootstrap", "--accept-storage", "--json"), env=ENDPOINT).check()
    steps = {step["name"]: step for step in json.loads(done.stdout.splitlines()[-1])["data"]["steps"]}
    assert (steps["storage-owner"]["outcome"], steps["storage-owner"]["reason"]) == (
        "changed",
        "shared storage serves cluster next in us-east-1",
    )
    assert steps["storage-owner"]["changes"][0] == f"take over release {old_storage['current']}"
    assert {steps[name]["outcome"] for name in ("packages", "module-tree", "publish")} == {"ok"}
    assert sh(cluster, "head", KEPT) == old_storage["kept"]
    wait_until_ready(cluster, "head")

    wait_until_ready(cluster, "login-1")
    assert_users_can_work(cluster, "login-1")
    boot(cluster, "compute-1")
    wait_until_ready(cluster, "compute-1")
    assert_users_can_work(cluster, "compute-1")
    names = {report["node"] for report in status(cluster, "head")["data"]["reports"]}
    assert names <= {"ip-10-0-0-20", "queue1-st-c5-1"}
