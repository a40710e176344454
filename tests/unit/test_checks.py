"""Checks of a node, each with its findings for a fault. Faults of real nodes are in tests/lab."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.checks import daemons, storage
from bootstrap.checks import node as checks
from bootstrap.config.model import CheckCommand
from bootstrap.core.errors import ProcessFailed, ProcessTimeout, StorageError
from bootstrap.core.facts import Mount
from bootstrap.core.model import Finding, Role, Severity
from bootstrap.engine.registry import CHECKS
from bootstrap.host.system import Completed
from bootstrap.prove import login_shell
from bootstrap.prove.login_shell import Answer
from bootstrap.state.context import Context
from bootstrap.state.release import Manifest
from bootstrap.steps.base import Check
from bootstrap.steps.storage import Storage
from tests.world import World, typed

NFS = ("rw", "noatime", "vers=4.2", "hard", "proto=tcp")


@pytest.fixture
def node(tmp_path: Path) -> World:
    return World(tmp_path / "node", Role.COMPUTE, live=True)


def mounted(world: World, *options: str, kind: str = "nfs4") -> None:
    world.mounts = (Mount("10.0.0.10:/shared", world.paths.mount, kind, options),)


@pytest.mark.parametrize(
    ("options", "mark", "words"),
    [
        (NFS, Severity.OK, "nfs4: rw,noatime,vers=4.2,hard"),
        ((*NFS, "noexec"), Severity.FAIL, "/shared is mounted noexec"),
        (("rw", "soft", "noac"), Severity.WARN, "/shared is mounted with soft, noac"),
        (("rw", "vers=3"), Severity.WARN, "/shared is mounted with vers=3"),
    ],
)
def test_bad_nfs_mount_options_are_found(node: World, options: tuple[str, ...], mark: Severity, words: str) -> None:
    mounted(node, *options)
    (finding,) = storage.MountOptions().findings(node.context)
    assert (finding.severity, finding.message) == (mark, words)
    assert bool(finding.remedy) == (mark is not Severity.OK)


def test_nfs_mount_options_are_ignored_on_a_local_disk(node: World) -> None:
    mounted(node, "rw", "sync", kind="ext4")
    assert [finding.severity for finding in storage.MountOptions().findings(node.context)] == [Severity.OK]


def test_a_noexec_root_is_found(node: World) -> None:
    mounted(node, *NFS)
    root = Mount("10.0.0.10:/shared", str(node.paths.root), "nfs4", (*NFS, "noexec"))
    node.mounts = (*node.mounts, root)
    (finding,) = storage.MountOptions().findings(node.context)
    assert finding.message == f"{node.paths.root} is mounted noexec"


def test_configured_options_that_the_mount_lacks_are_found(tmp_path: Path) -> None:
    text = 'storage: {source: "10.0.0.10:/shared", options: [nconnect=4, noatime, vers=4.2]}'
    world = World(tmp_path / "node", Role.COMPUTE, live=True, config_text=text)
    mounted(world, *NFS)
    (finding,) = storage.MountOptions().findings(world.context)
    assert (finding.severity, finding.message) == (Severity.WARN, "/shared is mounted without nconnect=4")


def statvfs(free: float, inodes: float) -> os.statvfs_result:
    blocks = 1 << 20  # of 4 KiB: 4 GiB
    left, files = int(blocks * free), 1 << 20
    return os.statvfs_result((4096, 4096, blocks, left, left, files, int(files * inodes), int(files * inodes), 0, 255))


@pytest.mark.parametrize(
    ("free", "inodes", "mark", "words"),
    [
        (0.5, 0.5, Severity.OK, "2.0 GiB free"),
        (0.04, 0.5, Severity.WARN, "164 MiB left"),
        (0.5, 0.01, Severity.WARN, "1% of its inodes left"),
        (0.0, 0.5, Severity.FAIL, "0 MiB left"),
        (0.5, 0.0, Severity.FAIL, "0% of its inodes left"),
    ],
)
def test_low_space_and_inodes_are_found(
    node: World, monkeypatch: pytest.MonkeyPatch, free: float, inodes: float, mark: Severity, words: str
) -> None:
    mounted(node, *NFS)
    for place in (node.paths.shared_mount, node.paths.at("/tmp")):
        place.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(os, "statvfs", lambda _: statvfs(free, inodes))
    (finding,) = storage.DiskSpace().findings(node.context)
    assert (finding.severity, words in finding.message) == (mark, True)
    assert all(line.startswith(("df ", "du ")) for line in finding.remedy)


def test_a_munged_that_does_not_answer_is_found(node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.system, "which", lambda name: f"/usr/bin/{name}")

    def silent(_: Sequence[str]) -> str:
        raise ProcessTimeout("bash did not end within 10 s and was stopped")

    node.system.answers["bash"] = silent
    (finding,) = checks.check_node(node.context, [daemons.Munge()]).findings
    assert (finding.check, finding.severity) == ("munge", Severity.FAIL)
    assert "did not end within" in finding.message


def test_munge_is_not_checked_on_a_node_without_munge(node: World) -> None:
    assert list(daemons.Munge().findings(node.context)) == []


@pytest.mark.parametrize(("role", "unit"), [(Role.HEAD, "slurmctld"), (Role.COMPUTE, "slurmd")])
@pytest.mark.parametrize("state", ["failed", "inactive"])
def test_a_stopped_slurm_daemon_is_reported_with_its_start_command(
    tmp_path: Path, role: Role, unit: str, state: str
) -> None:
    world = World(tmp_path / "node", role, live=True)
    world.system.systemd = True
    world.system.answers["systemctl"] = lambda _: f"LoadState=loaded\nActiveState={state}\n"
    (finding,) = daemons.Slurm().findings(world.context)
    assert (finding.severity, finding.message) == (Severity.FAIL, f"{unit} does not run on this node")
    assert finding.remedy[0] == f"systemctl restart {unit}"
    assert not [command for command in world.system.commands if "restart" in command]


def test_within_a_job_slurmd_counts_as_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "node", Role.COMPUTE, live=True)
    world.system.systemd = True
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=inactive\n"
    world.system.answers["scontrol"] = lambda _: "Slurmctld(primary) at head is UP\n"
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    (finding,) = daemons.Slurm().findings(world.context)
    assert (finding.severity, finding.message) == (Severity.OK, "slurmctld answers")


def test_a_slurmctld_that_hangs_is_not_a_missing_command(tmp_path: Path) -> None:
    world = World(tmp_path / "node", live=True)
    assert [finding.severity for finding in daemons.Slurm().findings(world.context)] == [Severity.WARN]

    def hang(_: Sequence[str]) -> str:
        raise ProcessTimeout("scontrol did not end within 20 s and was stopped")

    world.system.answers["scontrol"] = hang
    (finding,) = daemons.Slurm().findings(world.context)
    assert (finding.severity, finding.message) == (Severity.FAIL, "slurmctld does not answer")


def test_the_commands_of_the_slurm_check_share_its_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "node", live=True)
    world.system.systemd = True
    waits = []

    def run(argv: Sequence[str], *, timeout: float, **_: object) -> Completed:
        waits.append(timeout)
        text = "LoadState=loaded\nActiveState=active\n" if argv[0] == "systemctl" else "Slurmctld at head is UP\n"
        return Completed(0, text, "")

    monkeypatch.setattr(world.system, "run", run)
    (finding,) = daemons.Slurm().findings(world.context)
    assert finding.severity is Severity.OK
    assert (len(waits), sum(waits)) == (2, daemons.Slurm.seconds)


def test_a_daemon_that_is_not_installed_or_not_yet_started_is_not_a_fault(tmp_path: Path) -> None:
    world = World(tmp_path / "node", Role.COMPUTE, live=True)
    world.system.systemd = True
    world.system.answers["systemctl"] = lambda _: "LoadState=not-found\nActiveState=inactive\n"
    assert list(daemons.Slurm().findings(world.context)) == []
    world.system.answers["systemctl"] = lambda _: "LoadState=loaded\nActiveState=inactive\n"
    assert list(daemons.Slurm().findings(typed(world.context, event="configured"))) == []


@pytest.mark.usefixtures("monkeypatch")
def test_dependent_checks_are_skipped_if_storage_hangs(node: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted(node, *NFS)

    def hang(_action: Callable[[], object], where: Path, seconds: float) -> object:
        raise StorageError(f"{where} did not answer within {seconds:.0f} s", code="storage-hangs")

    monkeypatch.setattr(node.system, "on_storage", hang)
    report = checks.check_node(node.context, CHECKS)
    assert checks.failed_checks(report.findings) >= {"storage"}
    of_storage = {check.name for check in CHECKS if Storage in check.after}
    assert not of_storage & {finding.check for finding in report.findings}
    assert report.release is None


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_an_exception_in_a_check_becomes_its_finding(node: World, check: Check) -> None:
    class Broken(Check):
        name = check.name

        def findings(self, ctx: Context) -> list[Finding]:  # noqa: ARG002
            raise ProcessFailed("it cannot be started", why="no such file")

    (finding,) = checks.check_node(node.context, [Broken()]).findings
    assert (finding.check, finding.severity, finding.why) == (check.name, Severity.FAIL, "no such file")


# ------------------------------------------------------------------------------------------------- what users do


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("none - - -", "has no module command"),
        ("function - - /usr/share/modules/modulefiles", "has another module command than Lmod's"),
        ("file - - -", "has another module command than Lmod's"),
        ("function 8.6.19 /opt/petal/releases/abc /usr/share/modules", "does not look into the release"),
        ("function 8.6.19 - -", "does not look into the release"),
    ],
)
def test_a_shell_without_our_modules_is_found(node: World, output: str, words: str) -> None:
    finding = login_shell.judge_module_command(node.context, Answer(0, output))
    assert (finding.severity, words in finding.message) == (Severity.FAIL, True)


LDD = """2
/opt/petal/store/cfd/bin/cfd:
\tlibfoo.so.1 => not found
"""
OLD_LIBC = """1
/opt/x/bin/tool:
/opt/x/bin/tool: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /opt/x/bin/tool)
"""
CUDA = """1
/opt/petal/store/md/bin/md:
\tlibcuda.so.1 => not found
\tlibnvidia-ml.so.1 => not found
"""


def test_a_missing_library_is_reported_with_program_and_module() -> None:
    finding = login_shell.judge_libraries([("cfd/24.1", Answer(0, LDD)), ("gcc", Answer(0, ""))])
    assert (finding.severity, finding.message) == (Severity.WARN, "1 libraries are not found")
    assert finding.why == "/opt/petal/store/cfd/bin/cfd of cfd/24.1: libfoo.so.1"
    assert finding.remedy[0] == "bash -lc 'module load cfd/24.1; ldd /opt/petal/store/cfd/bin/cfd'"


def test_a_c_library_that_is_too_old_is_found_by_its_version() -> None:
    finding = login_shell.judge_libraries([("tool", Answer(1, OLD_LIBC))])
    assert finding.why == "/opt/x/bin/tool of tool: GLIBC_2.38"


def test_a_missing_driver_library_is_a_finding_only_with_an_nvidia_gpu() -> None:
    answers = [("md", Answer(0, CUDA))]
    assert login_shell.judge_libraries(answers, without_driver=True).severity is Severity.OK
    assert login_shell.judge_libraries(answers).message == "2 libraries are not found"
    other = [("md", Answer(0, CUDA + "\tlibfoo.so.1 => not found\n"))]
    assert login_shell.judge_libraries(other, without_driver=True).why.endswith(": libfoo.so.1")


@pytest.mark.parametrize(
    ("queue", "vendor", "skipped"),
    [("cpu", None, ["run:fluent", "run:gmx"]), ("gpu", "0x1d0f", ["run:gmx"]), ("gpu", "0x10de", [])],
)
def test_programs_are_limited_to_queues_and_to_nodes_with_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, queue: str, vendor: str | None, skipped: list[str]
) -> None:
    run = "[hello, {command: fluent, queues: [gpu, big]}, {command: gmx, gpu: true}]"
    world = World(tmp_path / "node", Role.COMPUTE, config_text=f"check: {{load: [a], run: {run}}}\n")
    if vendor:
        device = world.paths.at("/sys/bus/pci/devices/0000:00:1e.0")
        device.mkdir(parents=True)
        (device / "class").write_text("0x030200\n")
        (device / "vendor").write_text(vendor + "\n")
    asked: list[str] = []

    def ask(_ctx: Context, _modules: object, programs: Sequence[CheckCommand], _seconds: float) -> Iterator[Answer]:
        asked.extend(program.command for program in programs)
        return iter([Answer(0, "function 8.6.19 r r/modules/x/Core"), *[Answer(0, "1")] * (2 + len(programs))])

    monkeypatch.setattr(login_shell, "ask_shell", ask)
    ctx = world.context
    ctx = replace(ctx, facts=replace(ctx.facts, cluster=replace(ctx.facts.cluster, queue=queue)))
    findings = list(login_shell.check_login_shell(ctx, Manifest("r", "", "debian12", "2.36", (), ()), 9))
    assert [finding.check for finding in findings if finding.severity is Severity.SKIP] == skipped
    assert [f"run:{command}" for command in asked] == [
        name for name in ("run:hello", "run:fluent", "run:gmx") if name not in skipped
    ]


def test_without_a_module_command_nothing_else_is_ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "node", config_text="check: {load: [a], run: ['true']}\n")
    answers = [Answer(0, "none - - -"), Answer(127, ""), Answer(0, ""), Answer(0, "0")]
    monkeypatch.setattr(login_shell, "ask_shell", lambda *_: iter(answers))
    (finding,) = login_shell.check_login_shell(world.context, Manifest("r", "", "debian12", "2.36", (), ()), 9)
    assert finding.severity is Severity.FAIL


def test_programs_that_find_their_libraries_are_counted() -> None:
    assert login_shell.judge_libraries([("cfd", Answer(0, "2\n")), ("gcc", Answer(0, "0"))]).message == (
        "all libraries are found; programs: 2, modules: 2"
    )
    nothing = login_shell.judge_libraries([("gcc", Answer(0, "0"))])
    assert (nothing.severity, nothing.message) == (Severity.SKIP, "no programs in 1 modules")
    assert login_shell.judge_libraries([("big", Answer(124, ""))]).severity is Severity.WARN
    ended = [(name, Answer(1, "", alive=False)) for name in ("a", "b", "c")]
    assert login_shell.judge_libraries(ended).message == "only 0 of 3 modules were looked at"


UNKNOWN = """Lmod has detected the following error: The following module(s) are unknown:
"zz"

