"""Repairs on a real file system: owners, modes, links, dead processes, packages that are installed again."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import StateError
from bootstrap.core.model import Finding, Outcome, RunRecord, Severity, Status
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import REPAIRS, STEPS
from bootstrap.engine.tidy import tidy
from bootstrap.host.files import path_problem, remove_tree
from bootstrap.host.processes import RUN_MARK
from bootstrap.host.system import System
from bootstrap.repair import permissions, store
from bootstrap.repair.killed_run import KilledRun
from bootstrap.repair.module_files import ChangedModules
from bootstrap.repair.permissions import Permissions
from bootstrap.repair.records import Records
from bootstrap.repair.store import PackageFiles
from bootstrap.state.context import Context
from bootstrap.state.runs import Runs
from bootstrap.state.store import ClusterState
from bootstrap.steps.base import Step
from bootstrap.steps.module_tree import ModuleTree
from tests.world import World, typed, with_package, with_spack

USER = 12345
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tests change the owner of files, which needs root")


@pytest.fixture
def head(tmp_path: Path) -> World:
    """A head node in a directory, with one binary package and a published release."""
    made = World(tmp_path / "head", config_text=with_package(tmp_path))
    reports = engine.converge([step for step in STEPS if step.name != "proof"], made.context, lambda _: None)
    assert not [one for one in reports if one.outcome in (Outcome.FAILED, Outcome.BLOCKED)], reports
    return made


def repaired(step: Step, ctx: Context) -> Finding:
    """Apply a step if its probe requires it, and probe again."""
    assert step.probe(ctx).pending
    step.apply(ctx)
    return step.probe(ctx)


# user::rwx, group::rwx, group:1000:rwx, mask::rwx, other::r-x, as acl(5) and linux/posix_acl_xattr.h define them
ENTRIES = ((1, 7, -1), (4, 7, -1), (8, 7, 1000), (16, 7, -1), (32, 5, -1))
ACL = struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in ENTRIES)


def test_a_default_acl_is_named_as_the_cause_of_modes(head: World) -> None:
    for directory in (head.paths.state, head.paths.shared_root):
        os.setxattr(directory, "system.posix_acl_default", ACL)
    new = head.paths.shared_root / "new"
    new.write_text("")
    finding = Permissions().probe(head.context)
    assert finding.reason.startswith(f"{new} has mode 0664: {head.paths.shared_root} has a default ACL")
    assert finding.remedy[0] == f"setfacl -R -k {head.paths.shared}"
    assert not any(each.startswith("petal-node") and "--yes" not in each for each in finding.remedy)
    remove_tree(head.paths.state / "nodes")
    (head.paths.state / "nodes").mkdir()
    assert "default ACL" in Permissions().probe(head.context).reason
    problem = path_problem(head.paths.state / "nodes", head.paths.shared_mount)
    assert problem is not None
    assert "from the default ACL of" in problem.why
    assert problem.remedy.startswith("setfacl -k ")


def test_few_directories_are_asked_for_their_acl(head: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ACL is a cause of many wrong modes, and each look may take a round trip to the server."""
    asked: list[str] = []
    monkeypatch.setattr(permissions, "has_default_acl", asked.append)
    for number in range(2 * permissions.ACLS):
        path = head.paths.shared_root / str(number) / "file"
        path.parent.mkdir(parents=True)
        path.touch(0o666)
        path.chmod(0o666)
    assert not Permissions().probe(head.context).holds
    assert len(asked) == permissions.ACLS


def yes(world: World) -> Context:
    return typed(world.context, yes=True)


def test_write_permission_for_others_is_removed_from_a_directory(head: World) -> None:
    head.paths.state.chmod(0o777)
    assert Permissions().probe(head.context).reason.startswith(f"{head.paths.state} has mode 0777")
    assert repaired(Permissions(), head.context).holds
    assert head.paths.state.stat().st_mode & 0o777 == 0o755


def test_write_permission_for_others_is_removed_from_a_file_only_with_yes(head: World) -> None:
    program = next(head.paths.store.glob("*/hello-*/bin/hello"))
    program.chmod(0o777)
    assert Permissions().probe(head.context).blocked
    assert repaired(Permissions(), yes(head)).holds
    assert program.stat().st_mode & 0o777 == 0o755


