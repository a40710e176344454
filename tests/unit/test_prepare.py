"""The configuration that applies on each node, also for runs without Args."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.config.model import CheckCommand
from bootstrap.core.errors import ConfigError, ReleaseError, StateError, StorageError
from bootstrap.core.facts import Mount, SharedDir
from bootstrap.core.model import Outcome, Role, Status, Tool, plain
from bootstrap.core.options import BOOT
from bootstrap.core.paths import Paths
from bootstrap.engine import configuration
from bootstrap.engine import converge as engine
from bootstrap.engine.prepare import prepare, prepare_lockfile
from bootstrap.engine.recorder import Recorder
from bootstrap.engine.registry import REPAIRS, STEPS
from bootstrap.engine.run import run
from bootstrap.state.context import Context
from bootstrap.state.desired import DesiredState, Token
from bootstrap.state.release import current_release
from bootstrap.state.request import KEPT, keep_request, mark_request_applied
from bootstrap.state.store import ClusterState, KnownStorage, desired_state_of, write_document
from bootstrap.steps.desired_state import RecordDesiredState
from tests.world import World, services


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "node")


def run_once(
    world: World,
    text: str | None,
    *,
    event: str = "",
    role: Role = Role.HEAD,
    decides: bool = True,
    killed: bool = False,
) -> Context:
    """One run like ``run``: prepare it, save its request, and complete it unless it is killed."""
    path = world.prefix.with_suffix(".yaml")
    if text is not None:
        path.write_text(text)
    options = world.options(path if text is not None else None, role=role, event=event)
    keep_request(options)
    ctx = prepare(options, world.services, follow=not decides)
    keep_request(options, ctx)
    if ctx.sets_desired_state and event != "start" and not killed:
        mark_request_applied(ctx)
    return ctx


def save_desired(world: World, release: str = "desired-release", mount: str = "/shared") -> None:
    desired = DesiredState("0.1.0", None, {"storage": {"mount": mount}, "check": {"run": ["desired"]}}, {}, release)
    world.paths.state.mkdir(parents=True, exist_ok=True)
    ClusterState(world.paths).save_desired_state(desired)


ARGS = "check: {run: [args]}"


@pytest.mark.parametrize(
    ("event", "role", "counts"),
    [
        ("", Role.HEAD, "args"),
        ("updated", Role.HEAD, "args"),
        ("configured", Role.HEAD, "args"),
        ("configured", Role.COMPUTE, "desired"),
        ("configured", Role.LOGIN, "desired"),
        ("updated", Role.LOGIN, "desired"),
    ],
)
def test_a_run_uses_args_or_desired_json(world: World, event: str, role: Role, counts: str) -> None:
    save_desired(world)
    assert run_once(world, ARGS, event=event, role=role).config.check.run == (CheckCommand(counts),)


def test_only_the_first_run_of_a_hook_sets_the_desired_state(world: World) -> None:
    save_desired(world)
    assert run_once(world, ARGS, event="start").config.check.run == (CheckCommand("args"),)
    assert run_once(world, ARGS, event="configured").config.check.run == (CheckCommand("args"),)
    assert run_once(world, ARGS, event="configured").config.check.run == (CheckCommand("desired"),)
    assert run_once(world, ARGS, event="updated").config.check.run == (CheckCommand("args"),)


def test_a_repeated_hook_without_storage_does_not_undo_a_later_configuration(world: World) -> None:
    run_once(world, ARGS, event="configured")
    save_desired(world)
    away = world.paths.shared_mount.rename(world.prefix / "away")
    run_once(world, ARGS, event="configured", killed=True)
    away.rename(world.paths.shared_mount)
    assert run_once(world, None, event=BOOT).config.check.run == (CheckCommand("desired"),)


def test_a_check_uses_the_desired_release_and_a_run_computes_its_own(world: World) -> None:
    save_desired(world)
    assert run_once(world, None, decides=False).release == "desired-release"
    assert run_once(world, None).release != "desired-release"


def test_the_desired_state_of_another_cluster_or_mount_is_ignored(world: World) -> None:
    save_desired(world, mount="/fsx")
    with pytest.raises(ConfigError) as caught:
        run_once(world, None)
    assert caught.value.code == "config-missing"


@pytest.mark.parametrize("by", ["the cluster", "a hook's configuration", "use", "its type"])
def test_storage_is_searched_where_it_was_declared_or_used(by: str, world: World) -> None:
    (world.prefix / "fsx").mkdir()
    write_document(world.prefix / "fsx/petal/state/token.json", plain(Token("ab" * 16, "head", None)))
    desired = DesiredState("0.1.0", None, {"storage": {"mount": "/fsx"}}, {}, "desired-release")
    write_document(world.prefix / "fsx/petal/state/desired.json", plain(desired))
    facts = replace(world.context.facts, mounts=(Mount("fs:/", "/fsx", "nfs4", ("rw",)),))
    if by == "the cluster":
        facts = replace(facts, cluster=replace(facts.cluster, shared=(SharedDir("/fsx", "efs"),)))
    elif by == "a hook's configuration":
        run_once(world, "storage: {mount: /fsx}", event="configured", role=Role.LOGIN)
    elif by == "use":
        KnownStorage("/fsx", "ab" * 16).save(world.paths)
    found = configuration.find_desired_state(world.prefix, facts, world.system, {})
    assert found == (None if by == "its type" else desired)


def test_a_lockfile_without_a_configuration_names_its_own_command(world: World) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare_lockfile(world.options(None, "lockfile"), world.services)
    assert caught.value.remedy[0] == "petal-node lockfile --config FILE"


def test_a_damaged_desired_json_is_reported_if_no_other_configuration_is_known(world: World) -> None:
    world.paths.state.mkdir(parents=True)
    (world.paths.state / "desired.json").write_text("{")
    with pytest.raises(ConfigError, match=r"desired\.json is not JSON"):
        run_once(world, None)


def test_without_a_desired_state_a_boot_uses_the_hooks_request(world: World) -> None:
    run_once(world, ARGS, event="start", role=Role.LOGIN)
    world.prefix.with_suffix(".yaml").unlink()
    assert run_once(world, None, event=BOOT, role=Role.LOGIN).config.check.run == (CheckCommand("args"),)


def test_a_hook_that_cannot_read_its_configuration_keeps_the_previous_one(world: World) -> None:
    run_once(world, ARGS, event="start", role=Role.LOGIN)
    path = world.prefix.with_suffix(".yaml")
    path.unlink()
    keep_request(world.options(path, role=Role.LOGIN, event="start"))
    assert run_once(world, None, event=BOOT, role=Role.LOGIN).config.check.run == (CheckCommand("args"),)


def test_a_check_never_downloads_a_configuration(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_request(world.options("s3://bucket/petal.yaml", role=Role.LOGIN, event="configured"))
    monkeypatch.setattr(configuration, "read", lambda *_: pytest.fail("the check downloaded a configuration"))
    with pytest.raises(ConfigError):
        run_once(world, None, role=Role.LOGIN, decides=False)


@pytest.mark.parametrize("uri", ["http://x/y", "ftp://x/y", "s3:/x"])
def test_an_invalid_configuration_uri_is_refused(world: World, uri: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare(world.options(uri, role=Role.HEAD), world.services)
    assert caught.value.exit == 78
    assert caught.value.remedy


def test_without_a_compiler_other_steps_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sha = "a" * 64
    text = f"spack: {{specs: [zlib], source: s3://b/s, sha256: {sha}, recipes: {{source: s3://b/r, sha256: {sha}}}}}"
    with_one = run_once(world, text).release
    monkeypatch.setattr(world.system, "which", lambda _: None)
    assert run_once(world, text).release not in (None, with_one)


def test_the_role_in_a_hooks_args_is_kept(world: World) -> None:
    run_once(world, ARGS, event="start", role=Role.LOGIN)
    assert prepare(world.options(event=BOOT), world.services).role is Role.LOGIN


def test_a_pending_request_is_applied_once(world: World) -> None:
    """A convergence that was prepared during a pending hook run must not undo the changes of that run."""
    ctx = replace(world.context, resumes_pending=True)
    step = RecordDesiredState()
    write_document(world.paths.var / KEPT, {"pending": True})
    before = [each.name for each in STEPS].index("desired-state")
    engine.converge(STEPS[:before], ctx, lambda _: None)
    step.apply(ctx)
    written = ClusterState(world.paths).desired_state()
    assert written is not None
    write_document(world.paths.var / KEPT, {"pending": False})
    with pytest.raises(StateError, match="already applied this change") as caught:
        step.apply(replace(ctx, services=services(world.system, Tool("0.2.0"))))
    assert caught.value.code == "state-outdated"
    assert ClusterState(world.paths).desired_state() == written


def test_a_damaged_or_lost_desired_json_is_restored_from_the_current_release(world: World) -> None:
    """The hook's arguments are older than the release that an operator published with --config."""
    run_once(world, ARGS, event="configured")
    world.config_text = "check: {run: [operator]}\nmodules: {hide: [gcc]}"
    engine.converge(STEPS, world.context, lambda _: None)
    published, path = current_release(world.paths), world.paths.state / "desired.json"
    wanted = ClusterState(world.paths).desired_state()
    for damage in (lambda: path.write_text("{"), path.unlink):
        damage()
        for event, follow in (("configured", False), ("", True), ("", False)):
            hook = world.prefix.with_suffix(".yaml") if event else None  # OnNodeConfigured runs again
            ctx = prepare(world.options(hook, role=Role.HEAD, event=event), world.services, follow=follow)
            assert (ctx.release, ctx.config.check.run) == (published, (CheckCommand("operator"),))
        if path.exists():
            assert RecordDesiredState().probe(ctx).reason == "desired.json is damaged"
        engine.converge(REPAIRS, ctx, lambda _: None)
        assert ClusterState(world.paths).desired_state() == wanted
        assert current_release(world.paths) == published
    (world.paths.release(str(published)) / "desired.json").unlink()
    path.write_text("{")
    assert prepare(world.options(role=Role.HEAD, command="check"), world.services, follow=True).config.check.run
    with pytest.raises(ReleaseError, match="has no copy") as caught:
        prepare(world.options(role=Role.HEAD, command="repair"), world.services)
    assert caught.value.code == "release-incomplete"
    assert "bootstrap --config FILE" in caught.value.remedy[0]


