"""A node boots while neither S3 nor shared storage has the archive: its hook ends in time, the node is ready later."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lab import stack
from tests.lab.cluster import PHASES, Lab
from tests.lab.demo import DIST
from tests.lab.engine import until
from tests.lab.faults import HOOK_SECONDS, assert_users_can_work, sh, wait_until_recovered

UNIT = "petal-node-hook.service"
KEPT = "/lab/shared/petal/archive"


def has_unit(lab: Lab, node: str) -> bool:
    """Whether the unit exists, including the time in which systemd waits to restart it."""
    return lab.exec(node, ("test", "-e", f"/etc/systemd/system/{UNIT}")).ok


def logged(lab: Lab, node: str) -> str:
    return sh(lab, node, "cat /var/log/petal-node.log")


def package(lab: Lab) -> tuple[str, str]:
    """The archive's key in S3 and its checksum from the cluster's configuration."""
    digest = sh(lab, "head", f"ls {KEPT} /root/archive 2>/dev/null | grep -E '^[0-9a-f]{{64}}$'").strip()
    return f"petal-node/{digest[:12]}/petal-node", digest


@contextmanager
def nowhere(lab: Lab) -> Iterator[None]:
    """Remove the archive from S3 and from shared storage."""
    key, _ = package(lab)
    lab.delete(stack.BUCKET, key)
    sh(lab, "head", f"mv {KEPT} /root/archive && mkdir {KEPT}")
    try:
        yield
    finally:
        sh(lab, "head", f"rm -rf {KEPT} && mv /root/archive {KEPT}")
        lab.put(stack.BUCKET, key, DIST / "petal-node")


@pytest.mark.parametrize("place", ["S3", "shared storage"])
def test_a_compute_node_without_an_archive_becomes_ready_when_the_archive_appears(cluster: Lab, place: str) -> None:
    cluster.replace("compute-2")
    with nowhere(cluster):
        results = cluster.boot("compute-2", PHASES)
        assert [result.returncode for result in results] == [0] * 5
        for result in (results[1], results[3]):
            assert (result.hook_seconds or 0) < HOOK_SECONDS
            assert f"journalctl -u {UNIT}" in result.stdout
        assert "[fetch-missing]: " in logged(cluster, "compute-2")
        assert has_unit(cluster, "compute-2")
        assert not cluster.exec("compute-2", ("test", "-e", "/usr/local/bin/petal-node")).ok
        if place == "S3":
            cluster.put(stack.BUCKET, package(cluster)[0], DIST / "petal-node")
        else:
            sh(cluster, "head", f"cp -a /root/archive/* {KEPT}/")
        until("the unit has removed itself", lambda: not has_unit(cluster, "compute-2"), 120)
        wait_until_recovered(cluster, "compute-2")
    assert_users_can_work(cluster, "compute-2")
    assert sh(cluster, "compute-2", "ls -A /opt/petal-node/incoming") == ""


def test_a_hanging_s3_only_delays_a_compute_node(cluster: Lab) -> None:
    """The endpoint accepts connections and never answers; the hook runs as ParallelCluster's executor starts it."""
    cluster.replace("compute-2")
    for phase in ("init", "config"):
        cluster.phase("compute-2", phase).check()
    script = (DIST / "on_node_configured.sh").read_bytes()
    cluster.exec("compute-2", ("sh", "-c", "cat >/tmp/hook && chmod 755 /tmp/hook"), stdin=script).check()
    key, digest = package(cluster)
    bucket = f"s3://{stack.BUCKET}"
    named = ("--package", f"{bucket}/{key}", "--sha256", digest, "--config", f"{bucket}/petal-node/petal.yaml")
    sh(cluster, "head", f"mv {KEPT} /root/archive && mkdir {KEPT}")
    subprocess.run(["docker", "pause", cluster.container("s3")], check=True, stdout=subprocess.DEVNULL)
    try:
        result = cluster.exec("compute-2", ("/tmp/hook", *named), env={"AWS_ENDPOINT_URL": "http://s3:5000"}).check()
        sh(cluster, "compute-2", "rm /tmp/hook")
        assert result.seconds < HOOK_SECONDS
        assert "[fetch-unreachable]: " in logged(cluster, "compute-2")
        assert has_unit(cluster, "compute-2")
        cluster.phase("compute-2", PHASES[-1]).check()  # starts slurmd
    finally:
        subprocess.run(["docker", "unpause", cluster.container("s3")], check=True, stdout=subprocess.DEVNULL)
        sh(cluster, "head", f"rm -rf {KEPT} && mv /root/archive {KEPT}")
    until("the unit has removed itself", lambda: not has_unit(cluster, "compute-2"), 120)
    wait_until_recovered(cluster, "compute-2")
    assert_users_can_work(cluster, "compute-2")
