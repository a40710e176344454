"""``modules:`` of the configuration, and Lmod's cache: mistakes are errors before anything is published."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.model import Outcome, Severity, StepReport
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.modules.spider import invalidate, is_missing
from bootstrap.state.release import current_release, read_index
from bootstrap.steps.module_tree import ModuleTree
from bootstrap.steps.packages import Packages
from tests.world import World, lmod_of_this_machine, typed, with_package, with_spack


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
