"""The check of specs runs in real Spack with all recipes: it reports every mistake, and accepts what Spack accepts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from bootstrap.config import model
from bootstrap.core.facts import Host
from bootstrap.host.system import System
from bootstrap.spack.driver import Spack
from bootstrap.spack.externals import find_compiler
from bootstrap.spack.program import SpackInstall
from bootstrap.spack.scope import Places, Site, as_yaml, write_scope
from tests.lab import stack
from tests.spack.conftest import spack_tree
from tests.spack.stacks import RECIPES

RECIPES_OF = {"1.2.0": "spack-packages-2026.06.0", "1.1.1": stack.RECIPES}
# Each entry, and the beginning of every message that is expected for it.
MISTAKES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    ("git@2.40.0", ("git has no version 2.40.0 (near it: git@",)),
    ("git@=2.40.99", ("git has no version 2.40.99 (near it: git@",)),
    ("multiqc", ("there is no package multiqc, did you mean 'py-multiqc'?",)),
    ("bzpi2", ("there is no package bzpi2, did you mean 'bzip2'",)),
    ("bonnie++@2.00a", ("there is no package bonnie++, did you mean 'bonniepp'?",)),
    ("pnetcdf", ("there is no package pnetcdf, did you mean 'parallel-netcdf'?",)),
    ("git+tcltkk", ("git has no variant tcltkk, did you mean 'tcltk'?",)),
    ("hdf5 ^zlbi@1", ("there is no package zlbi, did you mean 'zlib'",)),
    ("netcdf-c ^[virtuals=mpi] zlib", ("zlib does not provide mpi, which is provided by ",)),
    ("netcdf-c ^[virtuals=mpii] openmpi", ("there is no virtual package mpii, did you mean 'mpi'",)),
    ("zlib@@1", ("zlib@@1: ",)),
    ({"matrix": [["zlib", "bzlib2"], ["+shared", "+shraed"]]}, (
        "there is no package bzlib2, did you mean ",
        "zlib has no variant shraed, did you mean 'shared'?",
    )),
    ("$tools", ("there is no package nosuchtool",)),
    ("gcc@10.5.0", ("gcc@10.5.0 and gcc@14 exclude each other in one stack",)),
)  # fmt: skip
RIGHT: tuple[Any, ...] = (
    "gcc@14", "git@2:", "cmake@master", "git@git.v2.40.0", "git@git.v2.40.0=2.40.0", "builtin.zlib", "zlib ++nosuch",
    "zlib cflags='-O3 -g' target=x86_64_v3", "netcdf-c ^[virtuals=mpi] openmpi", "zlib build_system=generic",
    "hdf5 ^mpi",
    "cuda@9.9", "bzip2 %gcc", {"matrix": [["zlib", "bzip2"], ["+shared"]], "exclude": ["zlib+shared"]}, "$libs",
)  # fmt: skip
PACKAGES = {"cuda": {"externals": [{"spec": "cuda@9.9", "prefix": "/usr"}]}}


Check = Callable[[Mapping[str, Any]], "dict[str, Any]"]


@pytest.fixture(scope="module", params=["1.2.0", "1.1.1", "0.23.0"])
def check(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Check]:
    """Check the section ``spack`` of an environment."""
    version, place, system = request.param, tmp_path_factory.mktemp("check"), System()
    tree = spack_tree(version)
    recipes = tree / "var/spack/repos/builtin"
    if version in RECIPES_OF:
        recipes = tree.with_name(RECIPES_OF[version]) / RECIPES
    if not recipes.is_dir():
        pytest.skip(f"{recipes} is missing (make spack)")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(model.SPACK_VERSIONS, "1.2.0", "1.1")
        program = SpackInstall(version, tree, recipes, None)
        scratch = stack.lab_cache() / f"check-{version}"  # with Spack's indexes and bytecode, which take a minute
        places = Places(place / "store", place / "modules", recipes, scratch)
        host = Host("head", "debian12", "2.36", "x86_64", "x86_64_v3", 2, 8 << 30, "boot-1")
        write_scope(place / "scope", places, Site(find_compiler(system), "x86_64_v3", {}, host), program.family)
        spack = Spack(system, program, places, place / "scope", place / "environment", place / "log", lambda _: None)

        def run(section: Mapping[str, Any]) -> dict[str, Any]:
            spack.write_environment([], {"packages": section.get("packages", {})})
            content = {"view": False, **section}
            if "toolchains" in section:  # the scope of an install ignores them
                (place / "scope" / "toolchains.yaml").write_bytes(as_yaml({"toolchains": section["toolchains"]}))
            (place / "environment" / "spack.yaml").write_bytes(as_yaml({"spack": content}))
            return spack.check_specs()

        yield run


def test_exactly_the_mistakes_are_reported_in_one_run(check: Check) -> None:
    specs = [*RIGHT, *(entry for entry, _ in MISTAKES)]
    definitions = [{"tools": ["zlib", "nosuchtool"]}, {"libs": ["zlib", "bzip2"]}]
    answer = check({"specs": specs, "definitions": definitions, "packages": PACKAGES})
    messages: dict[int, list[str]] = {}
    for index, message in answer["problems"]:
        messages.setdefault(index, []).append(message)
    assert {index: found for index, found in messages.items() if index < len(RIGHT)} == {}
    for index, (entry, expected) in enumerate(MISTAKES, len(RIGHT)):
        found = messages.get(index, [])
        assert len(found) == len(expected), (entry, found)
        for beginning in expected:
            assert [message for message in found if message.startswith(beginning)], (entry, found)


def test_a_virtual_package_is_accepted_with_advice(check: Check) -> None:
    answer = check({"specs": ["scalapack"]})
    assert answer["problems"] == []
    (advice,) = answer["advice"]
    assert advice.startswith("scalapack is provided by ")
    assert "netlib-scalapack" in advice


def test_two_specs_that_exclude_each_other_are_a_mistake(check: Check) -> None:
    assert [index for index, _ in check({"specs": ["zlib@1.2.13", "zlib@1.3.1"]})["problems"]] == [1]


def test_a_toolchain_is_expanded(check: Check, request: pytest.FixtureRequest) -> None:
    if "0.23.0" in request.node.name:
        pytest.skip("Spack 0.23 does not support toolchains")
    section = {"specs": ["zlib %sys"], "toolchains": {"sys": [{"spec": "%c=gcc", "when": "%c"}]}}
    assert check(section)["problems"] == []


def test_a_group_of_specs_is_checked(check: Check, request: pytest.FixtureRequest) -> None:
    if "1.2.0" not in request.node.name:
        pytest.skip("groups of specs need Spack 1.2")
    ((_, message),) = check({"specs": ["zlib", {"group": "libs", "specs": ["bzip2", "nosuchlib"]}]})["problems"]
    assert message.startswith("there is no package nosuchlib")
