"""Repairs without a real node: mounts that hide a mount point, and the order of repairs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.config.model import PackageConfig
from bootstrap.core.errors import StorageError
from bootstrap.core.facts import Mount
from bootstrap.core.model import Outcome, Role
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import REPAIRS, STEPS
from bootstrap.host.inventory import Difference
from bootstrap.repair.store import InstalledPackage, PackageFiles
from bootstrap.state.store import KnownStorage, write_document
from bootstrap.steps.mount import HiddenMounts
from bootstrap.steps.packages import install
from tests.unit.test_laws import lmod_is_there, snapshot
from tests.world import World, typed, with_package

__all__ = ["lmod_is_there"]


@pytest.fixture
def node(tmp_path: Path) -> World:
    world = World(tmp_path / "node", Role.COMPUTE, live=True)
    KnownStorage(world.paths.mount, "cafe").save(world.paths)
    world.paths.state.mkdir(parents=True)
    write_document(world.paths.state / "token.json", {"token": "cafe", "host": "head"})
    world.mounts = (Mount("10.0.0.10:/shared", world.paths.mount, "nfs4", ("rw",)),)
    return world


def over(world: World, point: str, kind: str = "tmpfs") -> None:
    world.mounts = (*world.mounts, Mount("other", point, kind, ("rw",)))


def test_only_storage_in_fstab_is_mounted(node: World) -> None:
    node.mounts = ()
    assert HiddenMounts().probe(node.context).skipped
    node.paths.at("/etc").mkdir(exist_ok=True)
    node.paths.at("/etc/fstab").write_text("# /shared\n10.0.0.10:/shared /shared nfs4 hard 0 0\n")
    assert HiddenMounts().probe(node.context).changes == ("mount /shared",)


def test_storage_mounted_twice_hides_nothing(node: World) -> None:
    node.mounts = (*node.mounts, *node.mounts)
    assert HiddenMounts().probe(node.context).holds


def test_a_mount_that_hides_storage_is_reported_with_a_command_and_kept(node: World) -> None:
    over(node, "/shared")
    write_document(node.paths.state / "token.json", {"token": "feed", "host": "head"})
    for ctx in (node.context, typed(node.context, yes=True)):
        probe = HiddenMounts().probe(ctx)
        assert (probe.blocked, probe.reason) == (
            True,
            "/shared is hidden by another mount: tmpfs from other",
        )
        assert probe.remedy[-1].startswith("umount --lazy /shared ")
        HiddenMounts().apply(ctx)
    assert not [command for command in node.system.commands if command[0] == "umount"]


def test_a_mount_that_hides_the_root_is_reported_with_a_command(node: World) -> None:
    over(node, str(node.paths.root), "nfs4")
    over(node, str(node.paths.root))
    probe = HiddenMounts().probe(node.context)
    assert probe.blocked
    assert probe.remedy[-1].startswith(f"umount --lazy {node.paths.root} ")


def test_a_hanging_mount_over_our_storage_is_found(node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    over(node, "/shared", "fuse.deaf")

    def hang(_action: Callable[[], Any], where: str, seconds: float) -> Any:
        raise StorageError(f"{where} did not answer within {seconds:.0f} s", code="storage-hangs")

    monkeypatch.setattr(node.system, "on_storage", hang)
    assert HiddenMounts().probe(node.context).reason == "/shared is hidden by another mount: fuse.deaf from other"


def test_no_mount_is_hidden_on_a_node_that_never_used_storage(node: World) -> None:
    over(node, "/shared")
    node.paths.seen_storage.unlink()
    assert HiddenMounts().probe(typed(node.context, yes=True)).holds


# -------------------------------------------------------------------------------------------------------------- laws


def test_a_repair_has_the_steps_of_a_bootstrap_except_two_in_the_same_order() -> None:
    names = [step.name for step in REPAIRS]
    assert len(names) == len(set(names))
    of_steps = [name for name in names if name in {step.name for step in STEPS}]
    assert of_steps == [step.name for step in STEPS if step.name not in ("build-cache", "proof")]


def test_needed_steps_come_before_a_repair() -> None:
    for number, step in enumerate(REPAIRS):
        known = {other.name for other in REPAIRS[:number]} | {"build-cache", "proof"}
        assert {need.name for need in step.needs} <= known, step.name


def test_repair_plans_and_changes_nothing_on_a_healthy_node(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    engine.converge(STEPS, world.context, lambda _: None)
    before = snapshot(world.prefix)
    planned = engine.plan(REPAIRS, world.context)
    done = engine.converge(REPAIRS, world.context, lambda _: None, background=False)
    for reports in (planned, done):
        assert {report.outcome for report in reports} <= {Outcome.OK, Outcome.SKIPPED}, reports
    assert snapshot(world.prefix) == before


def test_packages_that_are_gone_or_missing_in_the_configuration_are_not_called_complete(tmp_path: Path) -> None:
    world = World(tmp_path / "empty")
    assert PackageFiles().probe(world.context).skipped
    world = World(tmp_path / "node", config_text=with_package(tmp_path))
    assert PackageFiles().probe(world.context).pending  # nothing is unpacked
    install(world.context, world.config.packages[0])
    assert PackageFiles().probe(world.context).holds
    shutil.rmtree(world.paths.store)
    assert PackageFiles().probe(world.context).pending


LOST, EMPTY = Difference("/a", "is missing", lost=True), Difference("/b", "has 0 bytes", lost=True, empty=True)
EDITED = Difference("/c", "has other contents", lost=False)


@pytest.mark.parametrize(
    ("is_binary", "differences", "expected"),
    [
        (True, (LOST,), True),
        (True, (LOST, EMPTY), True),
        (True, (LOST, EDITED), False),
        (False, (LOST,), False),
        (False, (LOST, EMPTY), True),
        (False, (EMPTY, EDITED), False),
    ],
)
def test_a_package_without_a_change_of_an_administrator_is_installed_again(
    is_binary: bool, differences: tuple[Difference, ...], expected: bool
) -> None:
    package = PackageConfig("hello", "1.0") if is_binary else None
    assert InstalledPackage("hello", Path("/p"), package, differences).has_only_lost is expected
