"""What a site says of modules, and Lmod's cache of them: told before anything is published, and the same twice."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.model import Outcome, StepReport
from bootstrap.engine import converge as engine
from bootstrap.modules.spider import invalidate, is_missing
from bootstrap.state.release import current_release, read_index
from bootstrap.steps.modules import ModuleTree
from bootstrap.steps.registry import STEPS
from tests.world import World, lmod_of_this_machine, with_package, with_spack


def silent(_: StepReport) -> None:
    pass


def converge(world: World) -> dict[str, StepReport]:
    return {report.name: report for report in engine.converge(STEPS, world.context, silent)}


def failed(world: World) -> dict[str, Any]:
    """How the step fails, and nothing is published."""
    report = converge(world)["modules"]
    assert report.outcome in (Outcome.FAILED, Outcome.BLOCKED), report
    assert current_release(world.paths) is None
    assert report.error
    assert report.error["remedy"]
    return report.error


def core(world: World) -> Path:
    (tree,) = (world.paths.release(world.release) / "modules").iterdir()
    return tree / "Core"


def a_template(tmp_path: Path, text: str, module: str = "hello") -> str:
    path = tmp_path / "site.lua.j2"
    path.write_text(text)
    return f"modules: {{templates: [{{module: {module}, source: {path}}}]}}\n"


def test_a_sites_template_is_added_to_its_module_once(tmp_path: Path) -> None:
    text = 'setenv("LICENSE", {{ (prefix ~ "/" ~ name ~ version ~ release) | lua }})'
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + a_template(tmp_path, text))
    converge(world)
    path = core(world) / "hello" / "1.0.lua"
    before = path.read_text()
    (prefix,) = world.paths.store.glob("*/hello-1.0-*")
    assert before.endswith(f'setenv("LICENSE", "{prefix}/hello1.0{world.release}")\n')
    ModuleTree().apply(world.context)
    assert path.read_text() == before
    assert before.count("LICENSE") == 1


def test_spacks_modules_get_it_too_and_are_told_their_prefix(tmp_path: Path) -> None:
    template = a_template(tmp_path, "-- {{ prefix }} {{ hash }} {{ source }}", "fftw/3.3.10")
    world = World(tmp_path / "n", config_text=with_spack(tmp_path) + template)
    converge(world)
    (prefix,) = world.paths.store.glob("*/fftw-3.3.10-*")
    assert f"-- {prefix} {'a' * 32} Spack 1.1.1\n" in (core(world) / "fftw" / "3.3.10.lua").read_text()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{{ nothing }}", "'nothing' is undefined; it may use hash, module, name"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__ }}", "__class__"),
        ("{{ 1 / 0 }}", "division by zero"),
    ],
)
def test_a_template_that_does_not_render_is_told_before_anything_is_published(
    tmp_path: Path, text: str, why: str
) -> None:
    error = failed(World(tmp_path / "n", config_text=with_package(tmp_path) + a_template(tmp_path, text)))
    assert error["code"] == "modules-template"
    assert why in error["why"]


def test_a_template_for_a_module_that_is_not_there(tmp_path: Path) -> None:
    error = failed(World(tmp_path / "n", config_text=with_package(tmp_path) + a_template(tmp_path, "--", "helo")))
    assert (error["code"], error["why"]) == ("modules-unknown", "did you mean 'hello'?")


def test_defaults_are_a_module_and_a_version_that_the_name_means(tmp_path: Path) -> None:
    config = with_package(tmp_path) + "modules: {defaults: [hello/1.0]}\n"
    world = World(tmp_path / "n", config_text=config)
    converge(world)
    assert (core(world) / "hello" / "default").readlink() == Path("1.0.lua")
    text = (core(world) / "StdEnv" / f"{world.release}.lua").read_text()
    assert 'load("hello/1.0")' in text
    (tree,) = read_index(world.paths, world.release) or ()
    assert [(module.name, module.origin) for module in tree.modules] == [
        (f"StdEnv/{world.release}", "site"), ("hello/1.0", "package"),
    ]  # fmt: skip


def test_a_default_that_does_not_exist(tmp_path: Path) -> None:
    error = failed(World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {defaults: [hello/2.0]}\n"))
    assert (error["code"], error["why"]) == ("modules-default", "did you mean 'hello/1.0'?")


def test_a_hidden_module_is_in_no_list(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {hide: [hello]}\n")
    converge(world)
    assert (core(world) / "hello" / ".modulerc.lua").read_text() == 'hide_version("hello/1.0")\n'
    (tree,) = read_index(world.paths, world.release) or ()
    assert tree.modules == ()
    assert (core(world) / "hello" / "1.0.lua").is_file()


def test_the_users_spack_can_be_hidden_too(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_spack(tmp_path) + "modules: {hide: [spack]}\n")
    converge(world)
    (tree,) = read_index(world.paths, world.release) or ()
    assert [module.name for module in tree.modules] == ["fftw/3.3.10", "hello/1.0"]


def test_a_modulefile_directory_that_vanished(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path) + "modules: {paths: [/site/modules]}\n")
    assert failed(world)["code"] == "modules-path"
    world.paths.at("/site/modules").mkdir(parents=True)
    assert converge(world)["modules"].outcome is Outcome.CHANGED
    assert (
        ":/site/modules:" in (world.paths.init / "petal.sh").read_text().replace("'", "")
        or lmod_of_this_machine() is None
    )


def test_what_somebody_puts_into_a_release_is_found_and_listed(tmp_path: Path) -> None:
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    (core(world) / "own").mkdir()
    (core(world) / "own" / "1.lua").write_text("-- mine")
    assert "does not know own/1" in ModuleTree().probe(world.context).reason
    converge(world)
    (tree,) = read_index(world.paths, world.release) or ()
    assert "own/1" in [module.name for module in tree.modules]


def test_the_cache_is_void_while_a_tree_is_written(tmp_path: Path) -> None:
    if lmod_of_this_machine() is None:
        pytest.skip("this machine has no Lmod")
    world = World(tmp_path / "n", config_text=with_package(tmp_path))
    converge(world)
    tree = core(world).parent
    assert not is_missing(world.context, tree)
    (cache,) = (world.paths.release(world.release) / "cache").glob("*/8.6.19/spiderT.lua")
    os.utime(cache, (1, 1))
    assert is_missing(world.context, tree)
    assert "cache is missing or old" in ModuleTree().probe(world.context).reason
    ModuleTree().apply(world.context)
    assert not is_missing(world.context, tree)
    invalidate(tree)
    assert cache.with_name("timestamp").stat().st_mtime >= cache.stat().st_mtime
