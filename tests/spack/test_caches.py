"""Real Spack of both families: what one cluster has built, another one takes from a build cache and builds nothing.

Both have the same root, as all clusters do: the first one's tree is moved away before the second one begins.
"""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from bootstrap.model import Outcome, RunRecord, Status
from bootstrap.paths import Paths
from tests.gpg import Key, made_key
from tests.lab.recipes import IN_SPACK, PACKAGES
from tests.spack.conftest import Site
from tests.spack.test_spack import bootstrap, steps, store_of

VERSIONS = ("1.1.1", "0.23.0")
BUILT = ("cachedlib", "cachedapp")
LIBRARY = """
        if os.path.exists("{switch}"):
            raise InstallError("this package is not to be built again")
        mkdirp(prefix.lib)
        with open("lib.c", "w") as stream:
            stream.write('const char *place(void) {{ return "' + str(prefix) + '"; }}')
        Executable(spack_cc)("-shared", "-fPIC", "lib.c", "-o", join_path(prefix.lib, "libplace.so"))
"""
PROGRAM = """
        if os.path.exists("{switch}"):
            raise InstallError("this package is not to be built again")
        library = spec["cachedlib"].prefix
        mkdirp(prefix.bin)
        with open("app.c", "w") as stream:
            stream.write("#include <stdio.h>\\nconst char *place(void);int main(void) {{ puts(place()); return 0; }}")
        Executable(spack_cc)("app.c", "-L" + library.lib, "-lplace", "-o", join_path(prefix.bin, "app"))
        with open(join_path(prefix.bin, "script"), "w") as stream:
            stream.write("#!/bin/sh\\nexec " + str(prefix.bin.app) + "\\n")
        os.symlink(str(library.lib), join_path(prefix, "linked"))
"""
RECIPE = """import os

{imports}from spack.package import *


class {name}(Package):
    has_code = False
    version("1")
    depends_on("c", type="build")
    {needs}

    def install(self, spec, prefix):{body}"""


@dataclass(frozen=True)
class Stack:
    """A program and a library that it is linked with; while ``switch`` is there, neither can be built."""

    version: str
    config: str
    switch: Path


@pytest.fixture
def built(version: str, sites: Callable[[str], Site], tmp_path: Path) -> Stack:
    switch = tmp_path / "broken"
    site = sites(version)
    layout = PACKAGES if version != "0.23.0" else IN_SPACK
    packages = next(tmp_path.rglob("packages/probe/package.py")).parents[1]
    for name, body, needs in (("cachedlib", LIBRARY, ""), ("cachedapp", PROGRAM, 'depends_on("cachedlib")')):
        recipe = packages / name / "package.py"
        recipe.parent.mkdir()
        values = {"imports": layout.imports, "name": name.title(), "needs": needs}
        recipe.write_text(RECIPE.format(**values, body=body.format(switch=switch)))
    return Stack(version, site.config.replace("specs: [probe]", "specs: [cachedapp]"), switch)


@pytest.fixture(scope="session")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return made_key(tmp_path_factory.mktemp("k"), "site")


def signed(url: object, key: Key, *, push: bool = True) -> str:
    sign = f", push: true, signing_key: {{source: {key.secret}}}" if push else ""
    return f"  mirrors: {{site: {{url: {url}, keys: [{{source: {key.public}}}]{sign}}}}}\n"


def unsigned(url: object, *, push: bool = True) -> str:
    return f"  mirrors: {{site: {{url: {url}, signed: false, push: {str(push).lower()}}}}}\n"


def build_first(built: Stack, mirror: str, tmp_path: Path) -> Path:
    """The first cluster builds and pushes; its tree as it is then, moved away."""
    prefix = tmp_path / "head"
    record = bootstrap(prefix, built.config + mirror)
    assert record.status is Status.CHANGED, record
    assert steps(record)["cache"].outcome is Outcome.CHANGED
    again = bootstrap(prefix, built.config + mirror)
    assert again.status is Status.OK, again
    prefix.rename(tmp_path / "first")
    return tmp_path / "first"


def contents(store: Path) -> dict[str, str]:
    """Every file of the packages, by its place in the store, and every link."""
    found = {}
    for path in (path for package in store.glob("linux-*/cached*") for path in package.rglob("*")):
        name = str(path.relative_to(store))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def phases(prefix: Path) -> str:
    """What Spack said in the runs below a prefix."""
    return "".join(path.read_text() for path in Paths(prefix).log.parent.rglob("spack-*.log"))


def assert_nothing_was_built(record: RunRecord, built: Stack, prefix: Path) -> None:
    assert record.status is Status.CHANGED, record
    assert steps(record)["spack"].outcome is Outcome.CHANGED, steps(record)["spack"]
    assert "Executing phase" not in phases(prefix)
    program = next(store_of(prefix, built.version).glob("linux-*/cachedapp-1-*/bin/app"))
    library = next(store_of(prefix, built.version).glob("linux-*/cachedlib-1-*"))
    assert subprocess.run([program], check=True, capture_output=True, text=True).stdout == f"{library}\n"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_second_cluster_builds_nothing_and_nothing_is_relocated(built: Stack, key: Key, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    first = build_first(built, signed(cache, key), tmp_path)
    built.switch.touch()
    prefix, notes = tmp_path / "head", []
    record = bootstrap(prefix, built.config + signed(cache, key), notes)
    assert_nothing_was_built(record, built, prefix)
    assert "from a build cache" in steps(record)["spack"].reason
    before, after = contents(store_of(first, built.version)), contents(store_of(prefix, built.version))
    added = {name for name in after if name not in before}
    assert {Path(name).name for name in added} <= {"binary_distribution"}
    assert {name: after[name] for name in before} == before
    assert not list(Paths(prefix).scratch.rglob("pulled")), "what was taken is left on the disk"
