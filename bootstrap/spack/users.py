"""Spack for the cluster's users: the site's program and recipes, the release as upstream, a store of their own.

A release contains a configuration scope, which Spack reads as the system's (``SPACK_SYSTEM_CONFIG_PATH``), so
``~/.spack`` wins over it; a Python that finds clingo; and the module that refers to both. They do not depend on the
layout. Only root can write the site's files, so everything that Spack would write next to them (environments, licenses,
sources, keys, byte code) goes below ``$PETAL_SPACK_DIR``.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.model import SPACK_VERSIONS
from ..host.atomic import replace_link, write_atomic
from ..host.files import make_dir
from ..state.context import Context
from .program import RECEIPT, SpackInstall, anywhere
from .scope import Places, as_yaml, sections, with_lists
from .workspace import module_tree, site_of, store_of

# Set by the module, the first also by users; Spack expands both in its configuration. It unsets all *_ROOT in builds.
DIRECTORY = "PETAL_SPACK_DIR"
RECIPES = "PETAL_SPACK_RECIPES"
# Every start of this Python runs this (site.py), without byte code next to it.
STARTUP = Path(__file__).with_name("user_startup.py")
START = "import sys; sys.dont_write_bytecode = True; import petal_startup"
PYTHON = Path("python", "bin", "python3")
SECTIONS = ("config", "upstreams", "repos", "packages", "compilers", "concretizer", "mirrors", "modules")
MIRRORS = ("file://", "https://")  # these need neither credentials nor boto3


def write(ctx: Context, target: str) -> None:
    """Writes scope and Python of one target's module tree.

    Raises:
        SpackError: ``spack-no-compiler``, ``spack-target``.
    """
    directory = _directory(ctx, target)
    _write_python(directory / "python", anywhere(ctx.config, ctx.paths))
    make_dir(directory / "scope")
    for name, content in _sections(ctx, target).items():
        write_atomic(directory / "scope" / f"{name}.yaml", as_yaml({name: content}))


def missing(ctx: Context, target: str) -> list[Path]:
    """The files of the module that are missing."""
    directory = _directory(ctx, target)
    scope = [directory / "scope" / f"{name}.yaml" for name in SECTIONS]
    python = directory / PYTHON
    return [*(path for path in scope if not path.is_file()), *([] if python.is_symlink() else [python])]


def module_values(ctx: Context, target: str) -> dict[str, Any]:
    """The values for the template of the module ``spack/<version>``."""
    store, host, directory = store_of(ctx), ctx.facts.host, _directory(ctx, target)
    places = []  # of each layout, with a file of each part; if one is missing, Spack is not installed there
    for program in anywhere(ctx.config, ctx.paths):
        clingo = [str(program.clingo / RECEIPT)] if program.clingo else []
        parts = [str(program.tree / "bin" / "spack"), str(program.recipes / "repo.yaml"), *clingo]
        places.append((str(program.tree), str(program.recipes), parts))
    return {
        "version": ctx.config.spack.version,
        "release": ctx.desired_release,
        "places": places,
        "needed": [str(interpreter()), str(store / ".spack-db" / "index.json")],
        "store": str(store),
        "scope": str(directory / "scope"),
        "python": str(directory / PYTHON),
        "family": SPACK_VERSIONS[ctx.config.spack.version],
        "system": f"{host.os}-{host.machine}",
    }


def interpreter() -> Path:
    """A Python of the version of clingo's wheels; prefers the distribution's, which every node has."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = (Path("/usr/bin", name), Path(sys.base_prefix, "bin", name))
    return next((path for path in places if path.is_file()), Path(sys.executable))


def _directory(ctx: Context, target: str) -> Path:
    return ctx.paths.release(ctx.desired_release) / "spack" / module_tree(ctx, target).name