Please check the spelling or version number. Also try "module spider ..."
It is also possible your cache file is out-of-date; it may help to try:
  $ module --ignore_cache load "zz"

Also make sure that all modulefiles written in TCL start with the string
#%Module
"""
BAD_LUA = """Lmod has detected the following error: Unable to load module because of error
when evaluating modulefile:
     /opt/c/1.lua: [string "error(..."]:3: ')' expected (to close '(' at
line 1) near <eof>
     Please check the modulefile and especially if there is a line number
specified in the above message
While processing the following module(s):
    Module fullname  Module Filename
    ---------------  ---------------
    c/1              /opt/c/1.lua
"""
LONG_PATH = f"/shared/petal/root/releases/{'long-name/' * 30}modules/debian12-x86_64_v3/Core/openmpi/4.1.7.lua:"
LONG_LUA = f"""Lmod has detected the following error: Unable to load module because of error
when evaluating modulefile:

{LONG_PATH}
[string "whatis("x")..."]:3: unexpected symbol near <eof>
     Please check the modulefile and especially if there is a line number
specified in the above message
"""  # Lmod 8.6.19
LONG_LINE = (
    f"Unable to load module because of error when evaluating modulefile: {LONG_PATH} "
    '[string "whatis("x")..."]:3: unexpected symbol near <eof>'
)
BAD_LINE = (
    "Unable to load module because of error when evaluating modulefile: "
    "/opt/c/1.lua: [string \"error(...\"]:3: ')' expected (to close '(' at line 1) near <eof>"
)
ON_HEAD = "on the head node: petal-node check    # compares packages and module files"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (UNKNOWN, 'The following module(s) are unknown: "zz"'),
        (BAD_LUA, BAD_LINE),
        (LONG_LUA.replace("long-name/" * 30, ""), LONG_LINE.replace("long-name/" * 30, "")),
        (LONG_LUA, "Unable to load module because of error when evaluating modulefile: ..."),
        ("a\nb\n\nc\nd\n", "b / c / d"),
    ],
)
@pytest.mark.parametrize(("role", "last"), [(Role.COMPUTE, ON_HEAD), (Role.HEAD, "bash -lc 'module load b/1'")])
def test_a_module_that_does_not_load_has_the_reason_of_lmod(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str, role: Role, last: str
) -> None:
    world = World(tmp_path / "node", role, config_text="stack: none\ncheck: {load: [b/1]}\n")
    answers = [Answer(0, "function 8.6.19 r r/modules/x/Core"), Answer(1, output), Answer(0, "")]
    monkeypatch.setattr(login_shell, "ask_shell", lambda *_: iter(answers))
    manifest = Manifest("r", "", "debian12", "2.36", (), ())
    shell, load, _ = login_shell.check_login_shell(world.context, manifest, 9)
    assert (load.check, load.why, load.remedy[-1]) == ("load:b/1", reason, last)
    assert shell.severity is Severity.OK


@pytest.mark.parametrize(
    ("code", "wanted", "mark"), [(0, 0, Severity.OK), (3, 3, Severity.OK), (0, 3, Severity.FAIL), (1, 0, Severity.FAIL)]
)
def test_the_expected_exit_code_of_a_program_can_be_configured(code: int, wanted: int, mark: Severity) -> None:
    finding = login_shell.judge_program(
        CheckCommand("solver --help", wanted), Answer(code, "usage: solver"), "module load solver"
    )
    assert finding.severity is mark


@pytest.mark.parametrize("code", [125, 126, 127, 137])
def test_libraries_that_no_ldd_looked_at_are_not_found(code: int) -> None:
    answers = [("good", login_shell.Answer(0, "3")), ("bad", login_shell.Answer(code, "12"))]
    finding = login_shell.judge_libraries(answers)
    assert (finding.severity, finding.why) == (Severity.WARN, f"it ended with {code} for bad")
