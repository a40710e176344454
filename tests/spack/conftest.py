"""Real Spack under --root, from PETAL_SPACK_CACHE. Without it these tests are skipped."""

from __future__ import annotations

import os
import shutil
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootstrap.host.files import sha256_of
from tests.gpg import key, other
from tests.lab import recipes as subsets
from tests.lab import sources, stack
from tests.lab.engine import LabError
from tests.lab.recipes import IN_SPACK, PACKAGES, Layout
from tests.s3 import s3
from tests.world import lmod_of_this_machine

__all__ = ["key", "other", "s3"]

KEPT = ("libsigsegv",)
VERSIONS = ("1.1.1", "0.23.0")
RECIPE = '''\
import os

{imports}from spack.package import *


class Probe(Package):
    """Compiles one file."""

    has_code = False
    version("2")
    version("1")
    depends_on("c", type="build")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("main.c", "w") as stream:
            stream.write("int main(void) {{ return 0; }}\\n")
        Executable(os.environ["CC"])("main.c", "-o", join_path(prefix.bin, "probe"))
'''


def spack_tree(version: str) -> Path:
    """Return an unpacked release of Spack."""
    tree = stack.spack_cache() / f"spack-{version}"
    if not tree.is_dir():
        pytest.skip(f"Spack {version} is not in {tree.parent} (make spack)")
    if not shutil.which("g++"):
        pytest.skip("g++, which Spack needs, is not installed")
    if lmod_of_this_machine() is None:
        pytest.skip("Lmod, which a complete release needs, is not installed")
    return tree


@pytest.fixture
def version() -> str:
    """The version of Spack for tests that do not set one; tests of both families are parametrized with it."""
    return VERSIONS[0]


@pytest.fixture(scope="session")
def full_recipes() -> Path:
    tree = stack.spack_cache() / stack.RECIPES
    if not tree.is_dir():
        pytest.skip(f"{tree.name} is not in {tree.parent} (make spack)")
    return tree


@pytest.fixture(scope="session")
def small_recipes(full_recipes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tarball with the real recipe of libsigsegv and few others."""
    place = tmp_path_factory.mktemp("recipes")
    subsets.subset(full_recipes, place / "tree", KEPT)
    subsets.pack(place / "tree", place / "recipes.tar.gz")
    return place / "recipes.tar.gz"


@pytest.fixture(scope="session")
def clingo() -> list[Path]:
    """clingo's wheels for this Python, from PyPI or the cache."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    try:
        return stack.clingo_wheels(version, os.uname().machine)
    except LabError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mirror() -> Path:
    """A source mirror with Debian's tarball of libsigsegv, which has the recipe's checksum."""
    try:
        return sources.mirror("libsigsegv")
    except sources.SourceError as error:
        pytest.skip(f"the source of libsigsegv cannot be fetched: {error}")


@pytest.fixture
def spack_archive(version: str) -> Path:
    return packed(version)


@dataclass(frozen=True)
class Site:
    """A site's Spack: directories that are used in place, with a slow recipe of the site."""

    tree: Path
    config: str
    layout: Layout
    repository: Path

    def add(self, package: str, recipe: str, **values: object) -> None:
        """Add a recipe, or replace the one of the same package."""
        path = self.layout.recipe(self.repository, package)
        path.parent.mkdir(exist_ok=True)
        path.write_text(recipe.format(imports=self.layout.imports, **values))


@pytest.fixture
def sites(clingo: list[Path], request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Site]:
    """Create the site of a version."""
    return lambda version: make_site(version, tmp_path, clingo, request)


def make_site(version: str, place: Path, clingo: list[Path], request: pytest.FixtureRequest) -> Site:
    """Unpack the site of a version below ``place``."""
    wheels = ", ".join(f"{{source: {path}, sha256: {sha256_of(path)}}}" for path in clingo)
    tree = recipes = unpacked(packed(version), place / version)
    layout, more = IN_SPACK, ""
    if version != "0.23.0":
        recipes, layout = unpacked(request.getfixturevalue("small_recipes"), place / "recipes"), PACKAGES
        more = f"  recipes: {{source: {recipes}}}\n"
    text = f"spack:\n  version: {version}\n  source: {tree}\n  clingo: [{wheels}]\n{more}  specs: [probe]\n"
    site = Site(tree, text, layout, recipes / layout.repository)
    site.add("probe", RECIPE)
    return site


def packed(version: str) -> Path:
    """Spack as a tarball, with few recipes if it contains recipes."""
    spack_tree(version)
    return stack.packed_spack() if version == "1.1.1" else stack.packed_old_spack(*KEPT)


def unpacked(archive: Path, place: Path) -> Path:
    """Unpack a tarball and return its only top directory."""
    with tarfile.open(archive) as tar:
        tar.extractall(place)
    (top,) = place.iterdir()
    return top


@pytest.fixture
def recipes_key(version: str, request: pytest.FixtureRequest) -> str:
    """The key ``recipes`` of a configuration, empty if Spack contains recipes."""
    if version == "0.23.0":
        return ""
    small: Path = request.getfixturevalue("small_recipes")
    return f"  recipes: {{source: {small}, sha256: {sha256_of(small)}}}\n"


@pytest.fixture
def config_text(
    version: str, spack_archive: Path, recipes_key: str, clingo: list[Path], mirror: Path, tmp_path: Path
) -> str:
    """A stack of one package that Spack really builds."""
    environment = tmp_path / "spack.yaml"
    environment.write_text(
        "spack:\n  specs: [libsigsegv@2.14]\n"
        "  packages: {gmake: {externals: [{spec: gmake@4.3, prefix: /usr}], buildable: false}}\n"
    )
    wheels = ", ".join(f"{{source: {path}, sha256: {sha256_of(path)}}}" for path in clingo)
    return (
        f"stack: {environment}\n"
        f"spack:\n  version: {version}\n  source: {spack_archive}\n  sha256: {sha256_of(spack_archive)}\n{recipes_key}"
        f"  clingo: [{wheels}]\n  mirrors: {{debian: {mirror}}}\n"
    )


def manifests(store: Path) -> dict[Path, int]:
    """The install times of all complete packages."""
    return {path: path.stat().st_mtime_ns for path in store.glob("linux-*/*/.spack/install_manifest.json")}