@needs_root
def test_a_file_of_a_user_is_reported_with_a_command_and_not_changed(head: World) -> None:
    program = next(head.paths.store.glob("*/hello-*/bin/hello"))
    os.chown(program, USER, USER)
    for ctx in (head.context, yes(head)):
        probe = Permissions().probe(ctx)
        assert (probe.blocked, f"bin/hello belongs to user {USER}" in probe.reason) == (True, True)
        Permissions().apply(ctx)
        assert program.stat().st_uid == USER
    command = probe.remedy[-1].split("    ")[0]
    assert command == f"chown -Rh --from={USER} root:root {head.paths.shared}"
    subprocess.run(command.split(), check=True)
    assert Permissions().probe(head.context).holds


@needs_root
def test_a_file_that_repair_leaves_alone_does_not_keep_the_rest(head: World) -> None:
    program = next(head.paths.shared_root.glob("store/*/hello-*/bin/hello"))
    os.chown(program, USER, USER)
    head.paths.state.chmod(0o777)
    done = {report.name: report for report in engine.converge(REPAIRS, head.context, lambda _: None)}["permissions"]
    assert (done.outcome, done.reason) == (Outcome.BLOCKED, f"{program} belongs to user {USER}")
    assert head.paths.state.stat().st_mode & 0o777 == 0o755
    assert not any(line.startswith("petal-node repair") for line in done.remedy)


