"""The storage that a node has used, its reaction to another one, and errors of a disk."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bootstrap.core.errors import PetalError, StorageError
from bootstrap.core.model import Outcome, Role, Severity, StepReport, plain
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
    """Mount another file system at the same directory."""
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
def test_files_on_storage_that_others_can_change_are_not_trusted(head: World, name: str) -> None:
    """Root executes files in most of them."""
    storage(head)
    place = head.paths.shared / name
    place.mkdir(exist_ok=True)
    place.chmod(0o777)
    report = storage(head)
    assert (report.outcome, code(report)) == (Outcome.BLOCKED, "untrusted")
    assert f"chmod go-w {place}" in report.remedy


@pytest.mark.parametrize("token", [None, Token("feed" * 8, "another-head")], ids=["empty", "another cluster's"])
def test_the_head_node_installs_nothing_on_changed_storage(head: World, token: Token | None) -> None:
    storage(head)
    other_storage(head, token)
    before = sorted(head.paths.shared_mount.rglob("*"))
    report = storage(head)
    assert (report.outcome, code(report)) == (Outcome.BLOCKED, "storage-changed")
    assert "petal-node bootstrap --accept-storage" in report.remedy[-1]
    assert sorted(head.paths.shared_mount.rglob("*")) == before


def test_another_run_may_write_the_token_during_a_probe(head: World, monkeypatch: pytest.MonkeyPatch) -> None:
    view = storage_step._view

    def slow_view(ctx: Context) -> storage_step.StorageView:
        seen = view(ctx)
        monkeypatch.setattr(storage_step, "_view", view)
        assert storage(head).outcome is Outcome.CHANGED  # the complete step of the other run
        return seen

    monkeypatch.setattr(storage_step, "_view", slow_view)
    assert storage_step.Storage().probe(head.context).pending
    assert storage(head).outcome is Outcome.OK


def test_other_nodes_follow_the_head_node_over_two_changes_of_storage(head: World, compute: World) -> None:
    for _ in range(2):
        other_storage(head, None)
        assert code(storage(compute)) == "storage-changed"
        assert storage(head, accept=True).outcome is Outcome.CHANGED
        assert storage(head).outcome is Outcome.OK
    token = ClusterState(head.paths).token()
    assert token is not None
    finding = next(iter(storage_step.Storage().findings(compute.context)))
    assert (finding.severity, finding.remedy) == (Severity.WARN, ("petal-node repair",))  # it can use the software
    assert storage(compute).outcome is Outcome.CHANGED
    assert KnownStorage.load(compute.paths) == KnownStorage("/shared", token.token, Owner("demo", "us-east-1"))


def test_the_head_node_does_not_follow_a_change_of_storage(head: World) -> None:
    storage(head)
    other_storage(head, Token("feed" * 8, "another-head", Owner("demo", "us-east-1")))
    assert code(storage(head)) == "storage-changed"


def test_accepted_storage_keeps_its_token(head: World) -> None:
    """For example a copy of the cluster's storage: nodes that know the token still accept it."""
    storage(head)
    token = Token("feed" * 8, "another-head", Owner("demo", "us-east-1"))
    other_storage(head, token)
    assert storage(head, accept=True).outcome is Outcome.CHANGED
    assert ClusterState(head.paths).token() == token


def test_a_node_can_accept_storage_for_itself(head: World, compute: World) -> None:
    other_storage(head, Token("feed" * 8, "another-head"))
    assert code(storage(compute)) == "storage-changed"
    assert storage(compute, accept=True).outcome is Outcome.CHANGED
    assert storage(compute).outcome is Outcome.OK


def test_a_changed_mount_point_in_the_configuration_is_accepted(head: World) -> None:
    storage(head)
    (head.prefix / "fsx").mkdir()
    head.config_text = "{stack: none, storage: {mount: /fsx}}"
    assert storage(head).outcome is Outcome.CHANGED


@pytest.mark.parametrize("text", ["garbage", '{"format": 1}', '{"format": 1, "mount": "/shared", "token": 1}'])
def test_a_damaged_record_of_known_storage_is_ignored(head: World, text: str) -> None:
    storage(head)
    head.paths.seen_storage.write_text(text)
    assert storage(head).outcome is Outcome.CHANGED


def test_the_desired_state_on_changed_storage_is_not_used(head: World, compute: World) -> None:
    desired = DesiredState("9.9.9", "f" * 64, {"storage": {"mount": "/shared"}}, {}, "r1")
    ClusterState(head.paths).save_desired_state(desired)
    facts = compute.context.facts
    assert find_desired_state(compute.prefix, facts, compute.system, {}) == desired
    other_storage(head, Token("feed" * 8, "another-head"))
    write_document(head.paths.state / "desired.json", plain(desired))
    assert find_desired_state(compute.prefix, facts, compute.system, {}) is None


@pytest.mark.parametrize("token", [None, Token("feed" * 8, "another-head")], ids=["empty", "another cluster's"])
def test_a_running_run_writes_nothing_if_storage_is_replaced(head: World, token: Token | None) -> None:
    storage(head)
    other_storage(head, token)
    before = sorted(head.paths.shared_mount.rglob("*"))
    with pytest.raises(StorageError) as caught:
        ClusterState(head.paths).save_proof(Proof("r1", "2026-11-24T08:00:00Z", ()))
    assert caught.value.code == "storage-changed"
    assert sorted(head.paths.shared_mount.rglob("*")) == before


def test_root_squash_is_detected_and_the_test_file_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(StorageError) as caught:
        make_own_dir(tmp_path / "petal" / "state", tmp_path)
    assert caught.value.code == "storage-squashed"
    assert list(tmp_path.iterdir()) == []


def test_a_user_who_may_not_write_there_is_not_a_squashed_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, "mkdir", refuse)
    for user, wanted in ((4242, "not-root"), (0, "storage-squashed")):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        with pytest.raises(PetalError) as caught:
            make_own_dir(tmp_path / "petal" / "state", tmp_path)
        assert caught.value.code == wanted


def test_a_tree_without_the_directory_of_shared_storage_gets_the_command_that_makes_it(tmp_path: Path) -> None:
    world = World(tmp_path / "head")
    world.paths.shared_mount.rmdir()
    with pytest.raises(StorageError) as caught:
        storage_step.Storage().probe(world.context)
    assert caught.value.remedy == (f"mkdir -p {world.paths.shared_mount}",)
    assert caught.value.code == "storage-not-mounted"
    world.paths.shared_mount.touch()  # mkdir -p would fail
    with pytest.raises(StorageError, match="is not a directory") as caught:
        storage_step.Storage().probe(world.context)
    assert caught.value.remedy == (f"ls -ld {world.paths.shared_mount}",)


@pytest.mark.parametrize(
    ("number", "wanted"),
    [(errno.ENOSPC, "file-no-space"), (errno.EROFS, "file-read-only"), (errno.EEXIST, "package-archive")],
)
def test_errors_of_the_disk_are_not_reported_as_a_damaged_tarball(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, wanted: str
) -> None:
    world = World(tmp_path / "head", config_text=with_package(tmp_path))

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tarball, "_write_file", refuse)
    reports = {report.name: report for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert code(reports["packages"]) == wanted
    assert not list(world.paths.store.rglob("*.part"))
