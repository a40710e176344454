"""Storage that needs a millisecond for each operation: reads have a bound, and name what they did not reach."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.core.deadlines import EXPIRY
from bootstrap.core.model import Finding, NodeReport, Severity, plain
from bootstrap.host.files import scan
from bootstrap.host.times import timestamp
from bootstrap.repair import permissions
from bootstrap.repair.permissions import Permissions
from bootstrap.state.store import ClusterState, write_document
from tests.disks import fuse
from tests.world import World

NODES = 64


@pytest.fixture
def head(tmp_path: Path) -> Iterator[World]:
    """A head node whose storage has the reports of many nodes, served slowly."""
    world = World(tmp_path / "head")
    passed = (Finding("storage", Severity.OK, "mounted"),)
    times = {6: timestamp(time.time() + 2 * EXPIRY), 7: timestamp(0)}
    for number in range(NODES):
        name = f"q1-dy-c5-{number}"
        report = NodeReport(name, "compute", times.get(number, timestamp()), "r1", passed)
        write_document(world.paths.state / "nodes" / f"{name}.json", plain(report))
    (world.paths.state / "nodes" / "q1-dy-c5-9.json").write_text("{")
    (world.paths.state / "nodes" / "q1-dy-c5-8.json").write_text("EIO")
    shared, backing = world.paths.shared_mount, tmp_path / "backing"
    shared.rename(backing)
    shared.mkdir()
    with fuse(shared, backing, kind="slow"):
        yield world


def test_reports_that_are_late_or_damaged_are_counted(head: World) -> None:
    shared = ClusterState(head.paths)
    reports = shared.reports(30)
    assert (len(reports.current), reports.unread) == (NODES - 4, 2)
    assert [path.name for path in reports.expired] == ["q1-dy-c5-6.json", "q1-dy-c5-7.json"]
    assert [path.name for path in reports.damaged] == ["q1-dy-c5-9.json"]
    late = shared.reports(0.01)
    assert late.unread > 1
    assert len(late.current) + len(late.expired) + late.unread == NODES
    assert shared.reports(0) == ((), (), (), NODES)


def test_a_scan_names_the_directories_that_it_did_not_reach(head: World, monkeypatch: pytest.MonkeyPatch) -> None:
    state = head.paths.state
    (state / "nodes" / "q1-dy-c5-3.json").chmod(0o666)
    state.chmod(0o777)
    insecure = scan(head.paths.shared, lambda info: bool(info.st_mode & 0o022), 30)
    assert [path for path, _ in insecure.found] == [str(state), f"{state}/nodes/q1-dy-c5-3.json"]
    assert insecure.unreached == []
    monkeypatch.setattr(permissions, "is_own_storage", lambda *_: True)
    monkeypatch.setattr(permissions, "BUDGET", 0)
    assert Permissions().probe(head.context).message.endswith(f"; not reached within 0 s: {head.paths.shared}")
