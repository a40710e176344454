"""The users' Spack as a part of the release: the same complete files in every layout, without the site's secrets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.facts import Queue
from bootstrap.core.model import Outcome
from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.modules import templates
from bootstrap.spack import users
from tests.unit.test_laws import lmod_is_there
from tests.world import World, modules_root, with_spack

__all__ = ["lmod_is_there"]
TARGET = "x86_64_v3"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "head", config_text=with_spack(tmp_path))


def scope(world: World, section: str) -> Any:
    users.write(world.context, TARGET)
    path = world.paths.release(world.release) / "spack" / f"debian12-{TARGET}" / "scope" / f"{section}.yaml"
    return json.loads(path.read_text())[section]


def test_the_files_are_the_same_in_every_layout(world: World) -> None:
    seen = set()
    for layout in ("shared", "hybrid", "ami"):
        ctx = replace(world.context, config=replace(world.config, layout=layout))
        users.write(ctx, TARGET)
        directory = world.paths.release(world.release) / "spack"
        files = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
        module = templates.render("spack.lua.j2", users.module_values(ctx, TARGET))
        seen.add((module, *sorted(files.items())))
    assert len(seen) == 1


def test_users_get_only_mirrors_that_need_no_credentials(world: World) -> None:
    mirrors = "mirrors: {own: /srv/mirror, web: 'https://mirror/x'}"
    world.config_text = world.config_text.replace("spack: {", f"spack: {{{mirrors}, ")
    assert set(scope(world, "mirrors")) == {"own", "web"}
    of_root = {"url": "s3://bucket/mirror", "source": True}, {"url": "file:///var/cache/root", "source": False}
    assert users._mirrors({str(number): mirror for number, mirror in enumerate(of_root)}) == {}


@pytest.mark.parametrize("everything", ["all", "all:"])
def test_packages_of_the_stack_and_ours_are_merged_to_one_section(world: World, everything: str) -> None:
    of_stack = {everything: {"require": "%gcc", "variants": "+x", "target": ["zen4"]}, "fftw": {"require": "~mpi"}}
    world.queues = (Queue("q1", ("p4d.24xlarge", "c6a.large")),)
    world.environment = {"packages": of_stack, "specs": ["fftw"]}
    packages = scope(world, "packages")
    assert [name for name in packages if name.startswith("all")] == [everything]
    assert packages[everything] == {
        "require": ["%gcc"], "variants": ["cuda_arch=80", "+x"], "target": [TARGET, "zen4"],
    }  # fmt: skip
    assert packages["fftw"] == {"require": ["~mpi"]}
    assert packages["gcc"]["externals"]


def test_missing_files_of_the_users_spack_are_restored(world: World) -> None:
    engine.converge(STEPS, world.context, lambda _: None)
    python = world.paths.release(world.release) / "spack" / f"debian12-{TARGET}" / "python" / "bin" / "python3"
    python.unlink()
    outcomes = {report.name: report.outcome for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert outcomes["module-tree"] is Outcome.CHANGED
    assert python.is_file()


def test_a_stack_with_a_package_named_spack_keeps_its_module(world: World) -> None:
    path = world.paths.release(world.release) / "modules" / f"debian12-{TARGET}" / "Core" / "spack" / "1.1.1.lua"
    spack = world.system.answers["spack"]

    def also_writes_spack(argv: Any) -> str:
        text = spack(argv)
        if "refresh" in argv:
            own = modules_root(argv) / "Core" / "spack" / "1.1.1.lua"
            own.parent.mkdir(parents=True, exist_ok=True)
            own.write_text("-- the stack's own\n")
        return text

    world.system.answers["spack"] = also_writes_spack
    outcomes = {report.name: report.outcome for report in engine.converge(STEPS, world.context, lambda _: None)}
    assert outcomes["module-tree"] is Outcome.CHANGED
    assert path.read_text() == "-- the stack's own\n"
