"""``storage.source``: the command line and unit of valid values, refused values, and existing mounts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.config import load, model
from bootstrap.core.errors import ConfigError, ProcessTimeout, StorageError
from bootstrap.core.facts import Mount
from bootstrap.core.model import Outcome, Role
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import BEFORE_DESIRED, STEPS
from bootstrap.engine.run import run
from bootstrap.state.desired import DesiredState, Token
from bootstrap.state.store import ClusterState
from bootstrap.steps.mount import HiddenMounts, MountStorage, device_of, unit_name
from tests.world import LivePaths, World

STEP = MountStorage()
NFS = "storage: {source: 'files:/export/hpc', options: [nconnect=4]}"


def storage(text: str) -> model.StorageConfig:
    return load.parse(f"storage: {{{text}}}").storage


@pytest.fixture(params=["systemd", "no systemd"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    """A compute node without any mount."""
    world = World(tmp_path / "node", Role.COMPUTE, live=True, config_text=NFS)
    world.mounts = ()
    world.system.systemd = request.param == "systemd"
    return world


# ------------------------------------------------------------------------------------------------- the configuration


@pytest.mark.parametrize(
    ("text", "region", "device"),
    [
        ("source: 'files:/x'", None, ("files:/x", "nfs4", "nfsvers=4.2,hard,noatime,_netdev")),
        ("source: '10.0.0.5:/'", None, ("10.0.0.5:/", "nfs4", "nfsvers=4.2,hard,noatime,_netdev")),
        (
            "source: 'files:/x', options: [vers=4.1, relatime]",
            None,
            ("files:/x", "nfs4", "hard,vers=4.1,relatime,_netdev"),
        ),
        (
            "source: fs-0123456789abcdef0",
            "eu-west-1",
            (
                "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com:/",
                "nfs4",
                "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,noatime,_netdev",
            ),
        ),
        (
            "source: 'fs-0123456789abcdef0.fsx.us-east-1.amazonaws.com@tcp:/abcdefgh', type: lustre",
            None,
            (
                "fs-0123456789abcdef0.fsx.us-east-1.amazonaws.com@tcp:/abcdefgh",
                "lustre",
                "flock,user_xattr,noatime,_netdev",
            ),
        ),
    ],
)
def test_sources_are_translated_to_mounts(text: str, region: str | None, device: tuple[str, str, str]) -> None:
    found = device_of(storage(text), region)
    assert (found.what, found.kind, found.options) == device


def test_the_domain_of_efs_depends_on_the_region() -> None:
    efs = storage("source: fs-01234567")
    assert device_of(efs, "cn-north-1").what == "fs-01234567.efs.cn-north-1.amazonaws.com.cn:/"
    assert device_of(efs, "us-isob-east-1").what == "fs-01234567.efs.us-isob-east-1.sc2s.sgov.gov:/"
    with pytest.raises(StorageError) as caught:
        device_of(efs, None)
    assert caught.value.code == "storage-not-mounted"


@pytest.mark.parametrize(
    "text",
    [
        "source: files",
        "source: 'files:export'",
        "source: '-o:/x'",
        "source: 'files:/x y'",
        "source: 'files:/%h'",
        'source: "files:/x\\nExecStart=/bin/sh"',
        "source: 'files:/x;reboot'",
        "source: 'files:/$(reboot)'",
        "source: fs-XYZ",
        "source: 'files:/x', type: ext4",
        "source: 'files:/x', type: lustre",
        "source: 'mgs@tcp:/fs', type: nfs4",
        "source: 'files:/x', options: ['hard,exec']",
        "source: 'files:/x', options: ['hard ro']",
        'source: "files:/x", options: ["hard\\nExecStart=x"]',
        "source: 'files:/x', options: ['x=%h']",
        "source: 'files:/x', options: ['-o']",
        "source: 'files:/x', options: ['x-systemd.automount']",
        "source: 'files:/x', options: [soft]",
        "source: 'files:/x', options: [nolock]",
        "source: 'files:/x', options: [local_lock=all]",
        "source: 'files:/x', options: [nfsvers=3]",
        "source: 'files:/x', options: [bg]",
        "options: [hard]",
        "type: nfs4",
    ],
)
def test_unsafe_sources_and_options_that_break_locks_are_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        storage(text)
    assert caught.value.code == "config-invalid"
    assert all(path.startswith("storage.") for path, *_ in caught.value.problems)


@pytest.mark.parametrize(
    ("mount", "unit"),
    [
        ("/shared", "shared.mount"),
        ("/fsx/data", "fsx-data.mount"),
        ("/my-fs", "my\\x2dfs.mount"),
        ("/a+b_c.d", "a\\x2bb_c.d.mount"),
        ("/.hidden", "\\x2ehidden.mount"),
    ],
)
def test_a_unit_is_named_after_its_mount_point(mount: str, unit: str) -> None:
    """Like ``systemd-escape --path --suffix=mount``."""
    assert unit_name(mount) == unit


# ------------------------------------------------------------------------------------------------------------ the step


def test_storage_is_mounted_once_and_then_holds(node: World) -> None:
    assert STEP.probe(node.context).pending
    STEP.apply(node.context)
    assert node.context.mounted is not None
    assert node.context.mounted.source == "files:/export/hpc"
    assert STEP.probe(node.context).holds
    commands = len(node.system.commands)
    STEP.apply(node.context)
    assert not any("mount" in command[0] or "start" in command for command in node.system.commands[commands:])


def test_the_unit_has_the_configured_values_and_delays_no_boot(node: World) -> None:
    STEP.apply(node.context)
    unit = node.paths.units / "shared.mount"
    assert unit.exists() == node.system.systemd
    if node.system.systemd:
        lines = unit.read_text().splitlines()
        assert "What=files:/export/hpc" in lines
        assert "Where=/shared" in lines
        assert "Options=nfsvers=4.2,hard,noatime,nconnect=4,_netdev,nofail" in lines


def test_the_step_is_skipped_without_a_source_or_with_root_option(tmp_path: Path) -> None:
    assert STEP.probe(World(tmp_path / "live", live=True).context).skipped
    assert STEP.probe(World(tmp_path / "prefix", config_text=NFS).context).skipped


def test_another_mounted_storage_blocks_the_step_with_both_names(node: World) -> None:
    node.mount("other:/export", "nfs4", "addr=10.0.0.9")
    probe = STEP.probe(node.context)
    assert probe.blocked
    assert "other:/export" in probe.reason
    assert "files:/export/hpc" in probe.reason
    assert probe.remedy


def test_the_same_server_under_another_name_is_the_same(node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.system, "addresses", lambda host: {"files": frozenset({"10.0.0.5"})}[host])
    node.system.systemd = False
    node.mount("10.0.0.5:/export/hpc", "nfs4", "addr=10.0.0.5")
    assert STEP.probe(node.context).holds
    node.mounts = (Mount("10.0.0.6:/export/hpc", "/shared", "nfs4", ("rw", "addr=10.0.0.6")),)
    assert STEP.probe(node.context).blocked


def test_files_under_the_mount_point_are_not_hidden(node: World) -> None:
    (node.paths.shared_mount / "somebodys").touch()
    assert STEP.probe(node.context).blocked


def test_a_missing_mount_helper_is_reported_with_its_package(node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.system, "which", lambda _: None)
    probe = STEP.probe(node.context)
    assert probe.blocked
    assert "nfs-common" in probe.remedy[0]


def test_a_mount_in_fstab_gets_no_unit(node: World) -> None:
    (node.paths.at("/etc")).mkdir(exist_ok=True)
    node.paths.at("/etc/fstab").write_text("# files\nfiles:/export/hpc /shared nfs4 hard,_netdev 0 0\n")
    node.mount("files:/export/hpc", "nfs4")
    assert STEP.probe(node.context).holds


def test_a_mount_in_fstab_at_the_target_of_a_link_is_mounted_and_gets_no_unit(node: World, tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "fsx"
    target.mkdir()
    link.symlink_to(target)
    node.paths.at("/etc").mkdir(exist_ok=True)
    node.paths.at("/etc/fstab").write_text(f"files:/export/hpc {target} nfs4 hard,_netdev 0 0\n")
    node.config_text = f"storage: {{mount: {link}}}\nstack: none"
    node.mounts = ()
    assert HiddenMounts().probe(node.context).changes == (f"mount {link}",)
    node.config_text = f"storage: {{mount: {link}, source: 'files:/export/hpc'}}\nstack: none"
    node.mounts = (Mount("files:/export/hpc", str(target), "nfs4", ("rw",)),)
    assert STEP.probe(node.context).holds


def test_a_foreign_unit_is_not_changed(node: World) -> None:
    unit = node.paths.units / "shared.mount"
    unit.parent.mkdir(parents=True)
    unit.write_text("# by hand\n[Mount]\nWhat=files:/export/hpc\nType=nfs4\n")
    STEP.apply(node.context)
    assert unit.read_text().startswith("# by hand")
    assert STEP.probe(node.context).holds


@pytest.mark.parametrize(("role", "seconds"), [(Role.HEAD, 60), (Role.COMPUTE, 6), (Role.LOGIN, 6)])
def test_a_silent_server_is_given_up_and_blocks_dependent_steps(node: World, role: Role, seconds: float) -> None:
    node.role = role
    limits = []

    def hang(argv: tuple[str, ...], **options: float) -> None:
        if argv[0] == "mount" or "start" in argv:
            limits.append(options["timeout"])
            raise ProcessTimeout(f"{argv[0]} did not end", why="")
        return real(argv, **options)

    real = node.system.run
    node.system.run = hang  # type: ignore[method-assign, assignment]
    outcomes = {report.name: report for report in engine.converge(STEPS, node.context, lambda _: None)}
    assert limits == [seconds]
    assert outcomes["mount"].error is not None
    assert outcomes["mount"].error["code"] == "storage-not-mounted"
    assert outcomes["storage"].outcome is Outcome.BLOCKED


def test_nothing_is_written_to_the_root_disk_while_storage_is_not_mounted(node: World) -> None:
    node.role = Role.HEAD
    storage_step = next(step for step in STEPS if step.name == "storage")
    assert storage_step.probe(node.context).pending
    with pytest.raises(StorageError):
        storage_step.apply(node.context)
    assert list(node.paths.shared_mount.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ the run


@pytest.fixture
def _live(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory as a live node."""
    monkeypatch.setattr("bootstrap.engine.prepare.Paths", LivePaths)
    monkeypatch.setattr("bootstrap.core.options.Paths", LivePaths)
    monkeypatch.setattr("bootstrap.cluster.detect.Paths", LivePaths)
    monkeypatch.setattr("bootstrap.steps.storage._is_on_root_disk", lambda _: False)
    monkeypatch.setattr("bootstrap.host.processes.signal.signal", lambda *_: None)


