"""Which storage a node has used, and what it does when another is in its place; how a disk's own troubles are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootstrap.core.errors import StorageError
from bootstrap.core.model import Outcome, Role, StepReport, plain
from bootstrap.engine import converge as engine
from bootstrap.engine.configuration import find_desired_state
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import make_own_dir
from bootstrap.remote import tarball
from bootstrap.state.context import Context
from bootstrap.state.desired import DesiredState, Owner, Proof, Token
from bootstrap.state.store import ClusterState, KnownStorage, write_document
from bootstrap.steps import storage as storage_step
from tests.world import World, typed, with_package


def storage(world: World, *, accept: bool = False) -> StepReport:
    ctx = typed(world.context, accept_storage=accept)
    steps = [step for step in STEPS if step.name in ("self-install", "storage")]
    return engine.converge(steps, ctx, lambda _: None)[1]


def other_storage(world: World, token: Token | None) -> None:
    """Another file system is mounted where the one from before was."""
    world.paths.shared_mount.rename(world.prefix / f"before-{os.urandom(4).hex()}")
    world.paths.shared_mount.mkdir()
    if token is not None:
        world.paths.state.mkdir(parents=True)
        ClusterState(world.paths).save_token(token)


def code(report: StepReport) -> str | None:
    return str(report.error["code"]) if report.error else None


@pytest.fixture
def head(tmp_path: Path) -> World:
    return World(tmp_path / "head")


@pytest.fixture
def compute(head: World) -> World:
    """A node that has used the head node's storage."""
    storage(head)
    node = head.as_node("compute", Role.COMPUTE)
    assert storage(node).outcome is Outcome.CHANGED
    assert storage(node).outcome is Outcome.OK
    return node


@pytest.mark.parametrize("name", ["state/nodes", "archive", "lock", "build", "root/spack", "root/releases"])
def test_nothing_of_ours_that_others_could_change_is_relied_on(head: World, name: str) -> None:
    """Root runs what lies in most of them."""
    storage(head)
    place = head.paths.shared / name
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    report = storage(head)
    assert (report.outcome, code(report)) == (Outcome.BLOCKED, "untrusted")
    assert f"chmod go-w {place}" in report.remedy


@pytest.mark.parametrize("token", [None, Token("feed" * 8, "another-head")], ids=["empty", "another cluster's"])
def test_the_head_node_installs_nothing_on_another_storage(head: World, token: Token | None) -> None:
    storage(head)
    other_storage(head, token)
    before = sorted(head.paths.shared_mount.rglob("*"))
    report = storage(head)
    assert (report.outcome, code(report)) == (Outcome.BLOCKED, "storage-changed")
    assert "petal-node bootstrap --accept-storage" in report.remedy[-1]
    assert sorted(head.paths.shared_mount.rglob("*")) == before


def test_a_run_beside_this_one_may_mark_the_storage_while_it_looks(
    head: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = storage_step._view

    def slow_view(ctx: Context) -> storage_step.StorageView:
        seen = view(ctx)
        monkeypatch.setattr(storage_step, "_view", view)
        assert storage(head).outcome is Outcome.CHANGED  # the other run's, from its beginning to its end
        return seen

    monkeypatch.setattr(storage_step, "_view", slow_view)
    assert storage_step.Storage().probe(head.context).pending
    assert storage(head).outcome is Outcome.OK


def test_other_nodes_follow_what_the_head_node_accepted_also_over_two_changes(head: World, compute: World) -> None:
    for _ in range(2):
        other_storage(head, None)
        assert code(storage(compute)) == "storage-changed"
        assert storage(head, accept=True).outcome is Outcome.CHANGED
        assert storage(head).outcome is Outcome.OK
    token = ClusterState(head.paths).token()
    assert token is not None
    assert storage(compute).outcome is Outcome.CHANGED
    assert KnownStorage.load(compute.paths) == KnownStorage("/shared", token.token, Owner("demo", "us-east-1"))


def test_the_head_node_itself_follows_no_other_storage_of_its_cluster(head: World) -> None:
    storage(head)
    other_storage(head, Token("feed" * 8, "another-head", Owner("demo", "us-east-1")))
    assert code(storage(head)) == "storage-changed"


def test_a_storage_that_is_accepted_keeps_its_own_token(head: World) -> None:
    """A copy of the cluster's own, for example: nodes that know it by that token still know it."""
    storage(head)
    token = Token("feed" * 8, "another-head", Owner("demo", "us-east-1"))
    other_storage(head, token)
    assert storage(head, accept=True).outcome is Outcome.CHANGED
    assert ClusterState(head.paths).token() == token


def test_a_node_may_accept_for_itself(head: World, compute: World) -> None:
    other_storage(head, Token("feed" * 8, "another-head"))
    assert code(storage(compute)) == "storage-changed"
    assert storage(compute, accept=True).outcome is Outcome.CHANGED
    assert storage(compute).outcome is Outcome.OK


def test_another_place_in_the_configuration_is_no_surprise(head: World) -> None:
    storage(head)
    (head.prefix / "fsx").mkdir()
    head.config_text = "{stack: none, storage: {mount: /fsx}}"
    assert storage(head).outcome is Outcome.CHANGED


@pytest.mark.parametrize("text", ["garbage", '{"format": 1}', '{"format": 1, "mount": "/shared", "token": 1}'])
def test_a_damaged_memory_is_none(head: World, text: str) -> None:
    storage(head)
    head.paths.seen_storage.write_text(text)
    assert storage(head).outcome is Outcome.CHANGED


def test_nobody_obeys_the_wanted_json_of_another_storage(head: World, compute: World) -> None:
    desired = DesiredState("9.9.9", "f" * 64, {"storage": {"mount": "/shared"}}, {}, "r1")
    ClusterState(head.paths).save_desired_state(desired)
    facts = compute.context.facts
    assert find_desired_state(compute.prefix, facts, compute.system, []) == desired
    other_storage(head, Token("feed" * 8, "another-head"))
    write_document(head.paths.state / "desired.json", plain(desired))
    assert find_desired_state(compute.prefix, facts, compute.system, []) is None


@pytest.mark.parametrize("token", [None, Token("feed" * 8, "another-head")], ids=["empty", "another cluster's"])
def test_a_run_that_is_under_way_writes_nothing_onto_a_storage_that_came_in_its_place(
    head: World, token: Token | None
) -> None:
    storage(head)
    other_storage(head, token)
    before = sorted(head.paths.shared_mount.rglob("*"))
    with pytest.raises(StorageError) as caught:
        ClusterState(head.paths).save_proof(Proof("r1", "2026-11-24T08:00:00Z", ()))
    assert caught.value.code == "storage-changed"
    assert sorted(head.paths.shared_mount.rglob("*")) == before


def test_what_root_makes_and_does_not_own_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(StorageError) as caught:
        make_own_dir(tmp_path / "petal" / "state", tmp_path)
    assert caught.value.code == "storage-squashed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("number", "wanted"),
    [(errno.ENOSPC, "file-no-space"), (errno.EROFS, "file-read-only"), (errno.EEXIST, "package-archive")],
)
def test_a_disks_troubles_are_not_blamed_on_the_tarball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wanted: str
) -> None:
    world = World(tmp_path / "head", config_text=with_package(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tarball, "_write_file", refuse)
    reports = {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert code(reports["packages"]) == wanted
    assert not list(world.paths.store.rglob("*.part"))
