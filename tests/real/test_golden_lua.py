"""Golden files of all Lua files of petal-node; tests/spack has those that Spack renders from our template."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.files import sha256_of
from tests.golden import compare_with_golden, lua_error
from tests.world import World, tarball, with_spack

GOLDEN = Path(__file__).with_name("golden")
FILES = {
    "package.lua": "Core/hello/1.0.lua",
    "mpi.lua": "Core/openmpi/4.1.lua",
    "cfd.lua": "Core/cfd/24.1.lua",
    "modulerc.lua": "Core/openmpi/.modulerc.lua",
    "StdEnv.lua": "Core/StdEnv/RELEASE.lua",
    "spack.lua": "Core/spack/1.1.1.lua",
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A release with all keys for modules."""
    place = tmp_path_factory.mktemp("golden")
    package = tarball(place / "cfd.tar.gz", {"cfd-24.1/bin/cfd": "#!/bin/sh\n", "cfd-24.1/lib/pkgconfig/cfd.pc": ""})
    cfd = f"name: cfd, version: '24.1', source: {package}, sha256: {sha256_of(package)}, requires: [openmpi]"
    quoted = 'env: {CFD_WORDS: "a \\"b\\" $c\\\\"}'
    mpi = "name: openmpi, version: '4.1', prefix: /opt/amazon/openmpi, summary: Open MPI of the image"
    text = with_spack(place).replace("packages: [", f"packages: [{{{cfd}, {quoted}}}, {{{mpi}}}, ")
    text += "modules:\n  defaults: [hello, openmpi/4.1]\n  hide: [openmpi/4.1]\n"
    world = World(place / "node", config_text=text)
    (world.prefix / "opt/amazon/openmpi/bin").mkdir(parents=True)
    done = engine.converge(STEPS, world.context, lambda _: None)
    assert [report for report in done if report.error] == []
    return world


def normal(text: str, world: World) -> str:
    """Replace the parts of a text that differ between runs."""
    text = text.replace(world.release, "RELEASE").replace(str(world.prefix), "")
    text = re.sub(r"(hello-1.0|cfd-24.1)-[0-9a-f]{7}", r"\1-HASH", text.replace(str(world.prefix.parent), "/site"))
    text = re.sub(r'"/[^"]*/python3\.\d+"', '"PYTHON"', text)
    return re.sub(r"/(1\.1\.1|recipes)-[0-9a-f]{12}", r"/\1-KEY", text)


def written(world: World) -> dict[str, Path]:
    (tree,) = (world.paths.release(world.release) / "modules").iterdir()
    files = {name: tree / path.replace("RELEASE", world.release) for name, path in FILES.items()}
    return {
        **files,
        "petal.lua": world.paths.pins / "petal" / f"{world.release}.lua",
        "lmodrc.lua": world.paths.init / "lmodrc.lua",
    }


@pytest.mark.parametrize("name", [*FILES, "petal.lua", "lmodrc.lua"])
def test_a_lua_file_equals_its_golden_file_and_is_valid(name: str, world: World) -> None:
    path = written(world)[name]
    compare_with_golden(GOLDEN / name, normal(path.read_text(encoding="utf-8"), world))
    assert lua_error(path) == ""
