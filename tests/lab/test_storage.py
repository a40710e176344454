"""Faults of shared storage on healthy nodes: the messages, the time until they appear, and what stays unchanged.

The hook runs as in ParallelCluster, the verbs as an operator types them. After the fault the node recovers
automatically by its timer, or at once by the command in the remedy.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import Lab
from tests.lab.engine import until
from tests.lab.faults import (
    BOTH,
    HAVE,
    assert_users_can_work,
    blocked_step,
    fault,
    has_timer,
    hook,
    is_ready,
    last_hook,
    mount_bad_file_system,
    require_fuse,
    sh,
    unmount_bad_file_system,
    wait_until_recovered,
)

MINE = ("sh", "-c", "find /shared -mindepth 1 -printf '%p %y %u %m %s %T@\\n' | sort")
COPY = "mkdir -p /root/other && mount -t tmpfs -o mode=1777 other /shared && cp -a /lab/shared/petal /shared/"
OTHER_TOKEN = (
    'sed -i \'s/"token": "[0-9a-f]*"/"token": "feedfeedfeedfeed"/; s/"name": "[^"]*"/"name": "other"/\''
    " /shared/petal/state/token.json"
)
EMPTY = "mount -t tmpfs -o mode=1777 other /shared"
LINKED = f"{COPY} && mv /shared/petal /root/other/ && ln -s /root/other/petal /shared/"
FAULTS = {
    "root disk": ("mount --bind /root /shared", "storage-local", "/shared is on the root disk"),
    "empty file system": (EMPTY, "storage-changed", "it has no token"),
    "another cluster's": (f"{COPY} && {OTHER_TOKEN}", "storage-changed", "it has token feedfeed"),
    "foreign petal": (f"{COPY} && chown -R ec2-user /shared/petal", "untrusted", "belongs to user 1000"),
    "loose state": (f"{COPY} && chmod 777 /shared/petal/state", "untrusted", "can be written by others"),
    "symlinked petal": (LINKED, "untrusted", "is a symbolic link to /root/other/petal"),
    "0777": (f"{COPY} && chmod 777 /shared", "untrusted", "/shared can be written by others and is not sticky"),
}


@pytest.mark.parametrize(
    ("node", "name"),
    [*(("compute-1", name) for name in FAULTS), *(("head", name) for name in list(FAULTS)[:3])],
)
def test_storage_of_another_cluster_or_with_unsafe_permissions_is_not_used(cluster: Lab, node: str, name: str) -> None:
    make, code, message = FAULTS[name]
    with fault(cluster, node, make, "umount /shared; rm -rf /root/other"):
        before = cluster.exec(node, MINE).stdout
        output = hook(cluster, node).stdout
        assert message in output
        assert message in blocked_step(last_hook(cluster, node), code)["reason"]
        typed = cluster.exec(node, ("petal-node", "bootstrap"))
        assert (typed.returncode, message in typed.stdout) == (3, True)
        assert cluster.exec(node, MINE).stdout == before
        assert_users_can_work(cluster, node)
        until("its timer tries again", lambda: has_timer(cluster, node), 20)
    cluster.exec(node, ("petal-node", "bootstrap")).check()
    assert is_ready(cluster, node)


def test_storage_that_is_mounted_60_s_late_is_used_then(cluster: Lab) -> None:
    """The root is unmounted too, as on a node that booted while the file server was down."""
    node, mount = "login-1", "systemd-run --quiet --on-active=60 --timer-property=AccuracySec=1s mount /shared"
    have = sh(cluster, node, HAVE)
    sh(cluster, node, f"systemctl stop opt-petal.mount && umount /shared && {mount}")
    missing = time.monotonic()
    assert "/shared is not mounted" in hook(cluster, node).stdout
    storage = blocked_step(last_hook(cluster, node), "storage-not-mounted")
    assert storage["remedy"][0] == "mount /shared"
    assert sh(cluster, node, "find /shared /opt/petal -mindepth 1") == ""
    until("the storage is there", lambda: cluster.exec(node, ("mountpoint", "-q", "/shared")).ok, 90)
    assert time.monotonic() - missing > 50
    wait_until_recovered(cluster, node)
    assert sh(cluster, node, HAVE) == have
    assert_users_can_work(cluster, node)


def test_a_compute_node_is_ready_with_read_only_storage(cluster: Lab) -> None:
    with fault(cluster, "compute-1", "mount -o remount,bind,ro /shared", "mount -o remount,bind,rw /shared"):
        hook(cluster, "compute-1")
        assert last_hook(cluster, "compute-1")["status"] == "ok"
        assert cluster.exec("compute-1", ("test", "-s", "/var/lib/petal-node/report.json")).ok
        assert_users_can_work(cluster, "compute-1")
    wait_until_recovered(cluster, "compute-1")


def test_the_head_node_reports_read_only_storage_and_users_keep_their_software(cluster: Lab) -> None:
    with fault(cluster, "head", "mount -o remount,bind,ro /shared", "mount -o remount,bind,rw /shared"):
        assert "/shared is mounted read-only" in hook(cluster, "head").stdout
        assert blocked_step(last_hook(cluster, "head"), "storage-read-only")["remedy"] == [
            "findmnt /shared",
            "mount -o remount,rw /shared",
        ]
        assert_users_can_work(cluster, "head")
    wait_until_recovered(cluster, "head")


VERBS = ("status", "plan", "check", "bootstrap", "converge")


def test_no_command_hangs_if_shared_storage_hangs(cluster: Lab) -> None:
    """All roles are tested at the same time, because it takes 90 s: each node has a separate hanging mount."""
    nodes = ("compute-1", "login-1", "head")
    for node in nodes:
        require_fuse(cluster, node)
    with ThreadPoolExecutor() as at_once:
        for done in [at_once.submit(assert_no_command_hangs, cluster, node) for node in nodes]:
            done.result()


def assert_no_command_hangs(cluster: Lab, node: str) -> None:
    """Processes that use the mount cannot be killed, yet every verb ends by itself: it waits 5 to 15 s for storage."""
    with fault(cluster, node, mount_bad_file_system("dead", *BOTH), unmount_bad_file_system(*BOTH)):
        hook(cluster, node)
        assert blocked_step(last_hook(cluster, node), "storage-hangs")["reason"] == "/shared did not answer within 5 s"
        for verb in VERBS:
            typed = cluster.exec(node, ("petal-node", verb), timeout=60)
            assert typed.returncode in (1, 3), typed
            output = typed.stdout + typed.stderr
            assert "did not answer within" in output or "is hidden by another mount: fuse.dead" in output, output
        assert has_timer(cluster, node)
        assert cluster.exec(node, ("bash", "-lc", "true"), timeout=30).ok
    wait_until_recovered(cluster, node)
    assert_users_can_work(cluster, node)


ECHO = "echo $PETAL_RELEASE"
LOGINS = {
    "bash": ("bash", "-lc", ECHO),
    "sh": ("sh", "-lc", ECHO),
    "zsh": ("zsh", "-c", f". /etc/profile.d/zz-petal.sh; {ECHO}"),
    "tcsh": ("tcsh", "-c", f"source /etc/profile.d/zz-petal.csh; {ECHO}"),
    "fish": ("fish", "-lc", ECHO),
}


@pytest.mark.parametrize("shell", LOGINS)
def test_a_login_shell_starts_while_shared_storage_hangs(cluster: Lab, shell: str) -> None:
    """A login of root never touches storage; a login of a user waits at most 5 s for it."""
    require_fuse(cluster, "login-1")
    with fault(cluster, "login-1", mount_bad_file_system("deaf", *BOTH), unmount_bad_file_system(*BOTH)):
        root = cluster.exec("login-1", LOGINS[shell], timeout=40).check()
        user = cluster.exec("login-1", LOGINS[shell], user="ec2-user", timeout=40).check()
    assert root.stdout.strip() == user.stdout.strip() == "/opt/petal/current"
    assert root.seconds < 5 <= user.seconds
    well = cluster.exec("login-1", LOGINS[shell], user="ec2-user", timeout=40).check()
    assert well.stdout.startswith("/opt/petal/releases/")
