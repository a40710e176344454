"""Helpers of the fault tests: inject a fault into a healthy node and compare the node before and after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import engine
from tests.lab.cluster import Lab, Result
from tests.lab.engine import until

TIMER = "petal-node-converge.timer"
SERVICE = "petal-node-converge.service"
BOTH = ("/shared", "/opt/petal")
BADFS = "/opt/lab/badfs.py"
HOOK_SECONDS = 10.0
# What users have on a node: the release, the links of the tool, the init files, the units.
HAVE = (
    "readlink /opt/petal/current /usr/local/bin/petal-node; cat /etc/systemd/system/opt-petal.mount; "
    "find /opt/petal-node/init /etc/profile.d /etc/fish -type f -printf '%p %T@ %s\\n' | sort"
)
# Our running processes: programs of the archive, and their children that wait for a mount.
OURS = "ps -eo pid,stat,args | grep -E 'petal-node|/opt/petal' | grep -vE 'grep|badfs' || true"


def sh(lab: Lab, node: str, script: str) -> str:
    return lab.exec(node, ("sh", "-c", script)).check().stdout


def is_ready(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("petal-node", "check", "--quiet")).returncode == 0


def has_timer(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("systemctl", "is-active", TIMER)).stdout.strip() == "active"


def records(lab: Lab, node: str) -> list[dict[str, Any]]:
    """The records of this node's runs, newest first, read from the node's disk."""
    names = "ls -r /var/lib/petal-node/runs/*.json | head -n 20"
    texts = sh(lab, node, f"for name in $({names}); do tr -d '\\n' <$name; echo; done").splitlines()
    return [json.loads(text) for text in texts]


def looks_ready(lab: Lab, node: str) -> bool:
    """Return whether the newest record has no failure: a cheap test before the check, which takes a second."""
    for newest in records(lab, node)[:1]:  # empty before the first run has begun
        return not newest["errors"] and all(step["outcome"] not in ("failed", "blocked") for step in newest["steps"])
    return False


def last_hook(lab: Lab, node: str) -> dict[str, Any]:
    """Wait until the worker of the newest hook has ended, and return the hook's record."""

    def newest() -> dict[str, Any]:
        hooks: list[dict[str, Any]] = [record for record in records(lab, node) if record["verb"] == "hook"]
        return hooks[0]

    until("the hook's worker has ended", lambda: newest()["finished"] is not None, 60)
    return newest()


def hook(lab: Lab, node: str) -> Result:
    """Run OnNodeConfigured by the executor: it succeeds, and within 10 s except on the head node."""
    result = lab.phase(node, "configured").check()
    if node != "head":
        assert (result.hook_seconds or 0) < HOOK_SECONDS
    return result


def blocked_step(record: dict[str, Any], code: str, name: str = "storage") -> dict[str, Any]:
    """Return the storage step, which failed or is blocked with ``code`` and a remedy; dependent steps are blocked."""
    steps: dict[str, dict[str, Any]] = {step["name"]: step for step in record["steps"]}
    storage = steps[name]
    assert storage["outcome"] in ("blocked", "failed"), storage
    assert storage["error"]["code"] == code, storage
    assert storage["remedy"] == storage["error"]["remedy"]
    assert storage["remedy"]
    assert steps["root"]["outcome"] == "blocked"
    assert record["status"] == "degraded"
    return storage


def wait_until_ready(lab: Lab, node: str, seconds: float = 90) -> None:
    """Wait until the timer has made the node ready, without any command."""
    try:
        until(f"{node} is ready by itself", lambda: looks_ready(lab, node) and is_ready(lab, node), seconds)
    except engine.LabError as error:
        report = lab.exec(node, ("sh", "-c", "petal-node check; petal-node status; tail -n 30 /var/log/petal-node.log"))
        raise engine.LabError(f"{error}\n{report.stdout}{report.stderr}") from error


def wait_until_recovered(lab: Lab, node: str, seconds: float = 90) -> None:
    """Wait until the node is ready, its timer has stopped, and no process of ours remains."""
    wait_until_ready(lab, node, seconds)
    until(f"{node} needs no timer", lambda: not has_timer(lab, node), seconds)
    until(f"nothing of ours runs on {node}", lambda: not sh(lab, node, OURS), 30)


@contextmanager
def fault(lab: Lab, node: str, make: str, back: str) -> Iterator[None]:
    """Inject a fault into a healthy node, undo it, and compare what users have before and after."""
    sh(lab, node, f"systemctl stop {TIMER} {SERVICE}")  # an earlier run must not write in between
    before = sh(lab, node, HAVE)
    sh(lab, node, make)
    try:
        yield
    finally:
        sh(lab, node, back)
    assert sh(lab, node, HAVE) == before


def assert_users_can_work(lab: Lab, node: str) -> None:
    """A user's new shell still loads a module and runs its program."""
    assert "hello from" in lab.shell(node, "module load hello && hello").check().stdout


def has_fuse(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("test", "-c", "/dev/fuse")).ok


def require_fuse(lab: Lab, node: str) -> None:
    """Skip without /dev/fuse; copy the file system to the node, because the image may be of another checkout."""
    if not has_fuse(lab, node):
        pytest.skip("the lab's nodes have no /dev/fuse")
    lab.write(node, BADFS, (engine.HERE / "node" / "badfs.py").read_text(encoding="utf-8"), "755")


def mount_bad_file_system(kind: str, *points: str) -> str:
    """The commands that mount a bad file system over each mount point, served by transient units."""
    lines = [
        f"systemd-run --quiet --collect --unit=badfs{number} python3 {BADFS} {kind} {point}; "
        f"until grep -q 'badfs {point} ' /proc/mounts; do sleep 0.1; done"
        for number, point in enumerate(points)
    ]
    return "; ".join(lines)


def unmount_bad_file_system(*points: str) -> str:
    return "; ".join(f"systemctl stop badfs{number}; umount -l {point}" for number, point in enumerate(points))
