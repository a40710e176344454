"""What differs between the Spacks that petal-node runs: one adapter for each family of versions.

Which versions there are, and the family of each, stands in ``config.SPACK_VERSIONS``. What the families share is in
scope (configuration) and driver (commands). Each difference was read in the sources of 0.23.0 and 1.1.1 and is run by
tests/spack.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.facts import Host
from .compiler import Compiler


class Family(ABC):
    """The answers that differ.

    Args:
        repository: the recipes' repository, in Spack's tree where it carries them, else in that of the recipes.
        recipes_from: the upstream repository whose releases hold the recipes.
        defaults: the directories of Spack's own defaults in its tree, the weakest first.
        store: the install tree below the root. 0.23 cannot read a database of 1.1 (version 8), and 1.1 reads one of
            0.23 (version 7) only after a migration that takes it away from 0.23: each family has its own.
        sections: Spack's sections of configuration that reach a build, with what an empty one looks like.
        lockfile_format: the version of spack.lock that it writes, and the newest that it reads.
        newest_python: the newest Python that this Spack runs with.
        parallel: ``spack install`` takes ``-p N``, packages at once.
        bootstraps_from: those sources of clingo in Spack's defaults that are binaries, whose checksums its tree holds.
    """

    repository: PurePosixPath
    recipes_from: str
    defaults: tuple[PurePosixPath, ...]
    store: str
    sections: Mapping[str, Any]
    lockfile_format: int
    newest_python: tuple[int, int]
    parallel: bool
    bootstraps_from: tuple[str, ...]

    @abstractmethod
    def repos(self, recipes: Path) -> Any:
        """The section ``repos``: this repository and no other."""

    @abstractmethod
    def compilers(self, compiler: Compiler, host: Host) -> list[Any]:
        """The section ``compilers``."""

    @abstractmethod
    def externals(self, compiler: Compiler) -> dict[str, Any]:
        """What the section ``packages`` says of the system's compiler."""

    @abstractmethod
    def hidden(self, compiler: Compiler) -> list[str]:
        """Specs that are installed and get no module: the system's, and what Spack puts beside a compiler."""


SECTIONS: Mapping[str, Any] = {
    "bootstrap": {},
    "compilers": [],
    "concretizer": {},
    "config": {},
    "mirrors": {},
    "modules": {},
    "packages": {},
    "upstreams": {},
}


class V023(Family):
    """0.23: compilers have a section of their own, recipes come with Spack."""

    repository = PurePosixPath("var/spack/repos/builtin")
    recipes_from = "spack"
    defaults = (PurePosixPath("etc/spack/defaults"), PurePosixPath("etc/spack/defaults/linux"))
    store = "store-0.23"
    sections: Mapping[str, Any] = {**SECTIONS, "repos": []}
    lockfile_format = 5
    newest_python = (3, 13)
    parallel = False
    bootstraps_from = ("github-actions-v0.6", "github-actions-v0.5")

    def repos(self, recipes: Path) -> Any:
        return [str(recipes)]

    def compilers(self, compiler: Compiler, host: Host) -> list[Any]:
        drivers = {key: compiler.drivers.get(name) for key, name in _DRIVERS_023.items()}
        entry = {
            "spec": f"gcc@={compiler.version}",
            "operating_system": host.os,
            "target": host.machine,
            "modules": [],
            "paths": drivers,
        }
        return [{"compiler": entry}]

    def externals(self, compiler: Compiler) -> dict[str, Any]:  # noqa: ARG002 - a compiler is no package here
        return {}

    def hidden(self, compiler: Compiler) -> list[str]:  # noqa: ARG002 - a gcc that is installed was asked for
        return ["glibc", "gcc-runtime"]


class V11(Family):
    """1.1: a compiler is an external package, recipes are a repository of their own."""

    repository = PurePosixPath("repos/spack_repo/builtin")
    recipes_from = "spack-packages"
    defaults = (PurePosixPath("etc/spack/defaults/base"), PurePosixPath("etc/spack/defaults/linux"))
    store = "store"
    sections: Mapping[str, Any] = {**SECTIONS, "repos": {}, "toolchains": {}}
    lockfile_format = 6
    newest_python = (3, 14)
    parallel = True
    bootstraps_from = ("github-actions-v2", "github-actions-v0.6")

    def repos(self, recipes: Path) -> Any:
        return {"builtin": str(recipes)}

    def compilers(self, compiler: Compiler, host: Host) -> list[Any]:  # noqa: ARG002 - deprecated, and still read
        return []

    def externals(self, compiler: Compiler) -> dict[str, Any]:
        languages = [language for language, name in _LANGUAGES_11.items() if name in compiler.drivers]
        external = {
            "spec": f"{compiler.spec} languages='{','.join(languages)}'",
            "prefix": "/usr",
            "extra_attributes": {"compilers": dict(compiler.drivers)},
        }
        return {"gcc": {"externals": [external]}}

    def hidden(self, compiler: Compiler) -> list[str]:
        return ["glibc", "gcc-runtime", "compiler-wrapper", compiler.spec]


_DRIVERS_023 = {"cc": "c", "cxx": "cxx", "f77": "fortran", "fc": "fortran"}
_LANGUAGES_11 = {"c": "c", "c++": "cxx", "fortran": "fortran"}
FAMILIES: Mapping[str, Family] = {"0.23": V023(), "1.1": V11()}
