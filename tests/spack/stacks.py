"""The stacks of ``spack_envs/``, concretized as in an install, and the record in ``stacks.json``.

``tests/spack/record_stacks.py`` (``make stacks``) writes the record. tests/unit/test_stacks.py verifies quickly that
the files still match the record; one stack is solved in each run of the tests.
"""

from __future__ import annotations

import hashlib
import json
import resource
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bootstrap.config.model import Config
from bootstrap.core import resources
from bootstrap.core.facts import Host
from bootstrap.core.paths import Paths
from bootstrap.host.system import System
from bootstrap.spack import environments
from bootstrap.spack.driver import Spack
from bootstrap.spack.externals import find_compiler, find_externals, unconfigured
from bootstrap.spack.lockfile import locked_specs
from bootstrap.spack.program import SpackInstall
from bootstrap.spack.scope import Places, Site, write_scope
from tests import images
from tests.lab import stack as cache

RECORD = Path(__file__).with_name("stacks.json")
RECIPES = "repos/spack_repo/builtin"
# Replaces the machine that Python gets from the kernel: recipes and archspec see this machine.
OTHER_MACHINE = """\
import os

_kernels = os.uname
os.uname = lambda: os.uname_result((*_kernels()[:4], "{machine}"))
"""


@dataclass(frozen=True)
class Case:
    """The conditions under which a stack is solved.

    Args:
        image: on a ParallelCluster image with all externals, else on one without any.
    """

    target: str
    machine: str
    image: bool

    @property
    def name(self) -> str:
        return f"{self.target}, {'ParallelCluster image' if self.image else 'plain machine'}"


CASES = (Case("x86_64_v3", "x86_64", True), Case("x86_64_v3", "x86_64", False), Case("neoverse_v1", "aarch64", True))


@dataclass(frozen=True)
class Solved:
    """A stack that Spack has solved.

    Args:
        roots: the requested packages with their versions.
        built: the number of packages that an install builds.
        externals: the packages of the machine that are used.
        seconds: wall-clock time of Spack's command.
        mib: the largest resident set of any process.
    """

    roots: Mapping[str, str]
    built: int
    externals: Sequence[str]
    seconds: float
    mib: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def shipped() -> tuple[str, ...]:
    """Every stack of spack_envs/."""
    return tuple(sorted(path.parent.name for path in resources.path("spack_envs").glob("*/spack.yaml")))


def environment(name: str) -> Mapping[str, Any]:
    """The part of a stack's file that affects its solution."""
    return environments.load(Config(stack=name), Path("/nowhere"), None)


def digest(name: str) -> str:
    """A digest of the stack without comments, of Spack and of the recipes: the record is valid for this digest."""
    asked = json.dumps([environment(name), cache.SPACK, cache.RECIPES], sort_keys=True)
    return hashlib.sha256(asked.encode()).hexdigest()


def solve(
    name: str, case: Case, place: Path, wheels: Sequence[Path], scratch: Path, only: frozenset[str] = frozenset()
) -> Solved:
    """Solve a stack with real Spack, all recipes and the scope of an install.

    Args:
        only: solve only the stack's specs of these packages, else all specs.
        place: an empty directory for the node, its store and the environment.
        scratch: Spack's caches; existing ones are used.

    Raises:
        SpackError: ``spack-concretize``.
    """
    spack = _spack(name, case, place, wheels, scratch, only)
    started = time.monotonic()
    spack.concretize()
    seconds = time.monotonic() - started
    mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    locked = locked_specs(spack.lockfile)
    return Solved(
        roots={spec.name: spec.version for spec in locked if spec.explicit},
        built=sum(not spec.external for spec in locked),
        externals=sorted(f"{spec.name}@{spec.version}" for spec in locked if spec.external),
        seconds=round(seconds, 1),
        mib=mib,
    )


def checked(name: str, place: Path, scratch: Path, specs: Sequence[str] = ()) -> dict[str, Any]:
    """The reports of real Spack with all recipes about a stack's or other specs, on an image."""
    spack = _spack(name, CASES[0], place, (), scratch, frozenset())
    if specs:
        spack.write_environment(specs, {})
    return spack.check_specs()


def _spack(name: str, case: Case, place: Path, wheels: Sequence[Path], scratch: Path, only: frozenset[str]) -> Spack:
    system, asked = System(), environment(name)
    recipes = cache.spack_cache() / cache.RECIPES / RECIPES
    program = SpackInstall("1.1.1", cache.spack_cache() / cache.SPACK, recipes, _python_path(case, place, wheels))
    places = Places(place / "store", place / "modules", recipes, scratch)
    site = _site(case, place / "node", system, asked)
    write_scope(place / "scope", places, site, program.family)
    spack = Spack(system, program, places, place / "scope", place / "environment", place / "log", lambda _: None)
    specs = [spec for spec in asked["specs"] if not only or str(spec).partition("@")[0] in only]
    spack.write_environment(specs, {key: value for key, value in asked.items() if key != "specs"})
    return spack


def _site(case: Case, node: Path, system: System, asked: Mapping[str, Any]) -> Site:
    if case.image:
        images.parallelcluster(node)
    externals = unconfigured(find_externals(Paths(node), system), asked)
    host = Host("head", "debian12", "2.36", case.machine, case.target, 2, 8 << 30, "boot-1")
    return Site(find_compiler(system), case.target, {}, host, externals)


def _python_path(case: Case, place: Path, wheels: Sequence[Path]) -> Path:
    """The path of clingo, and of the module that emulates another machine."""
    import platform

    directory = place / "python"
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(directory)
    if case.machine != platform.machine():
        (directory / "sitecustomize.py").write_text(OTHER_MACHINE.format(machine=case.machine))
    return directory


def recorded() -> dict[str, Any]:
    """The record in the repository."""
    found: dict[str, Any] = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else {}
    return found
