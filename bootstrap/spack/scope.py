"""The configuration scope that petal-node passes to every Spack command with ``-C``. It inherits nothing.

``-C`` wins over an environment's own spack.yaml (run with 0.23.0 and 1.1.1); ``key::`` replaces weaker scopes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config.model import LMOD
from ..core.facts import External, Host
from ..host.atomic import write_atomic
from ..host.files import make_dir
from .externals import Compiler, as_packages
from .families import Family

NOTHING, STACK = "nothing", "stack"
# Where a package is in a store (config:install_tree:projections). ``database.installed`` builds the same path.
PROJECTION = "{architecture.platform}-{architecture.os}-{architecture.target}/{name}-{version}-{hash:7}"
TEMPLATES, TEMPLATE = "templates", "modules/petal.lua"
PULLED = "-pulled-"  # no name in petal.yaml begins with a dash
LISTS = frozenset({"require", "variants"})  # Spack takes a string for a list of one


@dataclass(frozen=True)
class Places:
    """The directories that Spack uses. ``scratch``, for stage and caches, is on local disk.

    Args:
        templates: a directory with the template of modules; None for Spack's own.
        projection: the path of a package below the store.
    """

    store: Path
    modules: Path
    recipes: Path
    scratch: Path
    templates: Path | None = None
    projection: str = PROJECTION


@dataclass(frozen=True)
class Site:
    """The settings of every build on this cluster.

    Args:
        mirrors: mirrors of sources.
        cuda: the GPUs' compute capabilities.
        bootstraps: Spack may fetch clingo.
        pulled: the only source of binary packages: a directory of verified ones.
    """

    compiler: Compiler
    target: str
    mirrors: Mapping[str, str]
    host: Host
    externals: tuple[External, ...] = ()
    cuda: tuple[str, ...] = ()
    bootstraps: bool = False
    pulled: Path | None = None


def write_scope(directory: Path, places: Places, site: Site, family: Family) -> None:
    """Writes the scope for a Spack of that family, and one that empties every section of the Spack tree.

    ``SPACK_DISABLE_LOCAL_CONFIG`` ignores the user's and the system's configuration only, and 0.23 and 1.1 have no
    switch for ``$spack/etc/spack``. Spack's defaults are read again in a stronger scope.
    """
    make_dir(directory / NOTHING)
    for name, empty in family.sections.items():
        write_atomic(directory / NOTHING / f"{name}.yaml", as_yaml({f"{name}:": empty}))
    for name, content in sections(places, site, family).items():
        write_atomic(directory / f"{name}.yaml", as_yaml(content))


def as_yaml(document: Mapping[str, Any]) -> bytes:
    """A document for Spack: JSON, which is YAML except for characters outside of ASCII and DEL.

    Those are escaped for YAML, where a surrogate pair is two characters and DEL is not allowed (YAML 1.1, 5.1).
    """
    text = json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False)
    plain = (
        character if " " <= character <= "~" or character == "\n" else f"\\U{ord(character):08x}" for character in text
    )
    return "".join(plain).encode() + b"\n"


def with_lists(packages: Any) -> Any:
    """The section ``packages`` of a stack with lists in place of the strings that Spack also accepts.

    Spack joins the lists of two scopes. A string would be replaced by petal-node's list.
    """
    if not isinstance(packages, Mapping):  # Spack reports what is wrong with it
        return packages
    result = dict(packages)  # a key may end with a mark for replacing or joining weaker scopes: ``require::``
    for name, section in packages.items():
        if isinstance(section, Mapping):
            result[name] = {
                key: [value] if isinstance(value, str) and str(key).rstrip(":+-") in LISTS else value
                for key, value in section.items()
            }
    return result


def sections(places: Places, site: Site, family: Family) -> dict[str, Any]:
    """The content of the scope's files, by section: ``<section>.yaml``."""
    return {
        "config": {"config": _config(places)},
        "bootstrap": {"bootstrap": _bootstrap(places, site, family)},
        "mirrors": {"mirrors:": _mirrors(site)},
        "repos": {"repos:": family.repos(places.recipes)},
        "packages": {"packages": _packages(site, family)},
        "compilers": {"compilers:": family.compilers(site.compiler, site.host)},
        "concretizer": {"concretizer": {"reuse": False, "unify": True, "targets": {"host_compatible": False}}},
        "modules": {"modules": {"default": _modules(places, site, family)}},
    }


def _bootstrap(places: Places, site: Site, family: Family) -> dict[str, Any]:
    """Spack fetches nothing; with ``clingo: bootstrap`` only binaries whose checksums are in its own tree."""
    names = family.bootstraps_from if site.bootstraps else ()
    return {
        "enable": bool(names),
        "root": str(places.scratch / "bootstrap"),
        "sources:": [{"name": name, "metadata": f"$spack/share/spack/bootstrap/{name}"} for name in names],
        "trusted:": dict.fromkeys(names, True),
    }


def _config(places: Places) -> dict[str, Any]:
    return {
        "install_tree": {
            "root": str(places.store),
            "projections": {"all": places.projection},
        },
        "build_stage:": [str(places.scratch / "stage")],
        "checksum": True,
        "source_cache": str(places.scratch / "sources"),
        "misc_cache": str(places.scratch / "misc"),
        "test_stage": str(places.scratch / "test"),
        "db_lock_timeout": 120,
        "install_status": False,
        **({"template_dirs:": [str(places.templates), "$spack/share/spack/templates"]} if places.templates else {}),
    }


def _mirrors(site: Site) -> dict[str, Any]:
    mirrors: dict[str, Any] = {}
    for name, url in site.mirrors.items():
        mirrors[name] = {"url": url if "://" in url else f"file://{url}", "source": True, "binary": False}
    if site.pulled is not None:
        mirrors[PULLED] = {"url": f"file://{site.pulled}", "source": False, "binary": True, "signed": False}
    return mirrors


def _packages(site: Site, family: Family) -> dict[str, Any]:
    everything = {
        "require": [f"target={site.target}"],
        "target": [site.target],  # for packages with a requirement of their own, which replaces the one for all
        "permissions": {"read": "world", "write": "user"},
    }
    if site.cuda:  # a preference, which packages without this variant or without CUDA ignore
        everything["variants"] = [f"cuda_arch={','.join(site.cuda)}"]
    return {"all": everything, **family.externals(site.compiler), **as_packages(site.externals)}


def _modules(places: Places, site: Site, family: Family) -> dict[str, Any]:
    of_system = [external.spec for external in site.externals if external.place.startswith("/usr")]
    return {
        "enable:": ["lmod"],
        "roots": {"lmod": str(places.modules)},
        "arch_folder": False,
        "lmod": {
            "core_compilers:": [site.compiler.spec],
            "hierarchy:": ["mpi"],
            "hide_implicits": True,
            "hash_length": 0,
            "exclude:": [*family.hidden(site.compiler), *of_system, LMOD],
            "all": {
                "autoload": "run",
                "environment": {"set": {"{name}_ROOT": "{prefix}"}},
                **({"template": TEMPLATE} if places.templates else {}),
            },
        },
    }


def scope_digest_inputs(compiler: Compiler | None, externals: Iterable[External]) -> dict[str, Any]:
    """The parts of the system that change binaries, for the release's id: the compiler and the externals."""
    carried = sorted([external.spec, external.place] for external in externals)
    if compiler is None:
        return {"compiler": None, "externals": carried}
    return {"compiler": compiler.spec, "languages": sorted(compiler.drivers), "externals": carried}
