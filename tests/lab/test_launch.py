"""check.launch: if a queue has no running node, the proof starts one, as a job would, and proves on it.

Slurm's power saving starts it: the lab's ResumeProgram starts slurmd on the machine that represents the instance.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab import stack
from tests.lab.cluster import PHASES, Lab
from tests.lab.demo import publish
from tests.lab.engine import until

NAME = "queue2-dy-c5-1"
CONF = "/opt/slurm/etc/slurm.conf"
QUEUES = """
NodeName=queue1-st-c5-1 CPUs=2 RealMemory=1000 State=UNKNOWN
NodeName={name} NodeAddr={address} CPUs=2 RealMemory=1000 State=CLOUD
PartitionName=queue1 Nodes=queue1-st-c5-1 Default=YES MaxTime=INFINITE State=UP
PartitionName=queue2 Nodes={name} MaxTime=INFINITE State=UP
SuspendProgram=/bin/true
ResumeProgram=/opt/slurm/etc/resume.sh
SuspendTime=600
ResumeTimeout=120
TreeWidth=65533
PrivateData=cloud
"""
RESUME = """#!/bin/sh
echo "$@" >/lab/shared/resume.part && mv /lab/shared/resume.part /lab/shared/resume
"""
# What a launched instance does: its slurmd registers, and reports that the machine has just booted (-b).
INSTANCE = "until [ -e /lab/shared/resume ]; do sleep 0.2; done; exec /opt/slurm/sbin/slurmd -D -b"


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    """A queue with a running static node, and a queue whose only node is powered off."""
    lab.fresh()
    lab.exec("compute-2", ("hostname", NAME)).check()
    address = lab.exec("head", ("getent", "hosts", "queue1-st-c5-2")).check().stdout.split()
    kept = [
        line for line in lab.read("head", CONF).splitlines() if not line.startswith(("NodeName=", "PartitionName="))
    ]
    text = "\n".join(kept) + QUEUES.format(name=NAME, address=address[0])
    for node in ("head", "compute-1", "compute-2"):
        lab.write(node, CONF, text)
        lab.exec(node, ("sh", "-c", f"echo '{address[0]} {NAME}' >>/etc/hosts")).check()
    lab.write("head", "/opt/slurm/etc/resume.sh", RESUME, "755")
    config = stack.lab_config(lab, spack=False)
    publish(lab, {**config, "check": {**config["check"], "launch": True, "wait": 180}})
    for result in (*lab.boot("head"), *lab.boot("compute-1"), *lab.boot("compute-2", PHASES[:4])):
        result.check()
    lab.exec("compute-2", ("systemd-run", "--quiet", "sh", "-c", INSTANCE)).check()
    return lab


def test_the_proof_starts_a_node_in_a_queue_without_running_nodes(cluster: Lab) -> None:
    def proof() -> dict[str, Any]:
        answer = json.loads(cluster.exec("head", ("petal-node", "status", "--json")).stdout)
        found: dict[str, Any] = answer["data"]
        return found if found["proof"] else {}

    until("the worker has proved it", lambda: bool(proof()), 180)
    data = proof()
    nodes = data["proof"]["nodes"]
    bad = [
        (node["node"], node["release"], found)
        for node in nodes
        for found in node["findings"]
        if found["severity"] != "ok"
    ]
    assert (data["proved"], data["checked"]) == (2, 2), (bad, [(node["node"], node["release"]) for node in nodes])
    assert {node["node"] for node in data["proof"]["nodes"]} == {"queue1-st-c5-1", NAME}
    assert cluster.exec("head", ("test", "-e", "/lab/shared/resume")).ok
    assert cluster.exec("head", ("/opt/slurm/bin/squeue", "--noheader")).stdout == ""
    waited = cluster.exec("head", ("petal-node", "status", "--wait", "--timeout", "60"))
    assert (waited.returncode, f"{NAME}: ok" in waited.stdout or "queue2" in waited.stdout) == (0, True), waited
