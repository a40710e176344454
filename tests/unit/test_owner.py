"""Storage of another cluster: adopted with --accept-storage, or not changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cluster.detect import parse_dna
from bootstrap.core.errors import ConfigError, PetalError, StorageError
from bootstrap.core.facts import Mount
from bootstrap.core.model import Finding, NodeReport, Outcome, Role, StepReport, plain
from bootstrap.core.options import BOOT
from bootstrap.engine import converge as engine
from bootstrap.engine.configuration import find_desired_state
from bootstrap.engine.prepare import prepare
from bootstrap.engine.registry import STEPS
from bootstrap.engine.run import run
from bootstrap.host import system
from bootstrap.state.context import Context
from bootstrap.state.desired import DesiredState, Owner, is_foreign
from bootstrap.state.release import current_release
from bootstrap.state.store import ClusterState, KnownStorage, write_document
from bootstrap.steps.root import Root
from tests.adoption import EBS, NFS, converge, installed, new_head_node, write_dna, write_records_of_dead_head
from tests.unit.test_laws import snapshot
from tests.world import World, services

INSTALL = ("packages", "spack", "module-tree", "publish")


def code(step: StepReport) -> str:
    return str((step.error or {}).get("code"))


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    return installed(tmp_path, monkeypatch)


def test_the_desired_release_is_adopted_without_a_build(old: World) -> None:
    left = write_records_of_dead_head(old)
    release, old_token = current_release(old.paths), ClusterState(old.paths).token()
    assert old_token is not None
    new = new_head_node(old)
    found = converge(new, accept=True, lock_wait=0)
    assert (found["storage-owner"].outcome, found["storage-owner"].reason) == (
        Outcome.CHANGED,
        "shared storage serves cluster demo in us-east-1",
    )
    assert found["storage-owner"].changes[0] == f"take over release {release}"
    assert {found[name].outcome for name in INSTALL} == {Outcome.OK}
    assert not [command for command in new.system.commands if command[0].endswith("spack")]
    assert current_release(new.paths) == release == new.release
    state = new.paths.state
    assert not [name for name, data in left.items() if (state / name).exists() and (state / name).read_bytes() == data]
    assert ClusterState(new.paths).reports().current == ()
    desired = ClusterState(new.paths).desired_state()
    assert desired is not None
    assert desired.release == release
    token = ClusterState(new.paths).token()
    assert token is not None
    assert token.token != old_token.token
    assert KnownStorage.load(new.paths) == KnownStorage("/shared", token.token)
    before = snapshot(new.prefix)
    assert {step.outcome for step in converge(new).values()} <= {Outcome.OK, Outcome.SKIPPED}
    assert snapshot(new.prefix) == before


def test_another_release_is_created_next_to_the_old_one(old: World) -> None:
    release = current_release(old.paths)
    new = new_head_node(old)
    new.config_text = old.config_text.replace("version: '1.0'", "version: '1.1'")
    found = converge(new, accept=True)
    assert found["publish"].outcome is Outcome.CHANGED
    assert current_release(new.paths) == new.release != release
    assert (new.paths.releases / str(release) / "manifest.json").is_file()


def test_the_incomplete_release_of_an_interrupted_run_is_completed(old: World) -> None:
    """A snapshot during a build: a release with missing packages, and a partial tarball."""
    release = current_release(old.paths)
    shutil.rmtree(next(old.paths.store.glob("linux-*/fftw-*")))
    (old.paths.archives / ".feed.r-1").write_text("half")
    found = converge(new_head_node(old), accept=True)
    assert found["spack"].outcome is Outcome.CHANGED
    assert found["publish"].outcome is Outcome.OK
    assert current_release(old.paths) == release


@pytest.mark.parametrize("role", list(Role))
def test_the_desired_state_of_another_cluster_is_not_used(old: World, role: Role) -> None:
    ClusterState(old.paths).save_desired_state(
        DesiredState("9.9.9", "f" * 64, {"check": {"run": ["theirs"]}}, {}, "r9")
    )
    new = new_head_node(old)
    write_dna(new)
    with pytest.raises(ConfigError, match="belongs to cluster old") as caught:
        prepare(new.options(role=role, event=BOOT), new.services)
    assert caught.value.code == "config-missing"
    known = new.context.facts
    problems: dict[str, PetalError] = {}
    assert find_desired_state(new.prefix, known, new.system, problems) is None
    assert [error.code for error in problems.values()] == ["storage-other-cluster"]


def test_nodes_that_boot_before_their_head_node_wait_for_it(old: World) -> None:
    new = new_head_node(old)
    login = new.as_node("login", Role.LOGIN)
    before = snapshot(new.paths.shared_mount)
    found = converge(login)
    assert (found["storage"].outcome, code(found["storage"])) == (Outcome.BLOCKED, "storage-unprepared")
    assert "old in us-east-1" in found["storage"].reason
    assert found["root"].outcome is Outcome.BLOCKED
    assert snapshot(new.paths.shared_mount) == before
    converge(new, accept=True)
    assert converge(login)["root"].outcome is Outcome.CHANGED


@pytest.mark.parametrize("mount", [NFS, EBS], ids=["network", "disk"])
def test_storage_of_another_cluster_is_not_changed(old: World, mount: Mount) -> None:
    new = new_head_node(old, mount=mount)
    before = snapshot(new.paths.shared_mount)
    found = converge(new)
    assert (found["storage-owner"].outcome, code(found["storage-owner"])) == (Outcome.BLOCKED, "storage-other-cluster")
    assert "petal-node bootstrap --accept-storage" in found["storage-owner"].remedy[1]
    assert {found[name].outcome for name in ("root", "desired-state", *INSTALL)} == {Outcome.BLOCKED}
    assert snapshot(new.paths.shared_mount) == before
    assert converge(new, accept=True)["storage-owner"].outcome is Outcome.CHANGED
    assert converge(new)["storage-owner"].outcome is Outcome.OK


def test_a_new_head_node_of_the_same_cluster_needs_no_option(old: World) -> None:
    token = ClusterState(old.paths).token()
    login = old.as_node("login", Role.LOGIN)
    assert converge(login)["root"].outcome is Outcome.CHANGED
    new = new_head_node(old, "old", NFS)
    found = converge(new)
    assert (found["storage-owner"].outcome, found["spack"].outcome) == (Outcome.OK, Outcome.OK)
    assert ClusterState(new.paths).token() == token
    assert converge(login)["storage"].outcome is Outcome.OK


def other_head(old: World, tmp_path: Path) -> World:
    """The head node of another cluster with the same EFS mounted."""
    new = World(tmp_path / "new", live=True, config_text=old.config_text)
    new.mounts = (NFS,)
    (new.prefix / "shared").rmdir()
    (new.prefix / "shared").symlink_to(old.prefix / "shared")
    return new


def test_a_cluster_does_not_write_to_storage_that_another_has_adopted(old: World, tmp_path: Path) -> None:
    """Both head nodes and a node of the old cluster have mounted the same EFS; the new head node adopts it."""
    old.mounts = (NFS,)
    node = old.as_node("q1-st-c5-1", Role.COMPUTE)
    assert converge(node)["root"].outcome is Outcome.CHANGED
    new = other_head(old, tmp_path)
    assert converge(new, accept=True)["storage-owner"].outcome is Outcome.CHANGED
    before = snapshot(old.paths.shared_mount)
    for world in (old, node):
        found = converge(world)
        assert (found["storage"].outcome, code(found["storage"])) == (Outcome.BLOCKED, "storage-changed")
        assert "of cluster demo" in found["storage"].reason
        with pytest.raises(StorageError):
            ClusterState(world.paths).save_report(NodeReport("q1-st-c5-1", "compute", "now", None, ()))
        assert find_desired_state(world.prefix, world.context.facts, world.system, {}) is None
    assert snapshot(old.paths.shared_mount) == before


def test_a_run_writes_nothing_if_storage_was_adopted_while_it_waited_for_the_lock(
    old: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old.mounts = (NFS,)
    new = other_head(old, tmp_path)
    old.config_text = old.config_text.replace("version: '1.0'", "version: '1.1'")
    found: dict[str, Any] = {}
    probe = Root.probe

    def taken_over(root: Root, ctx: Context) -> Finding:
        """The adoption happens between the old head node's probe and its lock."""
        monkeypatch.setattr(Root, "probe", probe)
        found.update({name: step.outcome for name, step in converge(new, accept=True).items()})
        found["before"] = snapshot(old.paths.shared_mount)
        return probe(root, ctx)

    monkeypatch.setattr(Root, "probe", taken_over)
    late = converge(old)
    assert found["storage-owner"] is Outcome.CHANGED
    assert (late["storage"].outcome, code(late["desired-state"])) == (Outcome.OK, "storage-changed")
    assert code(late["packages"]) == "storage-changed"
    after = snapshot(old.paths.shared_mount)
    after["petal/lock/stack.holder"] = found["before"]["petal/lock/stack.holder"]  # the holder writes its name
    assert after == found["before"]


