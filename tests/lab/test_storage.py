"""Shared storage that misbehaves on nodes that were well: what is said, how long it takes, what does not change.

The hook runs as ParallelCluster runs it, the verbs as an operator types them. When the fault is gone the node recovers
without a hand, by its timer, or at once by the verb that the remedy names.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cluster import Lab
from tests.lab.engine import until
from tests.lab.faults import (
    BOTH,
    HAVE,
    can_use,
    fault,
    has_timer,
    hook,
    is_ready,
    laid_over,
    last_hook,
    needs_fuse,
    recovers,
    refused,
    sh,
    taken_off,
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
def test_storage_that_is_not_the_clusters_is_not_used(cluster: Lab, node: str, name: str) -> None:
    make, code, message = FAULTS[name]
    with fault(cluster, node, make, "umount /shared; rm -rf /root/other"):
        before = cluster.exec(node, MINE).stdout
        output = hook(cluster, node).stdout
        assert message in output
        assert message in refused(last_hook(cluster, node), code)["reason"]
        typed = cluster.exec(node, ("petal-node", "bootstrap"))
        assert (typed.returncode, message in typed.stdout) == (3, True)
        assert cluster.exec(node, MINE).stdout == before
        can_use(cluster, node)
        until("its timer tries again", lambda: has_timer(cluster, node), 20)
    cluster.exec(node, ("petal-node", "bootstrap")).check()
    assert is_ready(cluster, node)


def test_storage_that_comes_60_s_late_is_used_when_it_comes(cluster: Lab) -> None:
    """The root went with it, as on a node whose server was away while it booted."""
    node, mount = "login-1", "systemd-run --quiet --on-active=60 --timer-property=AccuracySec=1s mount /shared"
    have = sh(cluster, node, HAVE)
    sh(cluster, node, f"systemctl stop opt-petal.mount && umount /shared && {mount}")
    missing = time.monotonic()
    assert "/shared is not mounted" in hook(cluster, node).stdout
    storage = refused(last_hook(cluster, node), "storage-not-mounted")
    assert storage["remedy"][0] == "mount /shared"
    assert sh(cluster, node, "find /shared /opt/petal -mindepth 1") == ""
    until("the storage is there", lambda: cluster.exec(node, ("mountpoint", "-q", "/shared")).ok, 90)
    assert time.monotonic() - missing > 50
    recovers(cluster, node)
    assert sh(cluster, node, HAVE) == have
    can_use(cluster, node)


def test_read_only_storage_is_enough_for_a_compute_node(cluster: Lab) -> None:
    with fault(cluster, "compute-1", "mount -o remount,bind,ro /shared", "mount -o remount,bind,rw /shared"):
        hook(cluster, "compute-1")
        assert last_hook(cluster, "compute-1")["status"] == "ok"
        assert cluster.exec("compute-1", ("test", "-s", "/var/lib/petal-node/report.json")).ok
        can_use(cluster, "compute-1")
    recovers(cluster, "compute-1")


def test_read_only_storage_on_the_head_node_is_told_and_costs_nobody_anything(cluster: Lab) -> None:
    with fault(cluster, "head", "mount -o remount,bind,ro /shared", "mount -o remount,bind,rw /shared"):
        assert "/shared is mounted read-only" in hook(cluster, "head").stdout
        assert refused(last_hook(cluster, "head"), "storage-read-only")["remedy"] == [
            "findmnt /shared",
            "mount -o remount,rw /shared",
        ]
        can_use(cluster, "head")
    recovers(cluster, "head")


VERBS: Sequence[tuple[tuple[str, ...], float]] = [
    (("status",), 15),
    (("plan",), 15),
    (("check",), 25),
    (("bootstrap",), 30),
    (("converge",), 30),
]


def test_storage_that_hangs_hangs_nobody(cluster: Lab) -> None:
    """On every role at once, since it takes a minute and a half: each node has a mount of its own that hangs."""
    nodes = ("compute-1", "login-1", "head")
    for node in nodes:
        needs_fuse(cluster, node)
    with ThreadPoolExecutor() as at_once:
        for done in [at_once.submit(hangs_nobody, cluster, node) for node in nodes]:
            done.result()


def hangs_nobody(cluster: Lab, node: str) -> None:
    """Who asks it cannot even be killed, and every verb ends by itself within its deadline."""
    with fault(cluster, node, laid_over("dead", *BOTH), taken_off(*BOTH)):
        started = time.monotonic()
        hook(cluster, node)
        assert time.monotonic() - started < 40
        assert refused(last_hook(cluster, node), "storage-hangs")["reason"] == "/shared did not answer within 5 s"
        for verb, seconds in VERBS:
            typed = cluster.exec(node, ("petal-node", *verb), timeout=60)
            assert typed.seconds < seconds, typed
            assert typed.returncode in (1, 3), typed
            said = typed.stdout + typed.stderr
            assert "did not answer within" in said or "is hidden by another mount: fuse.dead" in said, said
        assert has_timer(cluster, node)
        login = cluster.exec(node, ("bash", "-lc", "true"), timeout=30)
        assert login.ok
        assert login.seconds < 5
    recovers(cluster, node)
    can_use(cluster, node)


ECHO = "echo $PETAL_RELEASE"
LOGINS = {
    "bash": ("bash", "-lc", ECHO),
    "sh": ("sh", "-lc", ECHO),
    "zsh": ("zsh", "-c", f". /etc/profile.d/zz-petal.sh; {ECHO}"),
    "tcsh": ("tcsh", "-c", f"source /etc/profile.d/zz-petal.csh; {ECHO}"),
    "fish": ("fish", "-lc", ECHO),
}


@pytest.mark.parametrize("shell", LOGINS)
def test_a_login_ends_while_storage_hangs(cluster: Lab, shell: str) -> None:
    """root's never touches it; a user's gives it 5 s, and has a shell then."""
    needs_fuse(cluster, "login-1")
    with fault(cluster, "login-1", laid_over("deaf", *BOTH), taken_off(*BOTH)):
        root = cluster.exec("login-1", LOGINS[shell], timeout=40).check()
        user = cluster.exec("login-1", LOGINS[shell], user="ec2-user", timeout=40).check()
    assert root.stdout.strip() == user.stdout.strip() == "/opt/petal/current"
    assert root.seconds < 4
    assert 5 <= user.seconds < 15
    well = cluster.exec("login-1", LOGINS[shell], user="ec2-user", timeout=40).check()
    assert well.stdout.startswith("/opt/petal/releases/")