@pytest.mark.parametrize("other", ["published.json", "token.json"])
def test_a_desired_json_is_restored_if_another_record_is_missing_too(world: World, other: str) -> None:
    """The remedies of ``permissions`` name any of them for removal."""
    run_once(world, ARGS, event="configured")
    world.config_text = "check: {run: [operator]}\nmodules: {hide: [gcc]}"
    engine.converge(STEPS, world.context, lambda _: None)
    published, record = current_release(world.paths), Recorder(world.options(), world.services).record
    ClusterState(world.paths).save_install(replace(record, host=world.context.facts.host.name))
    for name in ("desired.json", other):
        (world.paths.state / name).unlink()
    ctx = prepare(world.options(role=Role.HEAD, command="repair"), world.services)
    assert ctx.config.check.run == (CheckCommand("operator"),)
    engine.converge(REPAIRS, ctx, lambda _: None)
    assert current_release(world.paths) == published


@pytest.mark.parametrize("error", [StateError("it is damaged"), OSError(errno.EIO, "Input/output error")])
def test_no_older_release_is_made_if_desired_json_is_lost_and_its_copy_cannot_be_read(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run_once(world, ARGS, event="configured")
    world.config_text = "check: {run: [operator]}"
    engine.converge(STEPS, world.context, lambda _: None)
    (world.paths.state / "desired.json").unlink()

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(configuration, "read_as", broken)
    with pytest.raises(ReleaseError) as caught:
        run_once(world, None, event=BOOT)
    assert caught.value.why == str(error)


def test_a_run_waits_once_for_storage_that_does_not_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    run_once(world, ARGS, event="configured")
    engine.converge(STEPS, world.context, lambda _: None)
    waits = []

    def silent(_: object, action: object, where: Path, seconds: float) -> None:
        waits.append((action, where, seconds))
        raise StorageError(f"{where} did not answer", code="storage-hangs")

    monkeypatch.setattr(type(world.system), "on_storage", silent)
    prepare(world.options(role=Role.HEAD, command="plan"), world.services)
    assert len(waits) == 1


def test_another_mount_with_a_release_without_a_copy_does_not_hide_the_desired_state(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text="storage: {mount: /fsx}\ncheck: {run: [fsx]}")
    world.paths.shared_mount.mkdir(parents=True)
    engine.converge(STEPS, world.context, lambda _: None)
    old = Paths(world.prefix)
    old.state.mkdir(parents=True)
    write_document(old.state / "published.json", {"published": []})
    (old.shared_root / "releases" / "old").mkdir(parents=True)
    (old.shared_root / "current").symlink_to("releases/old")
    world.mounts = (Mount("server:/fsx", "/fsx", "nfs4", ()),)
    assert run_once(world, None).config.check.run == (CheckCommand("fsx"),)


def test_a_release_keeps_a_later_configuration_that_does_not_change_it(world: World) -> None:
    world.config_text = ARGS
    engine.converge(STEPS, world.context, lambda _: None)
    world.config_text = "check: {run: [later]}"
    engine.converge(STEPS, world.context, lambda _: None)
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    assert desired == desired_state_of(world.paths, desired.release)
    assert desired.config["check"] == world.config.to_dict()["check"]


def test_an_adopted_release_counts_as_one_of_this_cluster(world: World) -> None:
    """A takeover with the same configuration publishes nothing: the former cluster's release is the desired one."""
    world.config_text = "check: {run: [operator]}"
    engine.converge(STEPS, world.context, lambda _: None)
    ClusterState(world.paths).remove_records()
    assert ClusterState(world.paths).is_taken_over()
    engine.converge(STEPS, world.context, lambda _: None)
    (world.paths.state / "desired.json").unlink()
    assert run_once(world, None, event=BOOT).config.check.run == (CheckCommand("operator"),)


def test_a_lockfile_has_no_remedy_of_a_head_node(world: World) -> None:
    engine.converge(STEPS, world.context, lambda _: None)
    (world.paths.release(world.release) / "desired.json").unlink()
    (world.paths.state / "desired.json").write_text("{")
    with pytest.raises(ConfigError) as caught:
        prepare_lockfile(world.options(None, "lockfile"), world.services)
    assert caught.value.remedy[0] == "petal-node lockfile --config FILE"


def test_the_release_of_a_former_cluster_does_not_replace_a_missing_desired_json(world: World) -> None:
    """A takeover that was killed has removed the former cluster's records, and left its current release."""
    world.config_text = "modules: {hide: [gcc]}"
    engine.converge(STEPS, world.context, lambda _: None)
    ClusterState(world.paths).remove_records()
    run_once(world, ARGS, event="start")
    assert run_once(world, None, event=BOOT).config.check.run == (CheckCommand("args"),)


def published_by_operator(world: World) -> str:
    """A release of an operator's configuration, which is newer than the hook's arguments."""
    run_once(world, ARGS, event="configured")
    world.config_text = "check: {run: [operator]}\nmodules: {hide: [gcc]}"
    engine.converge(STEPS, world.context, lambda _: None)
    record = Recorder(world.options(), world.services).record
    ClusterState(world.paths).save_install(replace(record, host=world.context.facts.host.name))
    return str(current_release(world.paths))


@pytest.mark.parametrize("pattern", ["state/*.json", "state/token.json", "state/desired.json", "**/*"])
def test_wrong_modes_of_records_hide_neither_configuration_nor_repair(world: World, pattern: str) -> None:
    """``chmod -R a+rwX`` on shared storage."""
    published = published_by_operator(world)
    wanted = ClusterState(world.paths).desired_state()
    for path in world.paths.shared.glob(pattern):
        if not path.is_symlink():
            path.chmod(0o777 if path.is_dir() else 0o666)
    if pattern != "**/*":
        ctx = prepare(world.options(role=Role.HEAD, command="check"), world.services, follow=True)
        assert (ctx.release, ctx.config.check.run) == (published, (CheckCommand("operator"),))
    record = run(world.options(role=Role.HEAD, command="repair"), world.services)
    lines = [line for step in record.steps for line in step.remedy]
    assert any(line.startswith("petal-node repair --yes") for line in lines)
    assert not any("accept" in line or "--config" in line for line in lines)
    run(world.options(role=Role.HEAD, command="repair", yes=True), world.services)
    assert ClusterState(world.paths).desired_state() == wanted
    assert current_release(world.paths) == published


@pytest.mark.skipif(os.geteuid() != 0, reason="changes owners of files, and this is not root")
@pytest.mark.parametrize("name", ["desired.json", "token.json", "."])
def test_a_wrong_owner_of_a_record_has_a_remedy_that_keeps_release_and_token(world: World, name: str) -> None:
    published = published_by_operator(world)
    place = world.paths.state / name
    os.chown(place, 1000, -1)
    record = run(world.options(role=Role.HEAD, command="bootstrap"), world.services)
    if name == "desired.json":
        assert record.status is Status.CHANGED
    else:
        step = next(step for step in record.steps if step.name == "storage")
        assert step.error is not None
        assert (step.outcome, step.error["code"]) == (Outcome.BLOCKED, "untrusted")
        command = step.remedy[1].partition("    #")[0]
        known = {"token.json": f"rm {place}", ".": f"chown -Rh --from=1000 root:root {world.paths.shared}"}
        assert command == known[name]
        os.chown(place, 0, -1) if name == "." else place.unlink()
    if name == "token.json":  # the remedy names ``repair``, and ``bootstrap`` does too
        record = run(world.options(role=Role.HEAD), world.services)
        lines = [line for step in record.steps for line in step.remedy]
        assert "petal-node repair" in lines
        assert not any("accept" in line for line in lines)
    token = KnownStorage.load(world.paths)
    run(world.options(role=Role.HEAD, command="repair"), world.services)
    assert current_release(world.paths) == published
    assert KnownStorage.load(world.paths) == token
    assert ClusterState(world.paths).desired_state() is not None


def test_a_repair_restores_the_desired_state_without_any_record(world: World) -> None:
    """An administrator has removed state/*.json on shared storage, and /var/lib/petal-node."""
    published = published_by_operator(world)
    for path in world.paths.state.glob("*.json"):
        path.unlink()
    shutil.rmtree(world.paths.var)
    run(world.options(role=Role.HEAD, command="repair"), world.services)
    assert current_release(world.paths) == published
    desired = ClusterState(world.paths).desired_state()
    assert desired is not None
    assert desired.config["check"] == world.config.to_dict()["check"]
