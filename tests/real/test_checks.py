"""A user's commands in a new shell, with a real bash, real ldd and programs with a missing library."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.config.model import CheckCommand, CheckConfig
from bootstrap.core.model import Severity
from bootstrap.host.system import System
from bootstrap.prove import login_shell
from bootstrap.state.release import Manifest
from tests.deadlines import SOON
from tests.world import World

MODULE = r"""
LMOD_VERSION=8.6.19 PETAL_RELEASE=/opt/petal/releases/abc MODULEPATH=/opt/petal/releases/abc/modules/x/Core
module() {
  [ "$1" = load ] || return 1
  shift
  for name in "$@"; do
    case $name in
      broken) echo "no such module" >&2; return 1 ;;
      silent) echo "lua: module 'posix' not found:" >&2 ;;
      alias) PATH=TREE/good/bin:$PATH LOADEDMODULES=${LOADEDMODULES:+$LOADEDMODULES:}good/1 ;;
      *) PATH=TREE/${name%%/*}/bin:$PATH LOADEDMODULES=${LOADEDMODULES:+$LOADEDMODULES:}${name%%/*}/1 ;;
    esac
  done
}
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A node in a directory; its shells have our ``module`` function, and its programs are copies of real ones."""
    made = World(tmp_path / "node")
    made.paths.init.mkdir(parents=True)
    (made.paths.init / "petal.sh").write_text(MODULE.replace("TREE", str(tmp_path / "tree")))
    for name in ("good", "lacking"):
        folder = tmp_path / "tree" / name / "bin"
        folder.mkdir(parents=True)
        shutil.copy(shutil.which("true") or "", folder / f"{name}-tool")
        (folder / "script").write_text("#!/bin/sh\nexit 3\n")
        (folder / "script").chmod(0o755)
    program = tmp_path / "tree" / "lacking" / "bin" / "lacking-tool"
    program.write_bytes(program.read_bytes().replace(b"libc.so.6", b"libq.so.6"))
    made.system = System()  # type: ignore[assignment]
    return made


def test_modules_libraries_and_programs_are_checked(world: World) -> None:
    programs = (
        CheckCommand("good-tool"),
        CheckCommand("script", 3),
        CheckCommand("script"),
        CheckCommand("no-such-program"),
    )
    answers = login_shell.ask_shell(world.context, ("good", "lacking"), programs, 60)
    shell, load, load_lacking, *runs, libraries, lacking = (next(answers) for _ in range(9))
    assert login_shell.judge_module_command(world.context, shell).severity is Severity.OK
    assert (load.code, load_lacking.code) == (0, 0)
    finding = login_shell.judge_libraries([("good", libraries), ("lacking", lacking)])
    assert (finding.severity, "lacking-tool of lacking: libq.so.6" in finding.why) == (Severity.WARN, True)
    assert (
        login_shell.judge_libraries([("good", libraries)]).message == "all libraries are found; programs: 1, modules: 1"
    )
    marks = [login_shell.judge_program(program, answer, "true").severity for program, answer in zip(programs, runs)]
    assert marks == [Severity.OK, Severity.OK, Severity.FAIL, Severity.FAIL]
    assert runs[-1].code == 127


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "tool is empty"),
        (b"echo hello\n", "tool is neither an ELF file nor a script with #!"),
        (b"\0" * 9000, "tool is neither an ELF file nor a script with #!"),
        (b"#!INTERPRETER\n", "interpreter is empty"),
        (b"#! INTERPRETER -x\n", "interpreter is empty"),
        (b"#!/usr/bin/env interpreter\n", "interpreter is empty"),
    ],
)
def test_a_file_that_the_kernel_does_not_run_fails(world: World, content: bytes, reason: str) -> None:
    """Without a check of the file, timeout(1) hands it to sh, where an empty one succeeds."""
    folder = world.prefix.parent / "tree" / "good" / "bin"
    (folder / "interpreter").touch()
    (folder / "tool").write_bytes(content.replace(b"INTERPRETER", bytes(folder / "interpreter")))
    for name in ("interpreter", "tool"):
        (folder / name).chmod(0o755)
    program = CheckCommand("tool --version")
    answers = login_shell.ask_shell(world.context, ("good",), (program, CheckCommand("script", 3)), 60)
    _, _, run, script, libraries = (next(answers) for _ in range(5))
    finding = login_shell.judge_program(program, run, "module load good")
    assert (finding.severity, finding.message) == (Severity.FAIL, "the kernel refuses to run it")
    assert (finding.why, finding.remedy) == (f"{folder}/{reason}", ("bash -lc 'module load good; type -a tool'",))
    assert script.code == 3
    finding = login_shell.judge_libraries([("good", libraries)])  # finds empty programs that no ``run`` names
    assert (finding.severity, "empty programs" in finding.message) == (Severity.FAIL, True)
    assert f"{folder}/interpreter" in finding.why


def test_a_module_that_does_not_load_is_reported_and_others_are_still_checked(world: World) -> None:
    answers = login_shell.ask_shell(world.context, ("broken", "good"), (), 60)
    _, broken, good, no_libraries, _ = (next(answers) for _ in range(5))
    assert (broken.code, broken.text) == (1, "no such module")
    assert (no_libraries.code, no_libraries.text) == (0, "0")
    assert (good.code, good.alive) == (0, True)


def test_a_module_command_that_loads_nothing_fails(world: World) -> None:
    """If Lmod itself fails, bash evaluates nothing, and ``module load`` succeeds."""
    check = CheckConfig(load=("silent", "alias", "good", "good/1"))
    ctx = replace(world.context, config=replace(world.context.config, check=check))
    manifest = Manifest("abc", "", "debian12", "2.36", (), ())
    findings = {one.check: one for one in login_shell.check_login_shell(ctx, manifest, 60)}
    assert findings["load:silent"].severity is Severity.FAIL
    assert findings["load:silent"].why == "lua: module 'posix' not found:"
    assert {findings[f"load:{name}"].severity for name in ("alias", "good", "good/1")} == {Severity.OK}


def test_an_lmod_that_does_not_run_fails_before_all_modules(world: World, tmp_path: Path) -> None:
    program = tmp_path / "lmod"
    program.write_text("#!/bin/sh\necho \"lua: module 'posix' not found:\" >&2\nexit 1\n")
    program.chmod(0o755)
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write(f"LMOD_CMD={program}\n")
    finding = login_shell.judge_module_command(
        world.context, next(login_shell.ask_shell(world.context, ("good",), (), 60))
    )
    assert (finding.severity, finding.message) == (Severity.FAIL, "Lmod does not run in a fresh login shell")
    assert finding.why == "lua: module 'posix' not found:"
    assert "petal-node repair" not in finding.remedy


def test_output_of_a_profile_is_never_an_answer(world: World) -> None:
    """Neither fields between NULs, nor a whole list of answers under another nonce."""
    forged = r"\0x\0oops\0z\0\n\00123456789abcdef\0modules\00\0function 8.6.19 a a/modules/\0\n"
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write(f"printf '{forged}'\n")
    answers = login_shell.ask_shell(world.context, ("broken",), (CheckCommand("good-tool"),), 60)
    shell, load, run = (next(answers) for _ in range(3))
    assert (shell.text.split()[1], load.code, run.code, run.alive) == ("8.6.19", 1, 127, True)


@pytest.mark.parametrize("answers", [1, 9])
def test_a_profile_that_knows_the_nonce_spoils_the_answers_and_nothing_else(world: World, answers: int) -> None:
    reads = "nonce=$(tr '\\0' '\\n' </proc/$$/cmdline | grep -A1 -x petal-check | tail -1)"
    forged = f"for i in $(seq {answers}); do printf '\\0%s\\0modules\\0oops\\0text\\0\\n' \"$nonce\"; done"
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write(f"{reads}\n{forged}\n[ {answers} -gt 1 ] || exit 0\n")
    found = login_shell.ask_shell(world.context, ("good",), (), 60)
    assert [next(found).alive for _ in range(4)] == [False] * 4


def test_output_of_users_programs_is_bounded_while_it_comes(world: World) -> None:
    chatty = (CheckCommand("yes 0123456789"), CheckCommand("echo hello"))
    answers = login_shell.ask_shell(world.context, ("good",), chatty, 60)
    _, _, yes, hello = (next(answers) for _ in range(4))
    assert (yes.code, yes.text[-40:]) == (141, "ended because it printed more than 1048576 bytes"[-40:])
    assert (hello.code, hello.text) == (0, "hello")
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write("yes 0123456789\n")
    started = time.monotonic()
    shell = next(login_shell.ask_shell(world.context, ("good",), (), 60))
    assert (shell.alive, time.monotonic() - started < SOON) == (False, True)


def test_a_module_whose_package_is_gone_fails(world: World, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "tree" / "good")
    answers = login_shell.ask_shell(world.context, ("good", "lacking"), (), 60)
    _, good, lacking = (next(answers) for _ in range(3))
    assert (good.code, good.text) == (login_shell.GONE, f"{tmp_path}/tree/good/bin")
    assert lacking.code == 0


def test_the_last_output_of_a_shell_that_ends_early_is_reported_for_the_rest(world: World) -> None:
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write("echo the profile gave up; exit 7\n")
    answers = login_shell.ask_shell(world.context, ("good",), (), 60)
    shell, load = next(answers), next(answers)
    assert (shell.alive, load.alive) == (False, False)
    assert "the profile gave up" in shell.text


def test_a_hanging_shell_is_killed_at_its_deadline(world: World) -> None:
    with (world.paths.init / "petal.sh").open("a") as file:
        file.write('module() { [ "$2" != hang ] || sleep 60; }\n')
    answers = login_shell.ask_shell(world.context, ("good", "hang"), (), 2)
    found = [next(answers) for _ in range(3)]
    assert [answer.alive for answer in found] == [True, True, False]
    assert "did not end within 2 s" in found[2].text
