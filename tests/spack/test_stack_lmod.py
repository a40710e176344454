"""Real Spack of both families relocates the stack's Lmod to its path on every node; its packages are tiny ones.

Lmod itself, built from its real recipe, is in tests/lab/test_stack_lmod.py.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.core.model import Outcome, Status
from bootstrap.core.paths import Paths
from bootstrap.host.system import System
from bootstrap.lmod.find import unpacked_lmod
from tests.spack.conftest import Site
from tests.spack.test_spack import BOTH, bootstrap, steps

LUA = '''\
import os

{imports}from spack.package import *


class Lua(Package):
    """A program that says where it was installed, and what built it: libcrypto, which curl brings, does that too.

    The wrapper of Spack 1.1 lies in the store, and no copy has it: its path must not become longer.
    """

    has_code = False
    version("5.4.4")
    depends_on("c", type="build")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("main.c", "w") as stream:
            stream.write("#include <stdio.h>\\n")
            stream.write('const char *built_with = "compiler: %s";\\n' % os.environ["CC"])
            stream.write('int main(void) {{ puts("Version 8.7.1 of %s"); return 0; }}\\n' % prefix)
        Executable(os.environ["CC"])("main.c", "-o", join_path(prefix.bin, "lua"))
        os.symlink(prefix.bin.lua, join_path(prefix.bin, "lua5.4"))
'''
LMOD = '''\
import os

{imports}from spack.package import *


class Lmod(Package):
    """Its shape, and its prefix in texts as Lmod's has it."""

    has_code = False
    version("8.7.1")
    depends_on("lua")

    def install(self, spec, prefix):
        place = join_path(prefix, "lmod", "8.7.1")
        mkdirp(join_path(place, "libexec"), join_path(place, "init"))
        os.symlink("8.7.1", join_path(prefix, "lmod", "lmod"))
        program = join_path(place, "libexec", "lmod")
        with open(program, "w") as stream:
            stream.write("#!%s\\n" % spec["lua"].prefix.bin.lua)
        set_executable(program)
        program = join_path(place, "libexec", "update_lmod_system_cache_files")
        with open(program, "w") as stream:
            stream.write("#!/bin/sh\\ntouch $4 $2/spiderT.lua\\n")
        set_executable(program)
        with open(join_path(place, "init", "bash"), "w") as stream:
            stream.write("export LMOD_PKG=%s\\n" % join_path(prefix, "lmod", "lmod"))
'''


@pytest.fixture
def sites_without_lmod(sites: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Site]:
    """Sites with recipes of Lmod and Lua, on an image without Lmod; the Lmod of this machine is hidden."""

    def made(version: str) -> Site:
        site = sites(version)
        monkeypatch.setattr("bootstrap.lmod.find.PLACES", ())  # after the fixture has found this machine's Lmod
        site.add("lua", LUA)
        site.add("lmod", LMOD)
        return site

    return made


@pytest.fixture
def prefix() -> Iterator[Path]:
    """A node with short paths like a real one: Spack's sbang would replace a script's long first line."""
    with tempfile.TemporaryDirectory(prefix="petal-") as name:
        yield Path(name, "node")


@BOTH
def test_a_copy_of_lmod_runs_without_the_store(
    version: str, sites_without_lmod: Callable[[str], Site], prefix: Path
) -> None:
    config = f"{sites_without_lmod(version).config}modules: {{lmod: stack}}\n"
    done = steps(bootstrap(prefix, config))
    assert done["lmod-pack"].outcome is done["lmod"].outcome is done["shell"].outcome is Outcome.CHANGED, done
    paths = Paths(prefix)
    (tree,) = (paths.current / "modules").iterdir()
    assert not (tree / "Core" / "lmod").exists()

    store = prefix / "shared" / "petal" / "root"
    store.rename(store.with_name("away"))
    lmod = unpacked_lmod(System(), paths)
    assert lmod is not None
    assert (lmod.version, lmod.problem) == ("8.7.1", "")
    output = subprocess.run([lmod.place / "libexec" / "lmod"], capture_output=True, text=True, check=True).stdout
    (lua,) = paths.lmod_in_use.resolve().glob("lua-*")
    assert output.startswith("Version 8.7.1 of /")  # Spack pads the path with slashes to its old length
    assert Path(output.split()[-1]).samefile(lua)
    assert (lua / "bin" / "lua5.4").readlink() == Path("lua")
    assert (lmod.place / "init" / "bash").read_text() == f"export LMOD_PKG={lmod.place}\n"
    away = [path for path in lua.parent.rglob("*") if path.is_file() and b"/opt/petal/" in path.read_bytes()]
    assert away == []
    assert {path.name for path in paths.home.iterdir()} == {"init", "lmod"}
    store.with_name("away").rename(store)

    again = bootstrap(prefix, config)
    assert {step.outcome for step in again.steps} <= {Outcome.OK, Outcome.SKIPPED}, again


def test_the_next_release_packs_the_same_archive_without_building(
    sites_without_lmod: Callable[[str], Site], prefix: Path
) -> None:
    config = f"{sites_without_lmod('1.1.1').config}modules: {{lmod: stack}}\n"
    bootstrap(prefix, config)
    copy = Paths(prefix).lmod_in_use.resolve()
    moment = copy.stat().st_mtime_ns
    done = steps(bootstrap(prefix, config.replace("specs: [probe]", "specs: [probe@1]")))
    assert (done["lmod-pack"].outcome, done["lmod"].outcome) == (Outcome.CHANGED, Outcome.OK)
    assert (Paths(prefix).lmod_in_use.resolve(), copy.stat().st_mtime_ns) == (copy, moment)
    first, second = (archive.name for archive in Paths(prefix).releases.glob("*/lmod/*/*.tar.gz"))
    assert first == second


def cannot_be_built(site: Site) -> None:
    begin = "def install(self, spec, prefix):\n"
    site.add("lua", LUA.replace(begin, f"{begin}        raise InstallError('no source')\n"))


def cannot_be_solved(site: Site) -> None:
    site.add("lmod", LMOD.replace('depends_on("lua")', 'depends_on("lua@1")'))


def has_no_recipe(site: Site) -> None:
    shutil.rmtree(site.layout.recipe(site.repository, "lmod").parent)


@pytest.mark.parametrize(
    ("version", "fails"),
    [("1.1.1", cannot_be_built), ("1.1.1", has_no_recipe), ("0.23.0", cannot_be_solved)],
)
def test_an_lmod_that_cannot_be_built_does_not_block_the_stack(
    version: str, fails: Callable[[Site], None], sites_without_lmod: Callable[[str], Site], tmp_path: Path
) -> None:
    """Lmod was added automatically: all packages of the configuration are built and published."""
    site = sites_without_lmod(version)
    fails(site)
    record = bootstrap(tmp_path / "node", f"{site.config}modules: {{lmod: stack}}\n")
    done = steps(record)
    assert record.status is Status.DEGRADED, done
    assert (done["publish"].outcome, done["lmod"].outcome) == (Outcome.CHANGED, Outcome.BLOCKED), done
    assert done["spack"].outcome in (Outcome.CHANGED, Outcome.OK), done["spack"]
    tree = next((Paths(tmp_path / "node").current / "modules").iterdir())
    assert (tree / "Core" / "probe").is_dir()
