"""Mount points with symbolic links: /shared that leads to /fsx, /opt on another disk."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from bootstrap.core.facts import followed
from bootstrap.host.system import System
from bootstrap.steps import root
from bootstrap.steps.mount import unit_name
from tests.world import World


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_link_to_a_mount_point_is_that_mount_and_links_on_the_mount_are_not_read(tmp_path: Path) -> None:
    fsx, shared = tmp_path / "disk/fsx", tmp_path / "shared"
    fsx.mkdir(parents=True)
    (tmp_path / "fsx").symlink_to("disk/fsx")
    shared.symlink_to(tmp_path / "fsx")
    world = World(tmp_path / "node").context
    assert not System().mounts()[0].point.startswith(str(tmp_path))
    facts = world.facts
    subprocess.run(["mount", "-t", "tmpfs", "links", str(fsx)], check=True)
    try:
        (fsx / "link").symlink_to("/")
        points = {mount.point for mount in System().mounts()}
        assert followed(str(shared), points) == str(fsx)
        assert followed(str(shared / "link/etc"), points) == str(fsx / "link/etc")
        mounted = facts.__class__(facts.cluster, facts.host, System().mounts()).mount_of(str(shared))
        assert mounted is not None
        assert (mounted.source, mounted.point) == ("links", str(fsx))
    finally:
        subprocess.run(["umount", str(fsx)], check=True)


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert followed(str(tmp_path / "a"), set()) in (str(tmp_path / "a"), str(tmp_path / "b"))


def test_the_unit_of_the_root_is_named_after_the_directory_that_opt_leads_to(tmp_path: Path) -> None:
    ctx = World(tmp_path).context
    (tmp_path / "data/opt").mkdir(parents=True)
    (tmp_path / "opt").symlink_to("data/opt")
    unit = root._unit(ctx)
    assert unit.name == unit_name(f"{tmp_path}/data/opt/petal")
    assert f"Where={tmp_path}/data/opt/petal\n" in unit.text
