"""A user's commands in a new shell, with a real bash, real ldd and programs with a missing library."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bootstrap.config.model import CheckCommand
from bootstrap.core.model import Severity
from bootstrap.host.system import System
from bootstrap.prove import login_shell
from tests.world import World

MODULE = r"""
LMOD_VERSION=8.6.19 PETAL_RELEASE=/opt/petal/releases/abc MODULEPATH=/opt/petal/releases/abc/modules/x/Core
module() {
  [ "$1" = load ] || return 1
  shift
  for name in "$@"; do
    case $name in
      broken) echo "no such module" >&2; return 1 ;;
      *) PATH=TREE/$name/bin:$PATH ;;
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


def test_a_module_that_does_not_load_is_reported_and_others_are_still_checked(world: World) -> None:
    answers = login_shell.ask_shell(world.context, ("broken", "good"), (), 60)
    _, broken, good, no_libraries, _ = (next(answers) for _ in range(5))
    assert (broken.code, broken.text) == (1, "no such module")
    assert (no_libraries.code, no_libraries.text) == (0, "")
    assert (good.code, good.alive) == (0, True)


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
