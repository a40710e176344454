"""Everything that differs between versions of Spack: one adapter for each family of versions.

``config.model.SPACK_VERSIONS`` gives the family of each version. Each difference was read in the sources of 0.23.0 and
1.1.1, and tests/spack run both.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..core.facts import Host
from .cache.entries import V2, V3, Layout
from .externals import Compiler


class Family(ABC):
    """The adapter of one family.

    Args:
        repository: the repository of recipes, in Spack's own tree (0.23) or in the tree of the recipes.
        recipes_from: the project below github.com/spack whose releases contain the recipes.
        defaults: the directories of Spack's own defaults in its tree, the weakest first.
        store: the install tree below the root. 0.23 cannot read a database of 1.1 (version 8), and 1.1 reads one of
            0.23 (version 7) only after a migration that takes it away from 0.23: each family has its own.
        sections: the sections of configuration that affect a build, each with an empty value.
        cache_layout: the layout of the build caches that it writes and reads.
        newest_python: the newest Python that it supports.
        newest_api: the newest package API of recipes that it reads (lib/spack/spack/__init__.py).
        parallel: ``spack install`` has ``-p N``, the number of packages that are built at once.
        bootstraps_from: the sources of clingo in Spack's defaults that are binaries. Their checksums are in its tree.
    """

    repository: PurePosixPath
    recipes_from: str
    defaults: tuple[PurePosixPath, ...]
    store: str
    sections: Mapping[str, Any]
    cache_layout: Layout
    newest_python: tuple[int, int]
    newest_api: tuple[int, int]
    parallel: bool
    bootstraps_from: tuple[str, ...]

    @abstractmethod
    def repos(self, recipes: Path) -> Any:
        """The section ``repos``: this repository and no other."""

    def compilers(self, compiler: Compiler, host: Host) -> list[Any]:  # noqa: ARG002 - for a family that has them
        """The section ``compilers``."""
        return []

    def externals(self, compiler: Compiler) -> dict[str, Any]:  # noqa: ARG002 - the same
        """The system's compiler in the section ``packages``."""
        return {}

    def hidden(self, compiler: Compiler) -> list[str]:  # noqa: ARG002 - a gcc in the store was asked for
        """Installed specs that get no module: the system's, and the runtime packages that Spack adds to a compiler."""
        return ["glibc", "gcc-runtime"]


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
    """0.23: compilers have a section of their own, and Spack contains the recipes."""

    repository = PurePosixPath("var/spack/repos/builtin")
    recipes_from = "spack"
    defaults = (PurePosixPath("etc/spack/defaults"), PurePosixPath("etc/spack/defaults/linux"))
    store = "store-0.23"
    sections: Mapping[str, Any] = {**SECTIONS, "repos": []}
    cache_layout = V2()
    newest_python = (3, 13)
    newest_api = (1, 0)
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


class V11(Family):
    """1.1: a compiler is an external package, and the recipes have a repository of their own."""

    repository = PurePosixPath("repos/spack_repo/builtin")
    recipes_from = "spack-packages"
    defaults = (PurePosixPath("etc/spack/defaults/base"), PurePosixPath("etc/spack/defaults/linux"))
    store = "store"
    sections: Mapping[str, Any] = {**SECTIONS, "repos": {}, "toolchains": {}}
    cache_layout = V3()
    newest_python = (3, 14)
    newest_api = (2, 4)
    parallel = True
    bootstraps_from = ("github-actions-v2", "github-actions-v0.6")

    def repos(self, recipes: Path) -> Any:
        return {"builtin": str(recipes)}

    def externals(self, compiler: Compiler) -> dict[str, Any]:
        languages = [language for language, name in _LANGUAGES_11.items() if name in compiler.drivers]
        external = {
            "spec": f"{compiler.spec} languages='{','.join(languages)}'",
            "prefix": "/usr",
            "extra_attributes": {"compilers": dict(compiler.drivers)},
        }
        return {"gcc": {"externals": [external]}}

    def hidden(self, compiler: Compiler) -> list[str]:
        return [*super().hidden(compiler), "compiler-wrapper", compiler.spec]


_DRIVERS_023 = {"cc": "c", "cxx": "cxx", "f77": "fortran", "fc": "fortran"}
_LANGUAGES_11 = {"c": "c", "c++": "cxx", "fortran": "fortran"}
FAMILIES: Mapping[str, Family] = {"0.23": V023(), "1.1": V11()}
