"""Convergence without a hook: nodes that boot too early, reboots, a head node that dies during a build, updates."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bootstrap.archive import build
from tests.lab import release_stack, stack
from tests.lab.cluster import PHASES, Lab
from tests.lab.demo import DIST, actions, publish, wait_for_proof
from tests.lab.engine import until

TOP = Path(__file__).parents[2]
TIMER = "petal-node-converge.timer"


def status(lab: Lab, node: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(lab.exec(node, ("petal-node", "status", "--json")).stdout)
    return answer


def is_ready(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("petal-node", "check", "--quiet")).returncode == 0


def timer_runs(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("systemctl", "is-active", TIMER)).stdout.strip() == "active"


@pytest.fixture(scope="module")
def early(lab: Lab) -> Lab:
    """Login and compute nodes whose hooks ran before the head node's."""
    lab.fresh()
    publish(lab, stack.lab_config(lab, spack=False))
    for node in ("login-1", "compute-1"):
        results = lab.boot(node, PHASES[:4])
        assert [result.returncode for result in results] == [0] * 4
        assert (results[3].hook_seconds or 0) < 10
        assert timer_runs(lab, node)
        assert not is_ready(lab, node)
    return lab


def test_the_timer_of_a_node_that_stays_not_ready_waits_up_to_ten_minutes(early: Lab) -> None:
    """After days without success, a run that has just ended makes the timer wait, and an older one does not."""
    due = ("petal-node", "converge", "--if-due", "--quiet")

    def it_runs() -> bool:
        set_times(early, finished="2000-01-01T00:00:00Z")
        return not early.exec("login-1", due).ok

    set_times(early, started="2000-01-01T00:00:00Z")
    try:
        assert not early.exec("login-1", ("petal-node", "converge")).ok
        waits = early.exec("login-1", due)
        assert (waits.returncode, waits.stdout) == (0, "")
        until("it runs again", it_runs, 30)  # the node's own timer may end a run between the two commands
    finally:
        set_times(early, started="2100-01-01T00:00:00Z")
    assert timer_runs(early, "login-1")


def set_times(lab: Lab, **times: str) -> None:
    """Sets a time in all records of runs."""
    for name, value in times.items():
        edit = f'sed -i \'s/"{name}": "[^"]*"/"{name}": "{value}"/\' /var/lib/petal-node/runs/*.json'
        lab.exec("login-1", ("sh", "-c", edit)).check()


def test_nodes_that_booted_before_the_head_node_become_ready_and_their_timer_stops(early: Lab) -> None:
    for result in early.boot("head"):
        result.check()
    for node in ("login-1", "compute-1"):
        early.phase(node, "finalize").check()
        until(f"{node} is ready", lambda node=node: is_ready(early, node), 60)  # type: ignore[misc]
        until(f"the timer of {node} stops", lambda node=node: not timer_runs(early, node), 60)  # type: ignore[misc]
    assert not timer_runs(early, "head")


@pytest.mark.parametrize("node", ["login-1", "compute-1", "head"])
def test_a_ready_node_is_ready_after_a_reboot_and_its_timer_stops(early: Lab, node: str) -> None:
    runs = len(status(early, node)["data"]["runs"])
    early.restart(node)
    until("the convergence after boot has ended", lambda: _ended(early, node, runs), 60)
    until(f"{node} is ready", lambda: is_ready(early, node), 30)
    until("no timer runs", lambda: not timer_runs(early, node), 10)


def _ended(lab: Lab, node: str, before: int) -> bool:
    runs = status(lab, node)["data"]["runs"]
    return (
        bool(runs) and runs[0]["verb"] == "converge" and (runs[0]["hook_may_return"] or runs[0]["finished"] is not None)
    )


def other_archive(top: Path) -> bytes:
    """The same program as version 0.2.0, built by the archive's builder."""
    for folder in ("bootstrap", "actions", "modulefiles", "spack_envs"):
        shutil.copytree(TOP / folder, top / folder, ignore=shutil.ignore_patterns("__pycache__"))
    source = top / "bootstrap" / "__init__.py"
    source.write_text(source.read_text().replace("0.1.0", "0.2.0"))
    return build.build(top / "dist", top, TOP / "build/vendor").archive.read_bytes()


def test_nodes_follow_the_head_node_to_another_version_and_back(early: Lab, tmp_path: Path) -> None:
    """An operator starts another version on the head node; a node that converges hands over to it, and back."""
    early.exec("head", ("sh", "-c", "cat >/root/other && chmod 755 /root/other"), stdin=other_archive(tmp_path)).check()
    early.write("head", "/root/petal.yaml", json.dumps(status(early, "head")["data"]["desired"]["config"]))
    for archive, version in (("/root/other", "0.2.0"), ("/opt/petal-node/0.1.0/petal-node", "0.1.0")):
        early.exec("head", (archive, "bootstrap", "--config", "/root/petal.yaml")).check()
        early.exec("compute-1", ("petal-node", "converge")).check()
        for node in ("head", "compute-1"):
            assert early.exec(node, ("petal-node", "version")).stdout == f"petal-node {version}\n"
            assert status(early, node)["data"]["desired"]["version"] == version
        assert is_ready(early, "compute-1")


