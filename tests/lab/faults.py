"""What the tests of faults share: a fault laid over a node that is well, and what must hold before and after it."""

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
# Ours that run: programs of the archive, and children of them that wait for a mount.
OURS = "ps -eo pid,stat,args | grep -E 'petal-node|/opt/petal' | grep -vE 'grep|badfs' || true"


def sh(lab: Lab, node: str, script: str) -> str:
    return lab.exec(node, ("sh", "-c", script)).check().stdout


def is_ready(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("petal-node", "check", "--quiet")).returncode == 0


def has_timer(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("systemctl", "is-active", TIMER)).stdout.strip() == "active"


def records(lab: Lab, node: str) -> list[dict[str, Any]]:
    """The records of this node's runs, newest first; read from its own disk."""
    names = "ls -r /var/lib/petal-node/runs/*.json | head -n 20"
    texts = sh(lab, node, f"for name in $({names}); do tr -d '\\n' <$name; echo; done").splitlines()
    return [json.loads(text) for text in texts]


def looks_ready(lab: Lab, node: str) -> bool:
    """By the newest record nothing failed so far: a look that costs little, before the check, which costs a second."""
    for newest in records(lab, node)[:1]:  # none before the first run has begun
        return not newest["errors"] and all(step["outcome"] not in ("failed", "blocked") for step in newest["steps"])
    return False


def last_hook(lab: Lab, node: str) -> dict[str, Any]:
    """The record of the newest hook, once its worker has ended too."""

    def newest() -> dict[str, Any]:
        hooks: list[dict[str, Any]] = [record for record in records(lab, node) if record["verb"] == "hook"]
        return hooks[0]

    until("the hook's worker has ended", lambda: newest()["finished"] is not None, 60)
    return newest()


def hook(lab: Lab, node: str) -> Result:
    """OnNodeConfigured, run by the executor: it succeeds, and on other nodes than the head within 10 s."""
    result = lab.phase(node, "configured").check()
    if node != "head":
        assert (result.hook_seconds or 0) < HOOK_SECONDS
    return result


def refused(record: dict[str, Any], code: str, name: str = "storage") -> dict[str, Any]:
    """The storage step of a record: blocked or failed with this code and a remedy; no step that needs it was tried."""
    steps: dict[str, dict[str, Any]] = {step["name"]: step for step in record["steps"]}
    storage = steps[name]
    assert storage["outcome"] in ("blocked", "failed"), storage
    assert storage["error"]["code"] == code, storage
    assert storage["remedy"] == storage["error"]["remedy"]
    assert storage["remedy"]
    assert steps["root"]["outcome"] == "blocked"
    assert record["status"] == "degraded"
    return storage


def becomes_ready(lab: Lab, node: str, seconds: float = 90) -> None:
    """The timer makes the node ready; nobody types anything."""
    try:
        until(f"{node} is ready by itself", lambda: looks_ready(lab, node) and is_ready(lab, node), seconds)
    except engine.LabError as error:
        said = lab.exec(node, ("sh", "-c", "petal-node check; petal-node status; tail -n 30 /var/log/petal-node.log"))
        raise engine.LabError(f"{error}\n{said.stdout}{said.stderr}") from error


def recovers(lab: Lab, node: str, seconds: float = 90) -> None:
    """The node becomes ready, its timer stops, and no process of ours is left."""
    becomes_ready(lab, node, seconds)
    until(f"{node} needs no timer", lambda: not has_timer(lab, node), seconds)
    until(f"nothing of ours runs on {node}", lambda: not sh(lab, node, OURS), 30)


@contextmanager
def fault(lab: Lab, node: str, make: str, back: str) -> Iterator[None]:
    """Something is wrong on a node that was well; what users have there is the same before and after."""
    sh(lab, node, f"systemctl stop {TIMER} {SERVICE}")  # a run of before must not write in between
    before = sh(lab, node, HAVE)
    sh(lab, node, make)
    try:
        yield
    finally:
        sh(lab, node, back)
    assert sh(lab, node, HAVE) == before


def can_use(lab: Lab, node: str) -> None:
    """A user's new shell has what it had."""
    assert "hello from" in lab.shell(node, "module load hello && hello").check().stdout


def has_fuse(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("test", "-c", "/dev/fuse")).ok


def needs_fuse(lab: Lab, node: str) -> None:
    """Skips where the host has none; brings the file system along, since the image may be of another checkout."""
    if not has_fuse(lab, node):
        pytest.skip("the lab's nodes have no /dev/fuse")
    lab.write(node, BADFS, (engine.HERE / "node" / "badfs.py").read_text(encoding="utf-8"), "755")


def laid_over(kind: str, *points: str) -> str:
    """A bad file system over each of these mount points, by units that serve it."""
    lines = [
        f"systemd-run --quiet --collect --unit=badfs{number} python3 {BADFS} {kind} {point}; "
        f"until grep -q 'badfs {point} ' /proc/mounts; do sleep 0.1; done"
        for number, point in enumerate(points)
    ]
    return "; ".join(lines)


def taken_off(*points: str) -> str:
    return "; ".join(f"systemctl stop badfs{number}; umount -l {point}" for number, point in enumerate(points))
