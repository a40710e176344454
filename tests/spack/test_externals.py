"""Real Spack 1.1.1 and the real recipes of Slurm, PMIx, libfabric, Open MPI and Intel MPI, with an image's externals.

Nothing is compiled: the image has empty files, so packages are installed with ``--fake``.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.facts import External
from bootstrap.core.model import Outcome
from bootstrap.core.paths import Paths
from bootstrap.host.files import make_dir
from bootstrap.host.system import PATH, System
from bootstrap.spack.driver import NO_MODULES, Spack
from bootstrap.spack.externals import find_compiler, find_externals, unconfigured
from bootstrap.spack.lockfile import locked_specs
from bootstrap.spack.program import SpackInstall
from bootstrap.spack.scope import Places, Site, write_scope
from tests import images
from tests.lab import recipes
from tests.spack.conftest import spack_tree
from tests.spack.test_spack import bootstrap
from tests.world import HOST, lmod_of_this_machine

KEPT = ("slurm", "pmix", "libfabric", "openmpi", "intel-oneapi-mpi", "osu-micro-benchmarks")
# Recipes of dependencies that are requested with variants.
BARE = ("binutils", "cuda", "hdf5", "hip", "hwloc", "papi", "prrte", "rdma-core", "ucc", "ucx", "valgrind")


@dataclass(frozen=True)
class Solved:
    """A concretized stack: every node by its name, and its Spack."""

    nodes: Mapping[str, Any]
    spack: Spack

    def version_and_path(self, name: str) -> tuple[str, str | None]:
        """The version of a package, and its path if it is an external."""
        node = self.nodes[name]
        return node["version"], (node.get("external") or {}).get("path")


@pytest.fixture(scope="module")
def mpi_recipes(full_recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("recipes") / "tree"
    recipes.subset(full_recipes, tree, KEPT, BARE)
    return tree / "repos" / "spack_repo" / "builtin"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One directory for all tests of these recipes, so that Spack reads and compiles them once."""
    return tmp_path_factory.mktemp("scratch")


