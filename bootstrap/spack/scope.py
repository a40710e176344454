"""The configuration scope that every Spack command of ours gets with ``-C``: all lists pinned, nothing inherited.

``-C`` wins over an environment's own spack.yaml (run with 0.23.0 and 1.1.1), ``key::`` replaces what lower scopes say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpackError
from ..files import make_dir, write_atomic
from ..model import External
from ..system import System
from .externals import as_packages


@dataclass(frozen=True)
class Compiler:
    """The system's GCC: version, and the full path of the driver for each language that is there."""

    version: str
    drivers: Mapping[str, str]

    @property
    def spec(self) -> str:
        return f"gcc@{self.version}"


@dataclass(frozen=True)
class Places:
    """Where Spack works. Stage and caches are on local disk, store and module tree are part of the root."""

    store: Path
    modules: Path
    recipes: Path
    scratch: Path


@dataclass(frozen=True)
class Site:
    """What this cluster and its configuration decide about every build."""

    compiler: Compiler
    target: str
    mirrors: Mapping[str, str]
    externals: tuple[External, ...] = ()


def find_compiler(system: System) -> Compiler:
    """The GCC in the PATH.

    Raises:
        SpackError: ``spack-no-compiler``.
    """
    names = {"c": "gcc", "cxx": "g++", "fortran": "gfortran"}
    drivers = {language: path for language, name in names.items() if (path := system.which(name))}
    if "c" not in drivers or "cxx" not in drivers:
        raise SpackError(
            "no C and C++ compiler is installed on this node",
            why="Spack builds with the system's gcc and g++",
            remedy=("dnf install gcc gcc-c++ gcc-gfortran make", "apt-get install gcc g++ gfortran make"),
            code="spack-no-compiler",
        )
    version = system.run([drivers["c"], "-dumpfullversion", "-dumpversion"], timeout=30).stdout.strip()
    return Compiler(version, drivers)


def write_scope(directory: Path, places: Places, site: Site) -> None:
    """Writes the scope for Spack 1.1."""
    make_dir(directory)
    for name, content in _sections(places, site).items():
        write_atomic(directory / f"{name}.yaml", as_yaml(content))


def as_yaml(document: Mapping[str, Any]) -> bytes:
    """A document for Spack: JSON, which YAML reads but for two things, and those are escaped as only YAML does.

    JSON's surrogate pairs are two characters to YAML, and DEL and its like must not stand there (YAML 1.1, 5.1).
    """
    import json

    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    plain = (
        character if " " <= character <= "~" or character == "\n" else f"\\U{ord(character):08x}" for character in text
    )
    return "".join(plain).encode() + b"\n"


def _sections(places: Places, site: Site) -> dict[str, Any]:
    return {
        "config": {"config": _config(places)},
        "bootstrap": {
            "bootstrap": {
                "enable": False,
                "root": str(places.scratch / "bootstrap"),
                "sources:": [],
                "trusted:": {},
            }
        },
        "mirrors": {"mirrors:": {name: _mirror(url) for name, url in site.mirrors.items()}},
        "repos": {"repos:": {"builtin": str(places.recipes)}},
        "packages": {"packages": _packages(site)},
        "compilers": {"compilers:": []},
        "concretizer": {"concretizer": {"reuse": False, "unify": True, "targets": {"host_compatible": False}}},
        "modules": {"modules": {"default": _modules(places, site)}},
    }


def _config(places: Places) -> dict[str, Any]:
    return {
        "install_tree": {
            "root": str(places.store),
            "projections": {
                "all": "{architecture.platform}-{architecture.os}-{architecture.target}/{name}-{version}-{hash:7}"
            },
        },
        "build_stage:": [str(places.scratch / "stage")],
        "checksum": True,
        "source_cache": str(places.scratch / "sources"),
        "misc_cache": str(places.scratch / "misc"),
        "test_stage": str(places.scratch / "test"),
        "db_lock_timeout": 120,
        "install_status": False,
    }


def _mirror(url: str) -> dict[str, Any]:
    return {"url": url if "://" in url else f"file://{url}", "source": True, "binary": False}


def _packages(site: Site) -> dict[str, Any]:
    compiler = site.compiler
    languages = [name for name in ("c", "c++", "fortran") if _driver_key(name) in compiler.drivers]
    external = {
        "spec": f"{compiler.spec} languages='{','.join(languages)}'",
        "prefix": "/usr",
        "extra_attributes": {"compilers": dict(compiler.drivers)},
    }
    return {
        "all": {"require": [f"target={site.target}"], "permissions": {"read": "world", "write": "user"}},
        "gcc": {"externals": [external]},
        **as_packages(site.externals),
    }


def _driver_key(language: str) -> str:
    return "cxx" if language == "c++" else language


def _modules(places: Places, site: Site) -> dict[str, Any]:
    compiler = site.compiler
    of_system = [external.spec for external in site.externals if external.place.startswith("/usr")]
    return {
        "enable:": ["lmod"],
        "roots": {"lmod": str(places.modules)},
        "arch_folder": False,
        "lmod": {
            "core_compilers:": [compiler.spec],
            "hierarchy:": ["mpi"],
            "hide_implicits": True,
            "hash_length": 0,
            "exclude:": ["glibc", "gcc-runtime", "compiler-wrapper", compiler.spec, *of_system],
            "all": {"autoload": "run", "environment": {"set": {"{name}_ROOT": "{prefix}"}}},
        },
    }


def scope_digest_inputs(compiler: Compiler | None, externals: Iterable[External]) -> dict[str, Any]:
    """What of the system goes into a release's id: another compiler makes other binaries, another Slurm too."""
    carried = sorted([external.spec, external.place] for external in externals)
    if compiler is None:
        return {"compiler": None, "externals": carried}
    return {"compiler": compiler.spec, "languages": sorted(compiler.drivers), "externals": carried}