@pytest.mark.parametrize("last", ["remove_records", "save_token", "KnownStorage"])
@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_a_killed_adoption_is_repeated(old: World, monkeypatch: pytest.MonkeyPatch, last: str, *, done: bool) -> None:
    write_records_of_dead_head(old)
    new = new_head_node(old)
    owner, name = (KnownStorage, "save") if last == "KnownStorage" else (ClusterState, last)
    real: Callable[..., Any] = getattr(owner, name)

    def killed(*arguments: Any) -> None:
        if done:
            real(*arguments)
        raise KeyboardInterrupt

    converge_up_to(new, "storage-owner")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killed)
        with pytest.raises(KeyboardInterrupt):
            converge(new, accept=True)
    found = converge(new, accept=True)
    assert {found[name].outcome for name in ("storage-owner", "spack", "publish")} <= {Outcome.OK, Outcome.CHANGED}
    assert ClusterState(new.paths).reports().current == ()
    token = ClusterState(new.paths).token()
    assert token is not None
    assert token.owner == Owner("demo", "us-east-1")


def converge_up_to(world: World, name: str) -> None:
    names = [step.name for step in STEPS]
    engine.converge(STEPS[: names.index(name)], world.context, lambda _: None)


def test_the_record_of_an_adopting_run_replaces_that_of_the_previous_cluster(
    old: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bootstrap.host.processes.signal.signal", lambda *_: None)
    write_records_of_dead_head(old)
    new = new_head_node(old)
    new.live = False
    write_dna(new)
    config = new.prefix / "petal.yaml"
    config.write_text(new.config_text)
    notes: list[str] = []
    options = new.options(config, role=Role.HEAD, accept_storage=True)
    record = run(options, services(new.system, run_id="run-a", note=notes.append))
    assert {step.name: step.outcome for step in record.steps}["publish"] is not Outcome.BLOCKED, record
    assert any(note.startswith("took over release") for note in notes)
    own = ClusterState(new.paths).install()
    assert own is not None
    assert own.run_id == "run-a"


DNA = {"stack_name": "demo", "region": "us-east-1"}


@pytest.mark.parametrize(
    "more",
    [{"node_type": "HeadNode"}, {"node_type": "ComputeFleet", "cluster_name": "demo", "stack_name": "demo-Q-1X"}],
)
def test_every_node_knows_its_cluster_by_the_same_name(more: dict[str, str]) -> None:
    assert Owner.of(parse_dna(json.dumps({"cluster": {**DNA, **more}}))) == Owner("demo", "us-east-1")


@pytest.mark.parametrize(
    ("owner", "foreign"),
    [
        (Owner("demo", "us-east-1"), False),
        (Owner("demo"), False),
        (None, False),
        (Owner("demo", "eu-west-1"), True),
        (Owner("demo2", "us-east-1"), True),
    ],
)
def test_storage_is_foreign_if_the_clusters_name_or_region_differs(owner: Owner | None, *, foreign: bool) -> None:
    assert is_foreign(owner, parse_dna(json.dumps({"cluster": DNA}))) is foreign


@pytest.mark.parametrize("owner", [{"name": "../x"}, {"name": 1}, {}, "demo", {"name": "demo", "region": 1}])
def test_a_damaged_owner_record_is_reported_and_prevents_adoption(old: World, owner: Any) -> None:
    token = ClusterState(old.paths).token()
    assert token is not None
    write_document(old.paths.state / "token.json", {**plain(token), "owner": owner})
    new = new_head_node(old)
    before = snapshot(new.paths.shared_mount)
    found = converge(new)
    assert (found["storage"].outcome, code(found["storage"])) == (Outcome.BLOCKED, "state-corrupt")
    assert snapshot(new.paths.shared_mount) == before


def test_all_files_are_flushed_before_the_manifest_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot has the same state as a disk after a power cut."""
    world = World(tmp_path / "head")
    flushes: list[tuple[Path, bool]] = []
    manifest = world.paths.releases / world.release / "manifest.json"
    monkeypatch.setattr(system, "flush_filesystem", lambda path: flushes.append((path, manifest.exists())))
    converge(world)
    assert flushes == [(world.paths.root, False)]
    assert manifest.exists()
