"""Real Lmod with a release's tree: the cache hides no module and is fast; a pin selects its release."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.core.errors import ModulesError
from bootstrap.core.model import Outcome, StepReport
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.system import System
from bootstrap.lmod.find import find_lmod, image_lmod
from bootstrap.modules import templates
from bootstrap.modules.spider import invalidate, is_missing, write_cache
from bootstrap.releases.catalog import all_releases
from bootstrap.releases.publish import roll_back, rollback_target
from bootstrap.state.release import current_release
from tests.real import lmods
from tests.world import World, lmod_of_this_machine, with_package

MODULES = 1000
LIMIT = 300  # path operations below the tree, of each command


def silent(_: StepReport) -> None:
    pass


@pytest.fixture(scope="module", params=["of this machine", lmods.NEWER])
def lmod(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The Lmod of the node: Debian bookworm's is 8.6.19."""
    found = lmod_of_this_machine()
    if found is None or not shutil.which("bash"):
        pytest.skip("Lmod is not installed")
    if request.param == lmods.NEWER:
        found = lmods.newer(tmp_path_factory.mktemp("lmod"))
        open_to_all(found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bootstrap.lmod.find.PLACES", (str(found),))
        yield found


class Typed:
    """A user's shell on a node with this release, set up by the init file."""

    def __init__(self, world: World, lmod: Path, release: str) -> None:
        (tree,) = (world.paths.release(release) / "modules").iterdir()
        self.tree = tree
        self.lmod = lmod
        self.env = {
            "PATH": "/usr/bin:/bin", "HOME": str(world.prefix), "LMOD_VERSION": image_lmod(System()).version,
            "PETAL_RELEASE": str(world.paths.release(release)), "PETAL_TREES": f"none:{tree.name}",
            "MODULEPATH": f"{tree}/Core:{world.paths.pins}", "LMOD_RC": str(world.paths.init / "lmodrc.lua"),
            "LMOD_CACHED_LOADS": "yes",
        }  # fmt: skip

    def __call__(self, script: str, **env: str) -> str:
        """The output of bash, stderr after stdout."""
        argv = ["bash", "-c", f". {self.lmod}/init/bash\n{script}"]
        done = subprocess.run(argv, env={**self.env, **env}, capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def path_operations(self, command: str, **env: str) -> int:
        """The number of path operations of ``module COMMAND`` below the tree."""
        if not shutil.which("strace"):
            pytest.skip("strace is not installed")
        trace = Path(self.env["HOME"]) / "trace"
        argv = [
            "strace",
            "-f",
            "-qq",
            "-e",
            "trace=%file",
            "-o",
            str(trace),
            str(self.lmod / "libexec" / "lmod"),
            "bash",
        ]
        subprocess.run([*argv, *command.split()], env={**self.env, **env}, capture_output=True, timeout=60, check=True)
        return trace.read_text(errors="replace").count(f'"{self.tree}')


def release_of(world: World) -> str:
    engine.converge(STEPS, world.context, silent)
    assert current_release(world.paths) == world.release
    return world.release


@pytest.fixture
def world(tmp_path: Path) -> World:
    return lmods.RealWorld(tmp_path / "n", config_text=with_package(tmp_path))


def test_lmod_uses_the_cache_of_a_release_and_it_is_complete(world: World, lmod: Path) -> None:
    typed = Typed(world, lmod, release_of(world))
    assert not is_missing(world.context, typed.tree)
    assert "hello/1.0" in typed("module -t avail")
    assert "hello/1.0" in typed("module -t spider")
    assert "ok" in typed('module load hello && [ -n "$HELLO_ROOT" ] && echo ok')
    # later modules are visible as soon as the cache is invalid
    path = typed.tree / "Core" / "late" / "1.lua"
    path.parent.mkdir()
    path.write_text("-- late\n")
    assert "late" not in typed("module -t avail")
    invalidate(typed.tree)
    assert "late/1" in typed("module -t avail")
    write_cache(world.context, typed.tree)
    assert "late/1" in typed("module -t avail")
    assert "ok" in typed("module load late && echo ok")


def test_one_mpi_is_loaded_and_its_dependents_follow_it(lmod: Path, tmp_path: Path) -> None:
    """``family`` and ``depends_on`` of binary packages, which share a tree with Spack's."""
    packages = ", ".join(
        f"{{name: {name}, version: '{version}', prefix: /opt/{name}}}"
        for name, version in (("openmpi", "4.1"), ("openmpi", "5.0"), ("mpich", "4.2"))
    )
    tool = "{name: tool, version: '1', prefix: /opt/tool, requires: [openmpi/4.1]}"
    world = lmods.RealWorld(tmp_path / "n", config_text=f"packages: [{packages}, {tool}]\n")
    for name in ("openmpi", "mpich", "tool"):
        (world.prefix / "opt" / name / "bin").mkdir(parents=True)
    typed = Typed(world, lmod, release_of(world))
    output = typed("module load openmpi/4.1; module load mpich; module -t list")
    assert output.splitlines()[-1] == "mpich/4.2"
    assert 'automatically replacing "openmpi/4.1" with "mpich/4.2"' in output
    assert (
        typed("module load openmpi/4.1; module swap openmpi/4.1 openmpi/5.0; module -t list").split()[-1]
        == "openmpi/5.0"
    )
    assert set(typed("module load tool; module -t list").split()) == {"openmpi/4.1", "tool/1"}
    assert "openmpi/4.1" not in typed("module load tool; module unload tool; module -t list")


def test_a_directory_of_the_site_is_read_in_addition_to_the_cache(world: World, lmod: Path, tmp_path: Path) -> None:
    typed = Typed(world, lmod, release_of(world))
    (tmp_path / "site" / "tool").mkdir(parents=True)
    (tmp_path / "site" / "tool" / "1.lua").write_text("-- ours\n")
    path = f"{typed.env['MODULEPATH']}:{tmp_path}/site"
    assert "tool/1" in typed("module -t avail", MODULEPATH=path)
    assert "ok" in typed("module load tool && echo ok", MODULEPATH=path)


def test_another_lmod_ignores_the_cache(world: World, lmod: Path) -> None:
    typed = Typed(world, lmod, release_of(world))
    path = typed.tree / "Core" / "late" / "1.lua"
    path.parent.mkdir()
    path.write_text("-- late\n")
    assert "late" not in typed("module -t avail")
    (made,) = (typed.tree.parents[1] / "cache" / typed.tree.name).iterdir()
    made.rename(made.with_name("8.5.1"))
    assert "late" in typed("module -t avail")


def test_with_a_thousand_modules_each_command_accesses_few_paths(world: World, lmod: Path) -> None:
    typed = Typed(world, lmod, release_of(world))
    for number in range(MODULES // 2):
        for version in ("1.0", "2.0"):
            path = typed.tree / "Core" / f"lib{number}" / f"{version}.lua"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'whatis("Name: lib{number}")\nsetenv("LIB{number}_ROOT", "/opt")\n')
    without = typed.path_operations("load lib7 hello", LMOD_IGNORE_CACHE="yes")
    write_cache(world.context, typed.tree)
    counts = {command: typed.path_operations(command) for command in ("-t avail", "spider", "load lib7 hello")}
    assert {command: count for command, count in counts.items() if count > LIMIT} == {}
    assert without > LIMIT


def test_a_module_file_with_invalid_lua_fails_with_its_name(world: World, lmod: Path) -> None:
    typed = Typed(world, lmod, release_of(world))
    (typed.tree / "Core" / "hello" / "2.0.lua").write_text('setenv("A" "b"\n')
    with pytest.raises(ModulesError) as error:
        write_cache(world.context, typed.tree)
    assert error.value.code == "modules-lua"
    assert error.value.why.startswith(f"{typed.tree}/Core/hello/2.0.lua:1: ")


def test_a_failed_cache_is_an_error_and_the_old_one_stays(world: World, lmod: Path) -> None:
    typed = Typed(world, lmod, release_of(world))

    def fails(argv: list[str], **options: object):  # type: ignore[no-untyped-def]
        done = System().run(argv, **options)  # type: ignore[arg-type]
        return replace(done, returncode=1, stderr="spider: no room") if "update" in argv[0] else done

    world.system.run = fails  # type: ignore[assignment,method-assign]
    with pytest.raises(ModulesError) as error:
        write_cache(world.context, typed.tree)
    assert (error.value.code, error.value.why) == ("modules-cache", "spider: no room")
    assert "hello/1.0" in typed("module -t avail")  # with the previous cache


def test_an_lmod_that_is_too_old_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the modules cannot be read then: the release is installed, and status and check give the reason."""
    old = lmods.too_old(lmods.newer(tmp_path), tmp_path / "old")
    monkeypatch.setattr("bootstrap.lmod.find.PLACES", (str(old),))
    world = lmods.RealWorld(tmp_path / "n", config_text=with_package(tmp_path))
    reports = {report.name: report for report in engine.converge(STEPS, world.context, silent)}
    assert reports["lmod"].outcome is Outcome.BLOCKED
    assert reports["lmod"].reason == f"Lmod {lmods.TOO_OLD} in {old} is too old, 8.5 is needed"
    assert reports["publish"].outcome is Outcome.CHANGED
    assert reports["shell"].outcome is Outcome.BLOCKED
    found = find_lmod(world.context)
    assert found is not None
    assert found.version == "8.4.31"


def test_a_pin_selects_its_release_and_survives_a_purge(world: World, lmod: Path, tmp_path: Path) -> None:
    first = release_of(world)
    world.config_text = with_package(tmp_path).replace("name: hello", "name: other")
    second = release_of(world)
    typed = Typed(world, lmod, second)
    assert "other/1.0" in typed("module -t avail")
    output = typed(f"module load petal/{first} && module -t avail && echo $PETAL_RELEASE")
    assert "hello/1.0" in output
    assert "other/1.0" not in output
    assert str(world.paths.release(first)) in output
    assert "ok" in typed(f"module load petal/{first}; module purge; module load hello && echo ok")
    back = typed(f"module load petal/{first}; module load petal/{second}; module load other && echo ok")
    assert "ok" in back
    gone = typed(f"rm -rf {world.paths.release(first)}; module load petal/{first} || echo refused")
    assert "was removed" in gone
    assert "refused" in gone


def test_after_a_rollback_only_new_shells_use_the_other_release(world: World, lmod: Path, tmp_path: Path) -> None:
    first = release_of(world)
    world.config_text = with_package(tmp_path).replace("name: hello", "name: other")
    second = release_of(world)
    old = Typed(world, lmod, second)
    roll_back(world.context, rollback_target(world.context, all_releases(world.context), None))
    assert current_release(world.paths) == first
    assert "hello/1.0" in Typed(world, lmod, first)("module -t avail")
    assert "ok" in old("module load other && echo ok")


def open_to_all(place: Path) -> None:
    """Let another user enter a directory."""
    for directory in (place, *place.parents):
        if directory != Path("/"):
            directory.chmod(directory.stat().st_mode | 0o055)


SWITCHES, SHELLS = 200, 8
LOOP = ". '{init}' && module load hello && hello && echo $PETAL_RELEASE"


def test_two_hundred_switches_while_eight_shells_load_and_run(world: World, lmod: Path, tmp_path: Path) -> None:
    """Every shell finds a complete release, the module and the program."""
    if os.geteuid() != 0:
        pytest.skip("the test starts a shell as another user, which needs root")
    first = release_of(world)
    before = world.config_text
    world.config_text = before + "modules: {hide: [nothing]}\n"
    second = release_of(world)
    open_to_all(world.prefix)
    script = LOOP.format(init=world.paths.init / "petal.sh")
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "nobody"}
    ended = threading.Event()
    seen: list[str] = []
    failures: list[str] = []

    def loop() -> None:
        while not ended.is_set():
            done = subprocess.run(
                ["bash", "-c", script], env=env, cwd="/", user=65534, group=65534, extra_groups=[],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            lines = done.stdout.splitlines()
            if done.returncode or len(lines) != 2 or lines[0] != "hello":
                failures.append(f"{done.returncode}: {done.stdout}{done.stderr}")
            else:
                seen.append(Path(lines[1]).name)

    ctx = world.context
    releases = [rollback_target(ctx, all_releases(ctx), name) for name in (first, second)]
    threads = [threading.Thread(target=loop) for _ in range(SHELLS)]
    for thread in threads:
        thread.start()
    try:
        for number in range(SWITCHES if lmod == lmod_of_this_machine() else SWITCHES // 20):
            known = len(seen) + len(failures)
            roll_back(ctx, releases[number % 2])
            deadline = time.monotonic() + 30
            while number % 2 == 0 and len(seen) + len(failures) == known and time.monotonic() < deadline:
                time.sleep(0.001)  # some shell has ended between
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert set(seen) == {first, second}


@pytest.mark.parametrize("shell", ["bash", "zsh", "dash", "tcsh", "fish"])
def test_a_login_shell_has_the_defaults_and_the_cache(shell: str, lmod: Path, tmp_path: Path) -> None:
    program = shutil.which(shell)
    if program is None or os.geteuid() != 0:
        pytest.skip(f"the test starts {shell} as an ordinary user, which needs root and {shell}")
    place = tmp_path / "n"
    world = lmods.RealWorld(place, config_text=with_package(tmp_path) + "modules: {defaults: [hello]}\n")
    release = release_of(world)
    open_to_all(place)
    kind = {"tcsh": "csh", "fish": "fish"}.get(shell, "sh")
    init = world.paths.init / f"petal.{kind}"
    source = "." if shell == "dash" else "source"
    told = "echo $HELLO_ROOT; echo $LMOD_RC; echo $LOADEDMODULES; module reset; echo $HELLO_ROOT"
    env = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "USER": "nobody"}
    done = subprocess.run(
        [program, "-c", f"{source} '{init}'; {told}"], env=env, cwd="/", user=65534, group=65534, extra_groups=[],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines, done.stderr
    assert "/store/" in lines[0], done.stderr
    assert lines[1] == str(world.paths.init / "lmodrc.lua")
    assert f"StdEnv/{release}" in lines[2].split(":")
    assert "/store/" in lines[-1], done.stderr
    assert templates.text("lmodrc.lua") == (world.paths.init / "lmodrc.lua").read_text()
