"""Faults of the head node's shared storage before or during the first install."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab import stack
from tests.lab.cluster import S3, Lab
from tests.lab.engine import until
from tests.lab.faults import (
    BADFS,
    SERVICE,
    TIMER,
    assert_users_can_work,
    blocked_step,
    has_timer,
    hook,
    is_ready,
    last_hook,
    require_fuse,
    sh,
    unmount_bad_file_system,
    wait_until_ready,
)

SMALL = {"size": "64m", "mode": "1777"}


@pytest.fixture
def new_head(cluster: Lab) -> Callable[..., str]:
    """A replaced head node with a separate small file system as /shared."""

    def launch(prepare: str = "true", config: dict[str, Any] | None = None, **options: str) -> str:
        cluster.replace("head")
        if BADFS in prepare:
            require_fuse(cluster, "head")
        wanted = config or cluster_config(cluster)
        cluster.put_bytes(stack.BUCKET, "petal-node/petal.yaml", json.dumps(wanted).encode())
        for phase in ("init", "start"):
            cluster.phase("head", phase).check()
        given = ",".join(f"{name}={value}" for name, value in {**SMALL, **options}.items())
        sh(cluster, "head", f"mkdir -p /shared && mount -t tmpfs -o {given} small /shared && {prepare}")
        cluster.phase("head", "config").check()
        return cluster.phase("head", "configured").check().stdout

    return launch


def cluster_config(cluster: Lab) -> dict[str, Any]:
    """The cluster's desired configuration, from the storage of the other nodes."""
    config: dict[str, Any] = json.loads(sh(cluster, "compute-1", "cat /lab/shared/petal/state/desired.json"))["config"]
    return config