@needs_root
@pytest.mark.parametrize("planted", ["link", "file"])
def test_a_path_that_a_user_replaces_during_the_repair_is_not_changed(
    planted: str, head: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim, opened = tmp_path / "victim", head.paths.state
    victim.mkdir(mode=0o777)
    victim.chmod(0o777)
    opened.chmod(0o777)
    scan = permissions._scan

    def replaced(ctx: Context) -> Any:
        found = scan(ctx)
        opened.rename(tmp_path / "moved")
        if planted == "link":
            opened.symlink_to(victim)
        else:
            os.chown(victim, USER, USER)
            victim.rename(opened)
        return found

    monkeypatch.setattr(permissions, "_scan", replaced)
    Permissions().apply(head.context)
    assert (victim if planted == "link" else opened).stat().st_mode & 0o777 == 0o777


@needs_root
def test_a_record_owned_by_a_user_is_not_read(head: World) -> None:
    wanted = head.paths.state / "desired.json"
    os.chown(wanted, USER, USER)
    probe = Permissions().probe(yes(head))
    assert (probe.blocked, probe.remedy[1].split("    ")[0]) == (True, f"rm {wanted}")
    with pytest.raises(StateError, match="belongs to user"):
        ClusterState(head.paths).desired_state()


@needs_root
def test_a_link_of_a_user_is_not_followed(head: World, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("root's")
    secret.chmod(0o666)
    program = next(head.paths.store.glob("*/hello-*/bin/hello"))
    program.chmod(0o666)
    (insecure,) = permissions._insecure(permissions._scan(head.context))
    program.unlink()
    program.symlink_to(secret)
    permissions._close(insecure)
    assert secret.stat().st_mode & 0o777 == 0o666


def test_changed_storage_is_not_repaired(head: World) -> None:
    token = head.paths.state / "token.json"
    token.write_text(token.read_text().replace('"token": "', '"token": "feed'))
    head.paths.state.chmod(0o777)
    assert Permissions().probe(head.context).skipped
    Permissions().apply(head.context)
    assert head.paths.state.stat().st_mode & 0o777 == 0o777


def test_a_lost_token_is_restored_from_the_nodes_copy(head: World) -> None:
    token = ClusterState(head.paths).token()
    assert token is not None
    ClusterState(head.paths).save_install(record(head, 1, os.getpid(), finished=True))
    (head.paths.state / "token.json").unlink()
    assert repaired(Records(), head.context).holds
    again = ClusterState(head.paths).token()
    assert again is not None
    assert again.token == token.token


def test_no_token_is_written_by_a_node_that_did_not_install(head: World) -> None:
    ClusterState(head.paths).save_install(replace(record(head, 1, 1, finished=True), host="another"))
    (head.paths.state / "token.json").unlink()
    assert Records().probe(head.context).holds


def test_a_lost_file_is_restored_and_an_edited_one_only_with_yes(head: World) -> None:
    program = next(head.paths.store.glob("*/hello-*/bin/hello"))
    text = program.read_text()
    program.unlink()
    assert repaired(PackageFiles(), head.context).holds
    assert program.read_text() == text
    program.write_text(text + "# a site's own line\n")
    refused = PackageFiles().probe(head.context)
    assert (refused.blocked, "changes are lost" in refused.remedy[-1]) == (True, True)
    assert repaired(PackageFiles(), yes(head)).holds
    assert program.read_text() == text


def test_a_lost_or_empty_module_file_fails_on_the_head_node_and_is_written_again(head: World) -> None:
    module = next(head.paths.releases.rglob("hello/1.0.lua"))
    text = module.read_text()
    for damage in (module.unlink, lambda: module.write_text("")):
        damage()
        (finding,) = ModuleTree().findings(head.context)
        assert (finding.severity, finding.remedy) == (Severity.FAIL, ("petal-node repair",))
        assert finding.message == "1 of 1 module files are missing or empty"
        assert ChangedModules().probe(head.context).holds
        assert repaired(ModuleTree(), head.context).holds
        assert module.read_text() == text


def test_a_changed_module_file_is_reported_and_written_again_only_with_yes(head: World) -> None:
    module = next(head.paths.releases.rglob("hello/1.0.lua"))
    text = module.read_text()
    module.write_text(text + 'setenv("X", "1")\n')
    (finding,) = ChangedModules().findings(head.context)
    assert (finding.severity, finding.message) == (Severity.FAIL, f"changed after it was written: {module}")
    assert "changes are lost" in finding.remedy[-1]
    done = {report.name: report for report in engine.converge(REPAIRS, head.context, lambda _: None)}
    assert (done["module-files-changed"].outcome, done["module-tree"].outcome) == (Outcome.BLOCKED, Outcome.OK)
    assert module.read_text().endswith('setenv("X", "1")\n')
    done = {report.name: report for report in engine.converge(REPAIRS, yes(head), lambda _: None)}
    assert {done[name].outcome for name in ("module-files-changed", "module-tree")} == {Outcome.CHANGED}
    assert module.read_text() == text
    assert ChangedModules().probe(head.context).holds
    assert ModuleTree().probe(head.context).holds


def test_a_damaged_inventory_affects_only_its_own_package(head: World) -> None:
    inventory = next(head.paths.store.glob("*/hello-*/.petal/files.json"))
    inventory.write_text("{")
    assert "files.json cannot be read" in PackageFiles().probe(head.context).reason
    assert repaired(PackageFiles(), head.context).holds


def test_write_permission_is_removed_from_a_pipe_without_opening_it(head: World) -> None:
    pipe = head.paths.shared_root / "store" / "pipe"
    os.mkfifo(pipe)
    pipe.chmod(0o666)
    assert repaired(Permissions(), yes(head)).holds
    assert pipe.stat().st_mode & 0o777 == 0o644


def test_a_damaged_package_is_kept_if_it_cannot_be_fetched_again(head: World, tmp_path: Path) -> None:
    prefix = next(head.paths.store.glob("*/hello-*"))
    (prefix / "bin" / "hello").unlink()
    (tmp_path / "hello.tar.gz").unlink()
    with pytest.raises(Exception, match="hello"):
        PackageFiles().apply(head.context)
    assert (prefix / ".petal" / "package.json").is_file()


# ------------------------------------------------------------------------------------------------------ dead workers


def record(world: World, number: int, pid: int, *, finished: bool) -> RunRecord:
    name, boot = world.host.name, world.context.facts.host.boot_id
    done = "2026-11-24T08:14:05Z" if finished else None
    return RunRecord(
        f"20261124T08140{number}.000Z-aaaaaa", "bootstrap", "", "head", name, "0.1.0", pid, boot,
        "2026-11-24T08:14:05Z", done, Status.OK if finished else Status.RUNNING,
    )  # fmt: skip


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_record_of_a_killed_run_is_closed(head: World, dead_pid: int) -> None:
    Runs(head.paths).save(record(head, 1, dead_pid, finished=False))
    assert "was killed" in KilledRun().probe(head.context).reason
    assert repaired(KilledRun(), head.context).holds
    closed = Runs(head.paths).load("20261124T081401.000Z-aaaaaa")
    assert closed is not None
    assert (closed.exit, closed.errors[-1]["code"]) == (1, "run-killed")


def test_the_record_of_a_running_or_superseded_run_is_not_changed(head: World, dead_pid: int) -> None:
    Runs(head.paths).save(record(head, 1, os.getpid(), finished=False))
    assert KilledRun().probe(head.context).holds
    Runs(head.paths).save(record(head, 2, dead_pid, finished=False))
    Runs(head.paths).save(record(head, 3, dead_pid, finished=True))
    assert KilledRun().probe(head.context).holds


def test_stages_of_killed_builds_are_removed_if_no_run_is_active(head: World, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = head.paths.scratch / "spack" / "stage" / "spack-stage-x"
    stage.mkdir(parents=True)
    # without the runs of other tests on this machine
    head.system.other_runs = lambda run: System().other_runs(run) & {"a-build-job"}  # type: ignore[method-assign]
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_MARK: "a-build-job"})
    try:
        tidy(head.paths, head.system, "run-1")
        assert stage.is_dir()
    finally:
        process.kill()
        process.wait()
    removed: list[Path] = []
    monkeypatch.setattr("bootstrap.engine.tidy.remove_tree", removed.append)
    tidy(head.paths, head.system, "run-1")
    assert not stage.exists()  # at once: the next build uses the same name
    monkeypatch.undo()
    tidy(head.paths, head.system, "run-1")
    assert not removed[0].exists()


def test_a_process_of_another_run_is_found_until_it_ends() -> None:
    process = subprocess.Popen(["sleep", "60"], env={**os.environ, RUN_MARK: "a-build-job"})
    try:
        assert "a-build-job" in System().other_runs("mine")
        assert "a-build-job" not in System().other_runs("a-build-job")
    finally:
        process.kill()
        process.wait()
    assert "a-build-job" not in System().other_runs("mine")


def test_a_changed_spack_package_is_reinstalled_only_with_yes_and_an_emptied_one_without(tmp_path: Path) -> None:
    world = World(tmp_path / "head", config_text=with_spack(tmp_path))
    steps = [step for step in STEPS if step.name not in ("proof", "lmod", "shell")]
    engine.converge(steps, world.context, lambda _: None)
    prefix = next(world.paths.store.glob("linux-*/fftw-*"))
    program = prefix / "bin" / "tool"
    program.parent.mkdir(exist_ok=True)
    program.write_text("a")
    info = program.stat()
    entry = {"mode": info.st_mode, "owner": info.st_uid, "group": info.st_gid, "type": "file", "size": 1, "time": 1.0}
    entry["hash"] = hashlib.sha1(b"b", usedforsecurity=False).hexdigest()
    (prefix / ".spack" / "install_manifest.json").write_text(json.dumps({str(program): entry}))
    assert PackageFiles().probe(world.context).blocked
    PackageFiles().apply(world.context)
    assert program.exists()
    assert repaired(PackageFiles(), yes(world)).holds
    assert [path.name for path in prefix.parent.iterdir() if "fftw" in path.name] == []
    found = {report.name: report for report in engine.converge(steps, world.context, lambda _: None)}
    assert found["spack"].outcome is Outcome.CHANGED
    manifest = prefix / ".spack" / "install_manifest.json"
    assert manifest.is_file()
    program.parent.mkdir(exist_ok=True)
    program.write_text("")
    manifest.write_text(json.dumps({str(program): entry}))
    world.paths.store.joinpath(".spack-db", "index.json").write_text("{")  # one repair corrects both
    assert repaired(PackageFiles(), world.context).holds
    assert not prefix.exists()
    engine.converge(steps, world.context, lambda _: None)
    assert prefix.is_dir()


def test_a_check_of_files_names_the_packages_that_it_did_not_reach(
    head: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(head.paths.store.glob("*/hello-*/bin/hello")).unlink()
    assert PackageFiles().probe(head.context).pending
    monkeypatch.setattr(store, "BUDGET", 0)
    finding = PackageFiles().probe(head.context)
    assert finding.holds
    assert finding.message.endswith("; not reached within 0 s: hello 1.0")


@needs_root
def test_a_version_that_cannot_be_removed_does_not_keep_the_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "node")
    for number in range(6):
        path = world.paths.program(f"0.{number}.0")
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path.parent, (number, number))
    locked = world.paths.program("0.0.0").parent
    if subprocess.run(["chattr", "+i", str(locked)], check=False, capture_output=True).returncode:
        pytest.skip("the file system of the tests has no immutable files")
    try:
        tidy(world.paths, world.system, "run-1")
    finally:
        subprocess.run(["chattr", "-i", str(locked)], check=True)
    left = sorted(path.parent.name for path in world.paths.home.glob("*/petal-node"))
    assert left == ["0.0.0", "0.3.0", "0.4.0", "0.5.0"]
    assert f"{locked} cannot be removed" in caplog.text
