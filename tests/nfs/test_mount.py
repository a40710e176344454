"""``storage.source``: a node without shared storage mounts the head node's export itself, also after a boot."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .machine import Machine, Node
from .software import codes

CONFIG = "/etc/petal-mount.yaml"
SOURCE = "head:/srv/shared"
HOOK = ("hook", "configured", "--role", "compute", "--config", CONFIG)
HOOK_SECONDS = 10.0
STARTS = 8.0


def configure(node: Node, source: str) -> None:
    """Write the configuration of a hook's Args. It differs from the cluster's desired configuration."""
    node.write(
        CONFIG, f"storage: {{mount: /shared, source: '{source}', options: [nconnect=2]}}\ncheck: {{run: ['no']}}\n"
    )


@pytest.fixture
def node(nfs: Machine, releases: tuple[str, str]) -> Iterator[Node]:
    """A node without any mounted storage."""
    bare = nfs.client(3)
    configure(bare, SOURCE)
    yield bare
    nfs.head.plug()
    bare.sh("systemctl stop petal-node-converge.timer petal-node-converge.service opt-petal.mount shared.mount")
    bare.until("nothing is mounted", "! grep -E ' (/shared|/opt/petal) ' /proc/mounts", 60)
    bare.sh(
        "rm -rf /var/lib/petal-node /etc/systemd/system/*.mount /etc/systemd/system/*.wants; systemctl daemon-reload"
    )


def test_a_node_mounts_the_export_and_uses_its_release(nfs: Machine, node: Node, releases: tuple[str, str]) -> None:
    plan = node.petal("plan", "--role", "compute", "--config", CONFIG, "--json").json()["data"]["steps"]
    outcomes = {step["name"]: step["outcome"] for step in plan}
    assert (outcomes["mount"], outcomes["storage"], outcomes["root"]) == ("would-change",) * 3
    done = node.petal("bootstrap", "--role", "compute", "--config", CONFIG, "--json").ok()
    run = done.json()["data"]
    steps = {step["name"]: step["outcome"] for step in run["steps"]}
    assert (steps["mount"], steps["storage"], steps["root"]) == (
        "changed",
        "changed",
        "changed",
    )  # it remembers which storage it is
    mounted = node.sh("grep ' /shared ' /proc/mounts").ok().output
    assert mounted.startswith(f"{SOURCE} /shared nfs4 ")
    assert {"vers=4.2", "hard", "noatime", "nconnect=2"} <= set(mounted.split()[3].split(","))
    check = node.petal("check").ok()
    assert releases[0] in check.output
    assert node.run("bash", "-lc", "module load hello && hello").ok().output.strip() == "hello 1.0"
    assert node.petal("plan", "--exit-code").code == 0
    assert_mounts_survive_a_boot(node)


def assert_mounts_survive_a_boot(node: Node) -> None:
    """The units are enabled, and neither boot nor logins wait for them."""
    assert node.run("systemd-escape", "--path", "--suffix=mount", "/shared").ok().output.strip() == "shared.mount"
    for unit in ("shared.mount", "opt-petal.mount"):
        assert node.run("systemctl", "is-enabled", unit).ok().output.strip() == "enabled"
        before = node.run("systemctl", "show", "--property=Before", unit).ok().output
        assert "local-fs.target" not in before
        assert "remote-fs.target" not in before
    found = node.run("systemd-analyze", "verify", "default.target", "shared.mount", "opt-petal.mount")
    assert "cycle" not in found.output
    node.run("systemctl", "stop", "opt-petal.mount", "shared.mount").ok()
    node.run("systemctl", "start", "multi-user.target").ok()  # as a boot does
    node.until("both are mounted", "grep -q ' /shared ' /proc/mounts && grep -q ' /opt/petal ' /proc/mounts", 30)


def test_a_hook_ends_in_time_if_the_server_is_silent_and_the_node_is_ready_later(nfs: Machine, node: Node) -> None:
    nfs.head.unplug()
    done = node.petal(*HOOK, seconds=60)
    assert done.code == 0
    assert done.seconds < HOOK_SECONDS + STARTS
    node.until("the timer tries again", "systemctl is-active petal-node-converge.timer", 60)
    nfs.head.plug()
    node.until("the timer stops: ready", "! systemctl is-active petal-node-converge.timer", 150)
    node.petal("check").ok()


def test_an_existing_mount_of_another_source_is_not_changed(nfs: Machine, node: Node) -> None:
    node.run("mount", "-t", "tmpfs", "other", "/shared").ok()
    done = node.petal("bootstrap", "--role", "compute", "--config", CONFIG, "--json")
    node.run("umount", "/shared").ok()
    assert done.code == 3
    assert f"/shared is mounted from other, the configuration has {SOURCE}" in done.output


def test_a_missing_export_is_reported(nfs: Machine, node: Node) -> None:
    configure(node, "head:/srv/nothing")
    done = node.petal("bootstrap", "--role", "compute", "--config", CONFIG, "--json")
    assert done.code == 1
    assert codes(done) == {"storage-not-mounted"}
    assert "head:/srv/nothing" in done.output