def failed_step(record: dict[str, Any]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [step for step in record["steps"] if step["error"]]
    assert steps, record
    return steps[0]


FILL = "dd if=/dev/zero of=/shared/fill bs=64k 2>/dev/null; true"
USE_UP = "i=0; while touch /shared/fill.$i 2>/dev/null; do i=$((i + 1)); done; true"


@pytest.mark.parametrize(
    ("prepare", "options", "look", "free"),
    [
        (FILL, {"size": "1m"}, "df -h /shared", "rm /shared/fill; mount -o remount,size=64m /shared"),
        (USE_UP, {"nr_inodes": "30"}, "df -i /shared", "rm /shared/fill.*; mount -o remount,nr_inodes=5000 /shared"),
    ],
    ids=["no space", "no inodes"],
)
def test_a_head_node_with_full_storage_installs_after_space_is_freed(
    cluster: Lab, new_head: Callable[..., str], prepare: str, options: dict[str, str], look: str, free: str
) -> None:
    output = new_head(prepare, **options)
    assert "No space left on device" in output
    record = last_hook(cluster, "head")
    step = failed_step(record)
    assert step["error"]["code"] == "file-no-space"
    assert look in step["remedy"][0]
    assert record["status"] == "degraded"
    assert has_timer(cluster, "head")
    sh(cluster, "head", free)
    wait_until_ready(cluster, "head")
    assert_users_can_work(cluster, "head")


@pytest.mark.parametrize("options", [{"size": "12m"}, {"nr_inodes": "300"}], ids=["no space", "no inodes"])
def test_only_a_package_that_does_not_fit_fails_and_its_partial_files_are_removed(
    cluster: Lab, new_head: Callable[..., str], options: dict[str, str]
) -> None:
    config = cluster_config(cluster)
    made = "cd /tmp && mkdir -p big-1/d && head -c 24000000 /dev/urandom >big-1/d/blob && cd big-1/d && "
    made += "i=0; while [ $i -lt 600 ]; do : >f$i; i=$((i + 1)); done; cd /tmp && tar -cf big.tar big-1 && cat big.tar"
    sh(cluster, "s3", f"{{ {made}; }} >/tmp/out")
    upload = f"{' '.join(S3)} put {stack.BUCKET} packages/big.tar </tmp/out"
    sh(cluster, "s3", upload)
    digest = sh(cluster, "s3", "sha256sum </tmp/out").split()[0]
    source = f"s3://{stack.BUCKET}/packages/big.tar"
    big = {"name": "big", "version": "1", "source": source, "sha256": digest}
    new_head(config={**config, "packages": [*config["packages"], big]}, **options)
    record = last_hook(cluster, "head")
    step = failed_step(record)
    assert (step["name"], step["error"]["code"]) == ("packages", "file-no-space")
    assert "big" in step["error"]["what"]
    assert step["remedy"][0].startswith(("df -h /shared", "df -h /opt/petal/store/"))  # a mount of the former
    assert sh(cluster, "head", "find /shared/petal/root/store -name '.*.part' -o -name 'big-*'") == ""
    assert "hello-1.0" in sh(cluster, "head", "ls /shared/petal/root/store/*")
    assert sh(cluster, "head", "ls -A /var/cache/petal-node/scratch") == ""
    sh(cluster, "head", "mount -o remount,size=128m,nr_inodes=50000 /shared")
    wait_until_ready(cluster, "head")
    assert_users_can_work(cluster, "head")


FIRST = {
    "foreign": ("install -d -o ec2-user -g ec2-user /shared/petal", "untrusted", "belongs to user 1000"),
    "symlink": (
        "mkdir -p /root/evil; ln -s /root/evil /shared/petal",
        "untrusted",
        "a symbolic link to /root/evil",
    ),
    "loose": ("install -d -m 777 /shared/petal", "untrusted", "can be written by others"),
    "0777": ("chmod 777 /shared", "untrusted", "can be written by others and is not sticky"),
    "read-only": ("mount -o remount,ro /shared", "storage-read-only", "/shared is mounted read-only"),
}
REMEDIES = {
    "foreign": "mv /shared/petal /shared/petal.foreign",
    "symlink": "rm /shared/petal",
    "loose": "chmod go-w /shared/petal",
    "0777": "chmod 1777 /shared",
    "read-only": "mount -o remount,rw /shared",
}


def test_nothing_is_written_to_a_faulty_storage_and_each_remedy_works(
    cluster: Lab, new_head: Callable[..., str]
) -> None:
    new_head("chmod 777 /shared")  # prevents the first install
    for name, (prepare, code, message) in FIRST.items():
        sh(cluster, "head", f"systemctl stop {TIMER} {SERVICE}; chmod 1777 /shared; rm -rf /shared/petal; {prepare}")
        assert message in hook(cluster, "head").stdout
        step = blocked_step(last_hook(cluster, "head"), code)
        assert message in step["reason"]
        assert sh(cluster, "head", "find /shared/petal/ /root/evil -mindepth 1 2>/dev/null; true") == ""
        assert REMEDIES[name] in step["remedy"]
        sh(cluster, "head", f"systemctl stop {TIMER} {SERVICE}; {REMEDIES[name]}")
        plan = json.loads(cluster.exec("head", ("petal-node", "plan", "--json")).stdout)
        steps = {step["name"]: step["outcome"] for step in plan["data"]["steps"]}
        assert steps["storage"] in ("ok", "would-change"), name
    hook(cluster, "head")
    wait_until_ready(cluster, "head")


def test_root_squash_is_reported_and_no_file_remains_on_the_server(cluster: Lab, new_head: Callable[..., str]) -> None:
    serve = f"systemd-run --quiet --collect --unit=badfs0 python3 {BADFS} squash /shared /export"
    serve += "; until grep -q 'badfs /shared ' /proc/mounts; do sleep 0.1; done"
    output = new_head(f"mkdir /export && mount --bind /shared /export && {serve}")
    assert "its server squashes root" in output
    step = blocked_step(last_hook(cluster, "head"), "storage-squashed")
    assert "no_root_squash" in step["remedy"][1]
    assert sh(cluster, "head", "find /export -mindepth 1") == ""
    sh(cluster, "head", unmount_bad_file_system("/shared"))
    wait_until_ready(cluster, "head")


def test_accept_storage_on_the_head_node_accepts_a_new_file_system_for_all_nodes(
    cluster: Lab, new_head: Callable[..., str]
) -> None:
    """Nothing is written to the new file system until ``--accept-storage``; then the other nodes follow."""
    new_head()
    until("the head node is ready", lambda: is_ready(cluster, "head"), 60)
    sh(cluster, "head", "systemctl stop opt-petal.mount && umount /shared && mount --bind /lab/shared /shared")
    kept = sh(cluster, "head", "find /lab/shared/petal -printf '%p %T@\\n' | sort")
    hook(cluster, "head")
    storage = blocked_step(last_hook(cluster, "head"), "storage-changed")
    assert any("petal-node bootstrap --accept-storage" in line for line in storage["remedy"])
    assert sh(cluster, "head", "find /lab/shared/petal -printf '%p %T@\\n' | sort") == kept
    endpoint = {"AWS_ENDPOINT_URL": "http://s3:5000"}
    cluster.exec("head", ("petal-node", "bootstrap", "--accept-storage"), env=endpoint).check()
    wait_until_ready(cluster, "head")
    # for the other nodes the storage is unchanged; a node that knows the head node's other storage follows too
    seen = json.loads(sh(cluster, "head", "cat /var/lib/petal-node/storage.json"))
    sh(cluster, "login-1", f"sed -i 's/{seen['token']}/{'f' * 32}/' /var/lib/petal-node/storage.json")
    cluster.exec("login-1", ("petal-node", "bootstrap")).check()
    wait_until_ready(cluster, "login-1")
    assert_users_can_work(cluster, "compute-1")