def test_nodes_with_old_args_follow_an_update_of_the_head_node(early: Lab, tmp_path: Path) -> None:
    """OnNodeUpdated has new pins; the Args of other nodes cannot change, even of nodes that boot later."""
    before = status(early, "head")["data"]["desired"]
    old = actions(early, before["config"], (DIST / "petal-node").read_bytes())
    config = {**before["config"], "packages": before["config"]["packages"][1:], "check": {"run": ["mpirun --version"]}}
    new = actions(early, config, other_archive(tmp_path), "petal-2.yaml")
    for head, version in ((new, "0.2.0"), (old, "0.1.0")):
        early.set_custom_actions(old, head=head)
        output = early.phase("head", "updated").check().stdout
        desired = status(early, "head")["data"]["desired"]
        assert (desired["version"], desired["release"] == before["release"]) == (version, head is old), output
        follow(early, "compute-1", desired)
    early.set_custom_actions(old, head=new)
    early.phase("head", "updated").check()
    for result in early.boot("compute-2"):
        result.check()
    follow(early, "compute-2", status(early, "head")["data"]["desired"])


def follow(lab: Lab, node: str, desired: dict[str, Any]) -> None:
    """Let a node converge; it has version, configuration and release of the head node."""
    lab.exec(node, ("petal-node", "converge")).check()
    found = status(lab, node)["data"]
    assert found["desired"] == desired
    assert found["current"] == desired["release"]
    assert lab.exec(node, ("petal-node", "version")).stdout == f"petal-node {desired['version']}\n"
    assert is_ready(lab, node), lab.exec(node, ("petal-node", "check")).stdout


def test_a_machine_image_made_from_a_node_has_no_memory_of_it(early: Lab) -> None:
    """compute-2 starts from the disk of compute-1, which knows its own instance and whose boot service is on."""
    instance, log = "/var/lib/cloud/data/instance-id", "/var/log/petal-node.log"
    early.write("compute-1", instance, "i-0aaaaaaaaaaaaaaaa\n")
    early.exec("compute-1", ("petal-node", "converge")).check()
    old = {run["run_id"] for run in status(early, "compute-1")["data"]["runs"]}
    early.write("compute-1", instance, "i-0bbbbbbbbbbbbbbbb\n")  # as the firmware of the new instance says
    early.image = early.bake("compute-1")
    try:
        early.replace("compute-2")
        until("the service has run", lambda: "is removed, because this is" in early.read("compute-2", log), 30)
        for result in early.boot("compute-2"):
            result.check()
        until("compute-2 is ready", lambda: is_ready(early, "compute-2"), 60)
    finally:
        early.image = None
        subprocess.run(["docker", "image", "rm", "-f", f"{early.name}-baked"], check=True, stdout=subprocess.DEVNULL)
    assert "the memory of instance i-0aaaaaaaaaaaaaaaa" in early.read("compute-2", log)
    assert not old & {run["run_id"] for run in status(early, "compute-2")["data"]["runs"]}
    own = json.loads(early.read("head", "/shared/petal/state/nodes/queue1-st-c5-2.json"))
    assert own["node"] == "queue1-st-c5-2"
    until("its timer stops", lambda: not timer_runs(early, "compute-2"), 60)


def test_a_head_node_that_dies_during_a_build_completes_it_after_its_boot(lab: Lab) -> None:
    reason = stack.no_spack()
    if reason:
        pytest.skip(reason)
    lab.fresh()
    bucket = stack.Bucket(lab)
    config = release_stack.config(bucket, release_stack.spack_section(lab, bucket), 1, ("slowly@30",))
    bucket.send()
    publish(lab, {**config, "install": {"budget": 2}, "check": {**config["check"], "wait": 300}})
    for result in lab.boot("head"):
        result.check()
    building = "grep -qs 'slowly.*Executing phase' /var/log/petal-node/spack-*.log"
    until("Spack builds", lambda: lab.exec("head", ("sh", "-c", building)).ok, 60)
    lab.restart("head")
    until("the build has ended", lambda: status(lab, "head")["data"]["current"] is not None, 240)
    assert lab.exec("head", ("sh", "-c", "ls -A /opt/petal/store | grep -c '[.]part' || true")).stdout.strip() == "0"
    for node in ("login-1", "compute-1", "compute-2"):
        for result in lab.boot(node):
            result.check()
    lab.wait_idle()
    wait_for_proof(lab)
    found = status(lab, "head")
    assert found["data"]["proof"], json.dumps(found)
    assert found["data"]["proved"] == 2