def _write_python(top: Path, programs: tuple[SpackInstall, ...]) -> None:
    """A virtual environment (PEP 405), so that no variable for clingo affects a user's other programs."""
    python = interpreter()
    packages = top / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for directory in (top / "bin", packages):
        make_dir(directory)
    write_atomic(top / "pyvenv.cfg", f"home = {python.parent}\ninclude-system-site-packages = false\n".encode())
    # clingo next to Spack, or else the one of the Python that runs petal-node
    wheels = [str(program.clingo) for program in programs if program.clingo]
    paths = dict.fromkeys(wheels or [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    write_atomic(packages / "petal.pth", "".join(f"{line}\n" for line in (*paths, START)).encode())
    write_atomic(packages / "petal_startup.py", STARTUP.read_bytes())
    replace_link(top / "bin" / "python3", str(python))


def _sections(ctx: Context, target: str) -> dict[str, Any]:
    """The site's configuration with the user's directories. Spack's defaults apply for the rest."""
    mine = Path(f"${DIRECTORY}") / SPACK_VERSIONS[ctx.config.spack.version]
    host, program = ctx.facts.host, anywhere(ctx.config, ctx.paths)[0]
    modules = mine / "modules" / f"{host.os}-{host.machine}"
    places = Places(mine / "store", modules, Path(f"${RECIPES}"), Path("$user_cache_path"))
    site = sections(places, site_of(ctx, target), program.family)
    # Spack decides by the time of recipes whether its index of them is old, so each repository has its own index.
    key = hashlib.sha256(str(program.recipes).encode()).hexdigest()[:7]
    config = {
        "misc_cache": f"$user_cache_path/misc-{key}",
        # on the node's own disk (TMPDIR or /tmp), in a directory that only the user can read
        "build_stage:": ["$tempdir/$user/spack-stage", "$user_cache_path/stage"],
        "environments_root": str(mine / "environments"),
        "license_dir": str(mine / "licenses"),
        "install_status": True,
    }
    # Modules have the names of the site's tree, so that they find the site's. All are in ``Core``, because a module of
    # the site's MPI or compiler adds the site's own hierarchy only.
    module_set = site["modules"]["modules"]["default"]
    lmod = {**module_set["lmod"], "core_specs": ["platform=linux"]}
    upstream = {"install_tree": str(store_of(ctx)), "modules": {"lmod": str(module_tree(ctx, target))}}
    return {
        "config": {**site["config"]["config"], **config},
        "upstreams": {"site": upstream},
        "repos": site["repos"]["repos:"],
        "packages": _packages(ctx, site["packages"]["packages"]),
        "compilers": site["compilers"]["compilers:"],
        "concretizer": {**site["concretizer"]["concretizer"], "reuse": True},
        "mirrors": _mirrors(site["mirrors"]["mirrors:"]),
        "modules": {"default": {**module_set, "lmod": lmod}},
    }


def _packages(ctx: Context, site: Mapping[str, Any]) -> dict[str, Any]:
    """Externals and preferences of the stack and the site. The target is a preference here, so users may change it."""
    everything = {key: value for key, value in site["all"].items() if key not in ("require", "permissions")}
    stack = with_lists(ctx.environment.get("packages") or {})
    ours = {**site, "all": everything}
    # a key of the stack may end with a colon: ``all::``
    merged: dict[str, Any] = _merged(stack, {f"{key}:" if f"{key}:" in stack else key: ours[key] for key in ours})
    return merged


def _merged(weak: Any, strong: Any) -> Any:
    """Joins two scopes like Spack: mappings by key, lists one after the other (docs: configuration.rst)."""
    if isinstance(weak, Mapping) and isinstance(strong, Mapping):
        both = {key: _merged(weak[key], strong[key]) for key in weak.keys() & strong.keys()}
        return {**weak, **strong, **both}
    if isinstance(weak, list) and isinstance(strong, list):
        return [*strong, *weak]
    return strong


def _mirrors(site: Mapping[str, Any]) -> dict[str, Any]:
    """The mirrors of sources; the directory of binary packages is root's."""
    sources = {name: mirror for name, mirror in site.items() if mirror["source"]}
    return {name: mirror for name, mirror in sources.items() if mirror["url"].startswith(MIRRORS)}
