"""The power of a node is cut after its hook, on a real ext4 and xfs: the tool that boot and shells start is whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.archive.build import Built
from bootstrap.host.files import sha256_of
from tests.archive.conftest import run
from tests.disks import LoopDisk, mounted

FACTS = {"cluster": {"node_type": "ComputeFleet", "cluster_name": "demo", "region": "us-east-1"}}


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDisk]:
    made = LoopDisk.make(request.param, tmp_path)
    yield made
    made.unmount()


def sizes(node: Path) -> dict[str, int]:
    """The sizes of the files that outlive the hook."""
    tops = ("opt/petal-node", "var/cache/petal-node", "etc/systemd")
    paths = (path for top in tops for path in (node / top).rglob("*") if path.is_file())
    files = {str(path.relative_to(node)): path.stat().st_size for path in paths}
    return {name: size for name, size in files.items() if "/.part." not in name and "/.new-" not in name}


def hook(node: Path, archive: Path, package: Path, *more: str) -> subprocess.CompletedProcess[str]:
    script = archive.with_name("on_node_start.sh")
    argv = [script, "--package", f"file://{package}", "--sha256", sha256_of(archive), "--config", f"file://{node}.yaml"]
    systemctl = node.parent / "bin/systemctl"
    systemctl.parent.mkdir(exist_ok=True)
    systemctl.write_text("#!/bin/sh\n")
    systemctl.chmod(0o755)
    env = {"PATH": f"{systemctl.parent}:{os.environ['PATH']}", "HOME": "/root", "PETAL_PREFIX": str(node)}
    return subprocess.run(["sh", *argv, *more], env=env, capture_output=True, text=True, timeout=60, check=False)


def test_after_a_power_cut_the_installed_tool_and_its_tree_are_complete(disk: LoopDisk, real: Built) -> None:
    node = disk.place / "node"
    for name in ("etc/chef", "opt", "var", "shared", "run/systemd/system"):
        (node / name).mkdir(parents=True)
    (node / "etc/chef/dna.json").write_text(json.dumps(FACTS))
    Path(f"{node}.yaml").write_text("stack: none\n")

    assert "tries again" in hook(node, real.archive, node / "missing").stdout
    waiting, before = disk.cut(), sizes(node)  # the kernel has written nothing by itself yet
    done = hook(node, real.archive, real.archive, "--strict")
    assert done.returncode == 0, done.stdout
    installed, after = disk.cut(), sizes(node)

    disk.boot(waiting)
    assert sizes(node) == before
    assert {Path(name).name for name in before} >= {"hook.sh", "start.sh", "petal-node-hook.service"}
    disk.boot(installed)
    assert sizes(node) == after
    (kept,) = (node / "opt/petal-node").glob("*/petal-node")
    assert sha256_of(kept) == sha256_of(real.archive)
    ran = run(["env", "-i", "PATH=/usr/bin:/bin", f"PETAL_PREFIX={node}", str(kept), "version"])
    assert (ran.code, ran.err) == (0, "")


def test_a_full_disk_is_named_as_the_cause_by_the_hook(tmp_path: Path, real: Built) -> None:
    node = tmp_path / "node"
    with mounted(node / "opt", 1):
        done = hook(node, real.archive, real.archive)
    assert "[file-no-space]" in done.stdout
    assert "No space left on device. Remedy: df -h" in done.stdout
