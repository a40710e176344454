"""Externals of the image: found with their versions, ignored if absent or damaged, and part of the release."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import ProcessTimeout, StorageError
from bootstrap.core.facts import External
from bootstrap.spack.externals import as_packages, find_externals, unconfigured
from bootstrap.spack.workspace import module_tree
from bootstrap.state.release import read_index
from bootstrap.steps.module_tree import ModuleTree
from bootstrap.steps.spack import SpackStack
from tests import images
from tests.world import World, modules_root, with_spack

EVERYTHING = [
    ("slurm@24.05.7 +pmix", "/opt/slurm"),
    ("pmix@5.0.3", "/opt/pmix"),
    ("libfabric@1.22.0 fabrics=efa,shm", "/opt/amazon/efa"),
    ("openmpi@4.1.7 fabrics=ofi schedulers=slurm +legacylaunchers", "/opt/amazon/openmpi"),
    ("openmpi@5.0.6 fabrics=ofi schedulers=slurm", "/opt/amazon/openmpi5"),
    ("intel-oneapi-mpi@2021.13 +generic-names", "/opt/intel"),
]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "node", config_text=with_spack(tmp_path))


def found(world: World) -> list[tuple[str, str]]:
    return [(one.spec, one.place) for one in find_externals(world.paths, world.system)]


def test_all_externals_of_an_image_are_found_without_starting_a_process(world: World) -> None:
    images.parallelcluster(world.prefix)
    assert found(world) == EVERYTHING
    assert world.system.commands == []
    every = find_externals(world.paths, world.system)
    assert {one.prefix for one in every} == {world.prefix / one.place[1:] for one in every}


def test_an_empty_image_has_no_externals(world: World) -> None:
    assert found(world) == []


@pytest.mark.parametrize("absent", ["slurm", "pmix", "amazon/efa", "amazon/openmpi5", "intel"])
def test_an_absent_external_is_ignored(world: World, absent: str) -> None:
    images.parallelcluster(world.prefix)
    (world.prefix / "opt" / absent).rename(world.prefix / "away")
    assert found(world) == [pair for pair in EVERYTHING if pair[1] != f"/opt/{absent}"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("slurm/include/slurm/slurm_version.h", "#define SLURM_VERSION_NUMBER 0xzz\n"),
        ("pmix/include/pmix_version.h", '#define PMIX_VERSION_MAJOR 5L\n#define PMIX_VERSION_MINOR "x\n'),
        ("amazon/efa/lib64/pkgconfig/libfabric.pc", "Version: unknown\n"),
        ("amazon/openmpi/include/mpi.h", "\x00\xff"),
    ],
)
def test_a_damaged_external_is_ignored(world: World, file: str, text: str) -> None:
    images.parallelcluster(world.prefix)
    (world.prefix / "opt" / file).write_text(text)
    assert found(world) == [pair for pair in EVERYTHING if not f"/opt/{file}".startswith(pair[1] + "/")]


def test_a_directory_that_hangs_affects_only_its_own_external(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    images.parallelcluster(world.prefix)

    def on_storage(action: Callable[[], Any], where: str, seconds: float) -> Any:
        if "Slurm" in where:
            raise StorageError(f"{where} did not answer within {seconds:.0f} s")
        return action()

    monkeypatch.setattr(world.system, "on_storage", on_storage)
    assert found(world) == EVERYTHING[1:]


@pytest.mark.parametrize(
    ("answer", "spec"),
    [
        ("slurm 24.11.6\n", "slurm@24.11.6 ~pmix"),
        ("slurm-wlm 22.05.8\n", "slurm@22.05.8 ~pmix"),
        ("slurm 21.08.8-2\n", "slurm@21.08.8"),
        ("q1|idle\n", None),
        ("", None),
    ],
)
def test_a_slurm_without_headers_is_asked_for_its_version(world: World, answer: str, spec: str | None) -> None:
    images.write(world.prefix, "opt/slurm/bin/sinfo")
    world.system.answers["sinfo"] = lambda _: answer
    assert [one[0] for one in found(world)] == ([spec] if spec else [])
    assert world.system.commands == [(f"{world.prefix}/opt/slurm/bin/sinfo", "--version")]


def test_a_slurm_that_does_not_answer_is_ignored(world: World) -> None:
    def silent(_: object) -> str:
        raise ProcessTimeout("sinfo did not end within 10 s and was stopped")

    images.parallelcluster(world.prefix)
    (world.prefix / "opt/slurm/include/slurm/slurm_version.h").unlink()
    world.system.answers["sinfo"] = silent
    assert found(world) == EVERYTHING[1:]


def test_parallelclusters_paths_take_precedence_over_the_distributions(world: World) -> None:
    images.slurm(world.prefix / "usr", "0x160508")
    images.pmix(world.prefix / "usr/lib/x86_64-linux-gnu/pmix2", "4.2.2")
    pc = ("usr/lib/x86_64-linux-gnu/pkgconfig/pmix.pc", "prefix=/usr/lib/x86_64-linux-gnu/pmix2\nVersion: 4.2.2rc2\n")
    images.write(world.prefix, pc)
    assert found(world) == [
        ("slurm@22.05.8 +pmix", "/usr"),
        ("pmix@4.2.2", "/usr/lib/x86_64-linux-gnu/pmix2"),
    ]
    images.parallelcluster(world.prefix)
    assert found(world) == EVERYTHING
    (world.prefix / "opt/slurm/include/slurm/slurm_version.h").unlink()
    world.system.answers["sinfo"] = lambda _: "slurm 24.05.7\n"
    assert found(world) == EVERYTHING


@pytest.mark.parametrize("prefix", ["/home/somebody", "/usr/../tmp/x", "${pcfiledir}/../.."])
def test_a_pmix_in_another_directory_is_not_the_distributions(world: World, prefix: str) -> None:
    images.write(world.prefix, ("usr/lib64/pkgconfig/pmix.pc", f"prefix={prefix}\n"))
    images.pmix(world.prefix / "home/somebody")
    images.pmix(world.prefix / "tmp/x")
    assert found(world) == []


@pytest.mark.parametrize(
    ("version", "fits"),
    [("2021.9.0", True), ("2021.11", True), ("2021.13", True), ("2021.13.1", False), ("2019", False), ("2022x", False)],
)
def test_intel_mpi_is_found_at_the_paths_of_spacks_recipe(world: World, version: str, fits: bool) -> None:
    images.intel_mpi(world.prefix / "opt/intel/oneapi", version)
    spec = f"intel-oneapi-mpi@{version} +generic-names"
    assert found(world) == ([(spec, "/opt/intel/oneapi")] if fits else [])


@pytest.mark.parametrize(
    ("environment", "specs", "left"),
    [
        ({}, [], {"slurm", "pmix", "libfabric", "openmpi"}),
        ({"packages": {"slurm": {"buildable": True}}}, [], {"pmix", "libfabric", "openmpi"}),
        ({"packages": {"slurm": {"externals": []}}}, [], {"pmix", "libfabric", "openmpi"}),
        ({"packages": {"slurm:": {}}}, [], {"pmix", "libfabric", "openmpi"}),
        ({"packages": {"slurm": {"externals:": []}}}, [], {"pmix", "libfabric", "openmpi"}),
        ({"packages": {"openmpi": {"require": "@4"}}}, [], {"slurm", "pmix", "libfabric", "openmpi"}),
        ({"packages": {"slurm": None}}, [], {"slurm", "pmix", "libfabric", "openmpi"}),
        ({"packages": []}, [], {"slurm", "pmix", "libfabric", "openmpi"}),
        ({"packages": {"all": {"providers": {"mpi": ["mpich"]}}}}, [], {"slurm", "pmix", "libfabric"}),
        ({"specs": ["hdf5+mpi ^mpich"]}, [], {"slurm", "pmix", "libfabric"}),
        ({}, ["hdf5 ^intel-oneapi-mpi"], {"slurm", "pmix", "libfabric", "intel-oneapi-mpi"}),
        (
            {"packages": {"mpi": {"require": "openmpi"}}},
            ["x ^intel-oneapi-mpi"],
            {"slurm", "pmix", "libfabric", "openmpi", "intel-oneapi-mpi"},
        ),
    ],
)
def test_package_settings_of_the_stack_take_precedence(
    world: World, environment: dict[str, Any], specs: list[str], left: set[str]
) -> None:
    images.parallelcluster(world.prefix)
    every = find_externals(world.paths, world.system)
    assert {one.name for one in unconfigured(every, environment, specs)} == left


def test_packages_yaml_describes_an_external_completely() -> None:
    here = Path("/opt")
    made = as_packages(
        [
            External("openmpi", "openmpi@4.1.7", "/opt/a", here / "a"),
            External("openmpi", "openmpi@5.0.6", "/opt/b", here / "b"),
            External("slurm", "slurm@24.05.7", "/opt/slurm", here / "slurm", buildable=False),
        ]
    )
    assert [one["prefix"] for one in made["openmpi"]["externals"]] == ["/opt/a", "/opt/b"]
    assert "buildable" not in made["openmpi"]
    assert made["slurm"] == {"externals": [{"spec": "slurm@24.05.7", "prefix": "/opt/slurm"}], "buildable": False}


def test_a_changed_external_changes_the_release(world: World) -> None:
    without = world.release
    images.slurm(world.prefix / "opt/slurm")
    first = world.release
    images.slurm(world.prefix / "opt/slurm", "0x180508")
    assert len({without, first, world.release}) == 3
    images.slurm(world.prefix / "opt/slurm")
    assert world.release == first


def test_unused_externals_do_not_change_the_release(world: World) -> None:
    without = world.release
    images.intel_mpi(world.prefix / "opt/intel")
    assert world.release == without
    world.config_text = "stack: none"
    alone = world.release
    images.parallelcluster(world.prefix.with_name("other"))
    assert World(world.prefix.with_name("other")).release == alone


def test_a_plan_shows_the_externals(world: World) -> None:
    images.parallelcluster(world.prefix)
    changes = SpackStack().probe(world.context).changes
    assert "use libfabric@1.22.0 fabrics=efa,shm of /opt/amazon/efa if it fits" in changes
    assert not [line for line in changes if "intel" in line]


def test_a_package_at_the_prefix_of_an_external_keeps_spacks_module(world: World) -> None:
    """Spack's module unlocks the packages built with that MPI; the package's own module would not."""
    images.parallelcluster(world.prefix)
    packages = "packages: [{name: openmpi, version: 4.1.7, prefix: /opt/amazon/openmpi}]"
    world.config_text = re.sub(r"(?m)^packages: .*$", packages, world.config_text)
    module = module_tree(world.context, world.context.targets[0]) / "Core" / "openmpi" / "4.1.7.lua"
    text = '-- Spack\nprepend_path("MODULEPATH", "x")\n'

    def spack(argv: Sequence[str]) -> str:
        assert argv[argv.index("-e") + 4 :][:3] == ["module", "lmod", "refresh"]
        images.write(modules_root(argv) / "Core" / "openmpi", (module.name, text))
        return ""

    world.system.answers["spack"] = spack
    ModuleTree().apply(world.context)
    assert module.read_text() == text
    listed = read_index(world.paths, world.release)
    assert listed is not None
    found = [(one.name, one.origin) for tree in listed.trees for one in tree.modules]
    assert found == [("openmpi/4.1.7", "spack"), ("spack/1.1.1", "spack")]