@pytest.fixture(scope="module")
def unpacked_clingo(clingo: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clingo")
    for wheel in clingo:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(place)
    return place


@pytest.fixture
def solve(
    mpi_recipes: Path, scratch: Path, unpacked_clingo: Path, tmp_path: Path
) -> Callable[[list[str], dict[str, Any]], Solved]:
    """Concretize a stack on the node below ``tmp_path / "node"``."""
    system = System()
    program = SpackInstall("1.1.1", spack_tree("1.1.1"), mpi_recipes, unpacked_clingo)
    places = Places(tmp_path / "store", tmp_path / "modules", mpi_recipes, scratch)

    def run(specs: list[str], packages: dict[str, Any]) -> Solved:
        stack = {"specs": specs, "packages": packages}
        externals = unconfigured(find_externals(Paths(tmp_path / "node"), system), stack)
        site = Site(find_compiler(system), "x86_64_v3", {}, HOST, externals)
        write_scope(tmp_path / "scope", places, site, program.family)
        spack = Spack(
            system, program, places, tmp_path / "scope", tmp_path / "environment", tmp_path / "log", lambda _: None
        )
        spack.write_environment(specs, {"packages": packages} if packages else {})
        spack.concretize()
        lock = json.loads(spack.lockfile.read_text())
        return Solved({node["name"]: node for node in lock["concrete_specs"].values()}, spack)

    return run


def install_fake(spack: Spack) -> None:
    arguments = [*NO_MODULES, "install", "--fake", "--only-concrete"]
    spack._run(*arguments, timeout=600, code="spack-install", what="fake install")
    made = spack.places.modules.with_name("made")
    make_dir(made)
    spack.write_modules(made)
    made.rename(spack.places.modules)


def test_the_images_mpi_is_used_and_its_module_unlocks_packages_built_with_it(
    solve: Callable[[list[str], dict[str, Any]], Solved], tmp_path: Path
) -> None:
    """Intel MPI is installed too, and not used, because the stack does not name it."""
    images.parallelcluster(tmp_path / "node")
    solved = solve(["osu-micro-benchmarks"], {})
    assert solved.version_and_path("openmpi") == ("5.0.6", f"{tmp_path}/node/opt/amazon/openmpi5")

    install_fake(solved.spack)
    modules = tmp_path / "modules"
    module = (modules / "Core" / "openmpi" / "5.0.6.lua").read_text()
    assert 'family("mpi")' in module
    unlocked = re.search(r'prepend_path\("MODULEPATH", "([^"]+)"\)', module)
    assert unlocked
    assert (Path(unlocked[1]) / "osu-micro-benchmarks" / "7.5.1.lua").is_file()
    assert not list((modules / "Core").glob("osu*"))
    hidden = [path.read_text() for path in (modules / "Core" / "openmpi").glob(".modulerc.lua")]
    assert hidden == [], "the module that unlocks the others is hidden"
    if lmod := lmod_of_this_machine():
        env = {"PATH": PATH, "MODULEPATH": str(modules / "Core")}
        load = [str(lmod / "libexec" / "lmod"), "bash", "load", "openmpi", "osu-micro-benchmarks"]
        done = System().run(load, timeout=60, env=env)
        assert f"{tmp_path}/node/opt/amazon/openmpi5/bin" in done.stdout
        assert "_LMFILES_" in done.stdout
        assert "osu-micro-benchmarks/7.5.1.lua" in done.stdout


def test_packages_are_built_with_the_images_slurm_and_libfabric(
    solve: Callable[[list[str], dict[str, Any]], Solved], tmp_path: Path
) -> None:
    """Externals below /usr get no module, even if the stack names them: it would put /usr into search paths."""
    images.parallelcluster(tmp_path / "node")
    (tmp_path / "node/opt/slurm").rename(tmp_path / "node/opt/elsewhere")
    images.slurm(tmp_path / "node/usr")
    solved = solve(["slurm", "libfabric", "openmpi@4.1.8 fabrics=ofi schedulers=slurm"], {})
    assert solved.version_and_path("openmpi") == ("4.1.8", None)
    assert solved.version_and_path("slurm") == ("24.05.7", f"{tmp_path}/node/usr")
    assert solved.version_and_path("libfabric") == ("1.22.0", f"{tmp_path}/node/opt/amazon/efa")
    assert solved.nodes["slurm"]["parameters"]["pmix"] is True
    assert set(solved.nodes["libfabric"]["parameters"]["fabrics"]) == {"efa", "shm"}
    assert {"slurm", "libfabric"} <= {needed["name"] for needed in solved.nodes["openmpi"]["dependencies"]}

    install_fake(solved.spack)
    core = tmp_path / "modules" / "Core"
    assert (core / "libfabric" / "1.22.0.lua").is_file()
    assert not (core / "slurm").exists()


def test_package_settings_of_a_stack_apply_and_other_externals_stay(
    solve: Callable[[list[str], dict[str, Any]], Solved], tmp_path: Path
) -> None:
    images.parallelcluster(tmp_path / "node")
    own = {"externals": [{"spec": "slurm@23.11.1 +pmix", "prefix": "/opt/own"}], "buildable": False}
    packages = {"slurm": own, "openmpi": {"require": ["@4"]}}
    solved = solve(["slurm", "osu-micro-benchmarks"], packages)
    assert solved.version_and_path("slurm") == ("23.11.1", "/opt/own")
    assert solved.version_and_path("openmpi") == ("4.1.7", f"{tmp_path}/node/opt/amazon/openmpi")
    assert solved.nodes["openmpi"]["parameters"]["legacylaunchers"] is True


def test_intel_mpi_is_used_if_the_stack_names_it(
    solve: Callable[[list[str], dict[str, Any]], Solved], tmp_path: Path
) -> None:
    images.parallelcluster(tmp_path / "node")
    solved = solve(["osu-micro-benchmarks"], {"all": {"providers": {"mpi": ["intel-oneapi-mpi"]}}})
    assert solved.version_and_path("intel-oneapi-mpi") == ("2021.13", f"{tmp_path}/node/opt/intel")
    install_fake(solved.spack)
    module = tmp_path / "modules" / "Core" / "intel-oneapi-mpi" / "2021.13.lua"
    assert f'setenv("I_MPI_ROOT", "{tmp_path}/node/opt/intel/mpi/2021.13")' in module.read_text()


def test_a_run_uses_an_external_publishes_its_module_and_finds_it_again(config_text: str, tmp_path: Path) -> None:
    """A complete run with a package that Spack really builds, and the image's Open MPI."""
    prefix = tmp_path / "head"
    images.parallelcluster(prefix)
    config = config_text + "  specs: [openmpi]\n"
    first = bootstrap(prefix, config)
    assert first.status.value == "changed", first
    assert first.release is not None
    locked = {spec.name: spec for spec in locked_specs(Paths(prefix).release(first.release) / "spack.lock")}
    assert (locked["openmpi"].version, locked["openmpi"].external) == ("5.0.6", True)
    core = next((Paths(prefix).current / "modules").iterdir()) / "Core"
    assert f"{prefix}/opt/amazon/openmpi5/bin" in (core / "openmpi" / "5.0.6.lua").read_text()

    second = bootstrap(prefix, config)
    assert second.release == first.release
    assert {step.outcome for step in second.steps} <= {Outcome.OK, Outcome.SKIPPED}
    images.slurm(prefix / "opt/slurm", "0x180508")
    assert bootstrap(prefix, config).release != first.release


def test_an_external_without_a_recipe_is_ignored(full_recipes: Path, unpacked_clingo: Path, tmp_path: Path) -> None:
    """A site's subset of the recipes without Slurm, and with an Open MPI without variants."""
    recipes.subset(full_recipes, tmp_path / "tree", ("libsigsegv",))
    repository = tmp_path / "tree" / "repos" / "spack_repo" / "builtin"
    prefix = Path("/opt/nowhere")
    names = {"slurm": "slurm@24.05.7 +pmix", "openmpi": "openmpi@4.1.7 fabrics=ofi"}
    externals = tuple(External(name, spec, str(prefix), prefix) for name, spec in names.items())
    places = Places(tmp_path / "store", tmp_path / "modules", repository, tmp_path / "scratch")
    program = SpackInstall("1.1.1", spack_tree("1.1.1"), repository, unpacked_clingo)
    site = Site(find_compiler(System()), "x86_64_v3", {}, HOST, externals)
    write_scope(tmp_path / "scope", places, site, program.family)
    spack = Spack(
        System(), program, places, tmp_path / "scope", tmp_path / "environment", tmp_path / "log", lambda _: None
    )
    spack.write_environment(["libsigsegv"], {})
    spack.concretize()
    assert spack.lockfile.is_file()
