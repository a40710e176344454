"""``modules:`` of the configuration, and Lmod's cache: mistakes are errors before anything is published."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import LockLost, ModulesError, PetalError, SpackError
from bootstrap.core.model import Outcome, Severity, StepReport
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import REPAIRS, STEPS
from bootstrap.modules.spider import invalidate, is_missing
from bootstrap.repair.module_files import ChangedModules
from bootstrap.state.release import ModuleFile, current_release, read_index
from bootstrap.steps.module_tree import ModuleTree
from bootstrap.steps.packages import Packages
from tests.world import World, lmod_of_this_machine, modules_root, typed, with_package, with_spack


def silent(_: StepReport) -> None:
    pass


def converge(world: World) -> dict[str, StepReport]:
    return {report.name: report for report in engine.converge(STEPS, world.context, silent)}


def failed(world: World) -> dict[str, Any]:
    """Return the error of the step; nothing is published."""
    report = converge(world)["module-tree"]
    assert report.outcome in (Outcome.FAILED, Outcome.BLOCKED), report
    assert current_release(world.paths) is None
    assert report.error
    assert report.error["remedy"]
    return report.error


def core(world: World) -> Path:
    (tree,) = (world.paths.release(world.release) / "modules").iterdir()
    return tree / "Core"


def repair(world: World, *, yes: bool = False) -> dict[str, StepReport]:
    ctx = typed(world.context, command="repair", yes=yes)
    return {report.name: report for report in engine.converge(REPAIRS, ctx, silent)}


def listed(world: World) -> dict[str, ModuleFile]:
    index = read_index(world.paths, world.release)
    assert index is not None
    return {module.name: module for tree in index.trees for module in tree.modules}


def starts_of_spack(world: World) -> int:
    return sum(Path(command[0]).name == "spack" for command in world.system.commands)


def test_defaults_become_a_module_and_a_default_version(tmp_path: Path) -> None:
    config = with_package(tmp_path) + "modules: {defaults: [hello/1.0]}\n"
    world = World(tmp_path / "n", config_text=config)
    converge(world)
    assert (core(world) / "hello" / "default").readlink() == Path("1.0.lua")
    text = (core(world) / "StdEnv" / f"{world.release}.lua").read_text()
    assert 'load("hello/1.0")' in text
    index = read_index(world.paths, world.release)
    assert index is not None
    (tree,) = index.trees
    assert [(module.name, module.origin) for module in tree.modules] == [
        (f"StdEnv/{world.release}", "site"), ("hello/1.0", "package"),
    ]  # fmt: skip


def test_an_unknown_default_fails_with_the_nearest_name(tmp_path: Path) -> None:
    error = failed(World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {defaults: [hello/2.0]}\n"))
    assert (error["code"], error["why"]) == ("modules-config", "did you mean 'hello/1.0'?")


def test_a_hidden_module_is_not_listed(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {hide: [hello]}\n")
    converge(world)
    assert (core(world) / "hello" / ".modulerc.lua").read_text() == 'hide_version("hello/1.0")\n'
    index = read_index(world.paths, world.release)
    assert index is not None
    (tree,) = index.trees
    assert tree.modules == ()
    assert (core(world) / "hello" / "1.0.lua").is_file()


def test_the_users_spack_can_be_hidden_too(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path) + "modules: {hide: [spack]}\n")
    converge(world)
    index = read_index(world.paths, world.release)
    assert index is not None
    (tree,) = index.trees
    assert [module.name for module in tree.modules] == ["fftw/3.3.10", "hello/1.0"]


def test_a_missing_modulefile_directory_fails_until_it_exists(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {paths: [/site/modules]}\n")
    assert failed(world)["code"] == "modules-config"
    world.paths.at("/site/modules").mkdir(parents=True)
    assert converge(world)["module-tree"].outcome is Outcome.CHANGED
    assert (
        ":/site/modules:" in (world.paths.init / "petal.sh").read_text().replace("'", "")
        or lmod_of_this_machine() is None
    )


def test_a_module_added_by_hand_is_found_and_listed(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    (core(world) / "own").mkdir()
    (core(world) / "own" / "1.lua").write_text("-- mine")
    (finding,) = ModuleTree().findings(world.context)
    assert ("does not contain own/1" in finding.message, finding.severity) == (True, Severity.WARN)
    converge(world)
    index = read_index(world.paths, world.release)
    assert index is not None
    (tree,) = index.trees
    assert "own/1" in [module.name for module in tree.modules]


def test_an_outdated_cache_starts_no_spack_and_changes_no_module(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path))
    converge(world)
    starts, module = starts_of_spack(world), core(world) / "fftw" / "3.3.10.lua"
    module.write_text("-- edited\n")
    (core(world) / "own").mkdir()
    (core(world) / "own" / "1.lua").write_text("-- mine\n")
    done = repair(world)
    assert (done["module-files-changed"].outcome, done["module-tree"].outcome) == (Outcome.BLOCKED, Outcome.CHANGED)
    assert (module.read_text(), starts_of_spack(world)) == ("-- edited\n", starts)
    assert "own/1" in listed(world)


@pytest.mark.parametrize(("edited", "lost"), [("fftw/3.3.10", "hello/1.0"), ("hello/1.0", "fftw/3.3.10")])
def test_missing_modules_are_written_and_changed_ones_stay(tmp_path: Path, edited: str, lost: str) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path))
    converge(world)
    modules = [core(world) / f"{name}.lua" for name in (edited, lost)]
    before = [module.read_text() for module in modules]
    modules[0].write_text("-- edited\n")
    modules[1].unlink()
    done = repair(world)
    assert (done["module-files-changed"].outcome, done["module-tree"].outcome) == (Outcome.BLOCKED, Outcome.CHANGED)
    assert [module.read_text() for module in modules] == ["-- edited\n", before[1]]
    assert ChangedModules().probe(world.context).blocked
    assert repair(world, yes=True)["module-files-changed"].outcome is Outcome.CHANGED
    assert [module.read_text() for module in modules] == before


def test_a_module_of_the_site_is_never_written_or_removed(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    own = core(world) / "own" / "1.lua"
    own.parent.mkdir()
    own.write_text("-- mine\n")
    repair(world)
    assert (listed(world)["own/1"].origin, listed(world)["own/1"].sha256) == ("site", "")
    own.write_text("-- mine, and newer\n")
    assert repair(world, yes=True)["module-files-changed"].outcome is Outcome.OK
    assert own.read_text() == "-- mine, and newer\n"
    own.unlink()
    (finding,) = ModuleTree().findings(world.context)
    assert (finding.message, finding.severity) == (
        "Lmod's cache contains modules that were removed: own/1", Severity.WARN,
    )  # fmt: skip
    repair(world)
    assert set(listed(world)) == {"hello/1.0"}


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def failing_spack(_: Sequence[str]) -> str:
    raise SpackError("Spack failed")


def spack_on_a_full_disk(_: Sequence[str]) -> str:
    return "==> Warning: some module files could not be written\n    fftw/3.3.10.lua: No space left on device"


def lose_lock() -> None:
    raise LockLost("the lock is lost")


@pytest.mark.parametrize("failure", [failing_spack, spack_on_a_full_disk, full_disk, lose_lock])
def test_a_changed_module_stays_if_it_cannot_be_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failure: Callable[..., Any]
) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path))
    converge(world)
    ctx = typed(world.context, command="repair", yes=True)
    if failure is full_disk:
        monkeypatch.setattr("bootstrap.modules.tree.staged_file", full_disk)
    elif failure is lose_lock:
        ctx = replace(ctx, confirm=lose_lock)
    else:
        world.system.answers["spack"] = failure
    modules = [core(world) / "fftw" / "3.3.10.lua", core(world) / "hello" / "1.0.lua"]
    for module in modules:
        module.write_text("-- edited\n")
    with pytest.raises((PetalError, OSError)) as error:
        ChangedModules().apply(ctx)
    assert error.type is not ModulesError
    assert [module.read_text() for module in modules] == ["-- edited\n", "-- edited\n"]


def test_a_changed_module_is_written_again_while_a_directory_of_the_site_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {paths: [/site/modules]}\n")
    world.paths.at("/site/modules").mkdir(parents=True)
    converge(world)
    module = core(world) / "hello" / "1.0.lua"
    text = module.read_text()
    module.write_text("-- edited\n")
    world.paths.at("/site/modules").rmdir()
    done = repair(world, yes=True)
    assert (done["module-files-changed"].outcome, done["module-tree"].outcome) == (Outcome.CHANGED, Outcome.BLOCKED)
    assert module.read_text() == text


def test_a_package_with_the_module_of_a_spack_package_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path))
    spack = world.system.answers["spack"]

    def also_writes_hello(argv: Sequence[str]) -> str:
        if "refresh" in argv:
            module = modules_root(argv) / "Core" / "hello" / "1.0.lua"
            module.parent.mkdir(parents=True)
            module.write_text("-- Spack's\n")
        return spack(argv)

    world.system.answers["spack"] = also_writes_hello
    error = failed(world)
    assert (error["code"], error["what"]) == ("modules-config", "two packages have the module hello/1.0")


def test_the_rules_of_a_site_stay_in_any_encoding(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {hide: [hello]}\n")
    converge(world)
    rules, module = core(world) / "hello" / ".modulerc.lua", core(world) / "hello" / "1.0.lua"
    rules.write_bytes(b"-- M\xfcller")
    assert "does not contain hello/1.0" in ModuleTree().probe(world.context).reason
    repair(world)  # lists it as a module of the site
    world.paths.release(world.release).joinpath("modules.json").unlink()
    repair(world)
    assert rules.read_bytes() == b'-- M\xfcller\nhide_version("hello/1.0")\n'
    assert module.is_file()
    assert listed(world) == {}


def test_a_rule_of_a_site_in_another_encoding_is_read(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    (core(world) / "hello" / ".modulerc.lua").write_bytes(b"-- M\xfcller\n")
    assert ModuleTree().probe(world.context).holds


def test_a_plan_finds_a_local_tarball_that_is_missing(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    (tmp_path / "hello.tar.gz").rename(tmp_path / "away")
    planning = [typed(world.context, command="plan"), typed(world.context, command="repair", dry_run=True)]
    for ctx in planning:
        report = {report.name: report for report in engine.plan(STEPS, ctx)}["packages"]
        assert (report.outcome, (report.error or {})["code"]) == (Outcome.BLOCKED, "fetch-missing")
    (tmp_path / "away").rename(tmp_path / "hello.tar.gz")
    for ctx in planning:
        assert Packages().probe(ctx).changes


def test_the_cache_is_invalid_while_a_tree_is_written(tmp_path: Path) -> None:
    if lmod_of_this_machine() is None:
        pytest.skip("Lmod is not installed")
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    tree = core(world).parent
    assert not is_missing(world.context, tree)
    (cache,) = (world.paths.release(world.release) / "cache").glob("*/8.6.19/spiderT.lua")
    os.utime(cache, (1, 1))
    assert is_missing(world.context, tree)
    assert "cache is missing or outdated" in ModuleTree().probe(world.context).reason
    ModuleTree().apply(world.context)
    assert not is_missing(world.context, tree)
    invalidate(tree)
    assert cache.with_name("timestamp").stat().st_mtime >= cache.stat().st_mtime