@pytest.mark.usefixtures("_live")
def test_a_new_node_uses_the_desired_state_of_storage_that_only_its_args_declare(tmp_path: Path) -> None:
    """The image mounts it (/etc/fstab)."""
    node = World(tmp_path / "node", Role.COMPUTE, live=True, config_text="storage: {mount: /fsx}")
    node.mounts = (Mount("fs:/", "/fsx", "nfs4", ("rw",)),)
    node.prefix.joinpath("petal.yaml").write_text("storage: {mount: /fsx}\ncheck: {run: [args]}\n")
    node.paths.state.mkdir(parents=True)
    ClusterState(node.paths).save_token(Token("t" * 32, "head"))
    ClusterState(node.paths).save_desired_state(DesiredState("0.1.0", None, node.config.to_dict(), {}, "r1"))
    options = node.options(node.prefix / "petal.yaml", "worker", role=Role.COMPUTE, event="configured")
    assert run(options, node.services).release == "r1"


@pytest.mark.usefixtures("_live")
def test_a_node_mounts_storage_and_then_uses_its_desired_state(tmp_path: Path) -> None:
    """Its Args name the source; the desired state is on the mounted storage."""
    node = World(tmp_path / "node", Role.COMPUTE, live=True, config_text=NFS)
    node.mounts = ()
    node.prefix.joinpath("petal.yaml").write_text(NFS + "\ncheck: {run: [args]}\n")
    seen: list[str] = []
    mount = node.mount

    def mount_and_find(source: str, kind: str) -> None:
        mount(source, kind)
        desired = DesiredState("0.1.0", None, {**node.config.to_dict(), "check": {"run": ["wanted"]}}, {}, "r1")
        node.paths.state.mkdir(parents=True)
        ClusterState(node.paths).save_token(Token("t" * 32, "head"))
        ClusterState(node.paths).save_desired_state(desired)
        seen.append(source)

    node.mount = mount_and_find  # type: ignore[method-assign]
    options = node.options(node.prefix / "petal.yaml", "worker", role=Role.COMPUTE, event="configured")
    record = run(options, node.services)
    assert seen == ["files:/export/hpc"]
    steps = {step.name: step.outcome for step in record.steps}
    assert (steps["mount"], steps["storage"]) == (Outcome.CHANGED, Outcome.CHANGED)
    assert record.release == "r1"


def test_only_the_self_install_and_its_units_come_before_the_mount() -> None:
    assert [step.name for step in BEFORE_DESIRED] == ["self-install", "boot-service", "mount"]


def test_changed_options_of_a_mount_in_use_only_change_its_unit(node: World) -> None:
    STEP.apply(node.context)
    changed = replace(node.context, config=load.parse(NFS.replace("nconnect=4", "nconnect=8")))
    if not node.system.systemd:
        assert STEP.probe(changed).holds
        return
    assert STEP.probe(changed).pending
    STEP.apply(changed)
    assert "nconnect=8" in (node.paths.units / "shared.mount").read_text()
    assert len(node.mounts) == 1
