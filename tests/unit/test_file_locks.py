"""Mounts without working locks according to /proc/mounts, and the report of the step."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.core.model import Outcome, Role
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host import locks
from bootstrap.host.system import parse_mounts
from tests.world import World

NFS = (
    "rw,noatime,vers={},rsize=1048576,hard,proto=tcp,timeo=600,sec=sys,clientaddr=10.0.0.9,local_lock={},addr=10.0.0.7"
)
FIT = {
    "EBS on the head node": "/dev/nvme1n1 /shared ext4 rw,noatime 0 0",
    "a head node's export": f"ip-10-0-0-7:/shared /shared nfs4 {NFS.format('4.2', 'none')} 0 0",
    "EFS": f"fs-0123.efs.us-east-1.amazonaws.com:/ /shared nfs4 {NFS.format('4.1', 'none')} 0 0",
    "flock(2) alone is local": f"10.0.0.7:/fsx /shared nfs4 {NFS.format('4.2', 'flock')} 0 0",
    "FSx for Lustre": "10.0.0.7@tcp:/abc /shared lustre rw,noatime,flock,user_xattr,lazystatfs 0 0",
    "SMB": "//10.0.0.7/share /shared cifs rw,vers=3.1.1 0 0",
}
UNFIT = {
    f"10.0.0.7:/fsx /shared nfs {NFS.format('3', 'none')} 0 0": "version 3",
    f"10.0.0.7:/fsx /shared nfs4 {NFS.format('4.2', 'all')} 0 0": "local_lock",
    f"10.0.0.7:/fsx /shared nfs4 {NFS.format('4.2', 'posix')} 0 0": "local_lock",
    "10.0.0.7@tcp:/abc /shared lustre rw,noatime,user_xattr 0 0": "without flock",
    "10.0.0.7@tcp:/abc /shared lustre rw,localflock 0 0": "localflock",
    "//10.0.0.7/share /shared cifs rw,nobrl 0 0": "nobrl",
    "mountpoint-s3 /shared fuse rw,user_id=0 0 0": "for itself",
    "s3fs /shared fuse.s3fs rw,user_id=0 0 0": "for itself",
}


@pytest.fixture(autouse=True)
def _a_disk_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat a directory on the machine's disk as a separate mount."""
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)


@pytest.mark.parametrize("line", FIT.values(), ids=FIT)
def test_the_mounts_of_parallelcluster_are_accepted(line: str) -> None:
    assert locks.mount_lock_problem(parse_mounts(line)[0]) is None


@pytest.mark.parametrize("line", UNFIT)
def test_the_head_node_installs_nothing_without_cluster_wide_locks(line: str, tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    world.mounts = parse_mounts(line)
    steps = [step for step in STEPS if step.name in ("self-install", "storage")]
    report = engine.converge(steps, world.context, lambda _: None)[1]
    assert report.outcome is Outcome.BLOCKED
    assert report.error is not None
    assert report.error["code"] == "storage-no-locks"
    assert UNFIT[line] in report.error["why"]
    assert "findmnt /shared" in report.remedy
    assert list(world.paths.shared_mount.iterdir()) == [], "something was written there"


@pytest.mark.parametrize("role", [Role.HEAD, Role.LOGIN])
def test_storage_that_a_user_mounted_is_refused(role: Role, tmp_path: Path) -> None:
    world = World(tmp_path / "node", role, live=True)
    world.mounts = parse_mounts("x /shared fuse.efs rw,user_id=1000,group_id=1000,allow_other 0 0")
    steps = [step for step in STEPS if step.name in ("self-install", "storage")]
    report = engine.converge(steps, world.context, lambda _: None)[1]
    assert report.error is not None
    assert (report.error["code"], "user 1000" in report.error["what"]) == ("untrusted", True)


def test_a_compute_node_needs_no_locks(tmp_path: Path) -> None:
    """Modules are files: a compute node that mounts storage without locks can still use the software."""
    head = World(tmp_path / "head", live=True)
    steps = [step for step in STEPS if step.name in ("self-install", "storage")]
    engine.converge(steps, head.context, lambda _: None)
    node = head.as_node("compute", Role.COMPUTE)
    node.mounts = parse_mounts(next(iter(UNFIT)))
    assert engine.converge(steps, node.context, lambda _: None)[1].outcome is Outcome.CHANGED


def test_locks_work_on_this_machines_disk(tmp_path: Path) -> None:
    assert locks.lock_problem(tmp_path / "tried") == ""
    assert locks.lock_problem(tmp_path / "tried") == ""
