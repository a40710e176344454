"""A Spack for the cluster's users: the site's program and recipes, the release as upstream, a store of their own.

It is a part of the release: a configuration scope, which Spack reads as the system's (``SPACK_SYSTEM_CONFIG_PATH``), so
that what a user writes into ``~/.spack`` wins; a Python that finds clingo; and the module that leads to both. Nothing
in them depends on the layout. The site's files are root's and nobody else can write them; what users' Spacks would
write beside them by default (environments, licenses, sources, keys, byte code) goes below ``$PETAL_SPACK_DIR``.
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

# Set by the module, the first also by users; Spack resolves both in its configuration. In builds it unsets all *_ROOT.
DIRECTORY = "PETAL_SPACK_DIR"
RECIPES = "PETAL_SPACK_RECIPES"
# Run by every start of this Python (site.py). Byte code of the site's files goes to the user's cache, or nowhere. And
# without a directory for the user's configuration, 1.1 changes that in its own tree (config.py: _scope, optional).
STARTUP = (
    "import os, sys",
    "cache = os.environ.get('SPACK_USER_CACHE_PATH')",
    "sys.dont_write_bytecode = not cache",
    "sys.pycache_prefix = os.path.join(cache, 'pycache') if cache else None",
    "os.makedirs(os.path.expanduser(os.environ.get('SPACK_USER_CONFIG_PATH') or '~/.spack'), exist_ok=True)",
)
SECTIONS = ("config", "upstreams", "repos", "packages", "compilers", "concretizer", "mirrors", "modules")
MIRRORS = ("file://", "https://")  # what needs neither credentials nor boto3


def write(ctx: Context, target: str) -> None:
    """Writes scope and Python of one target's module tree.

    Raises:
        SpackError: ``spack-no-compiler``, ``spack-target``.
    """
    _write_python(_directory(ctx, target) / "python", anywhere(ctx.config, ctx.paths))
    make_dir(_directory(ctx, target) / "scope")
    for name, content in _sections(ctx, target).items():
        write_atomic(_directory(ctx, target) / "scope" / f"{name}.yaml", as_yaml({name: content}))


def missing(ctx: Context, target: str) -> list[Path]:
    """What the module leads to and is not there."""
    scope = [_directory(ctx, target) / "scope" / f"{name}.yaml" for name in SECTIONS]
    python = _python(ctx, target)
    return [*(path for path in scope if not path.is_file()), *([] if python.is_symlink() else [python])]


def module_values(ctx: Context, target: str) -> dict[str, Any]:
    """What the module ``spack/<version>`` is made of."""
    programs = anywhere(ctx.config, ctx.paths)
    store, host = store_of(ctx), ctx.facts.host
    return {
        "version": ctx.config.spack.version,
        "release": ctx.wanted_release,
        "places": [(str(program.tree), str(program.recipes), _files_of(program)) for program in programs],
        "needed": [str(interpreter()), str(store / ".spack-db" / "index.json")],
        "store": str(store),
        "scope": str(_directory(ctx, target) / "scope"),
        "python": str(_python(ctx, target)),
        "family": SPACK_VERSIONS[ctx.config.spack.version],
        "system": f"{host.os}-{host.machine}",
    }


def interpreter() -> Path:
    """A Python of the version that clingo's wheels are for; the distribution's, which every node has, before others."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    places = (Path("/usr/bin", name), Path(sys.base_prefix, "bin", name))
    return next((path for path in places if path.is_file()), Path(sys.executable))


def _directory(ctx: Context, target: str) -> Path:
    return ctx.paths.release(ctx.wanted_release) / "spack" / module_tree(ctx, target).name


def _python(ctx: Context, target: str) -> Path:
    return _directory(ctx, target) / "python" / "bin" / "python3"


def _files_of(program: SpackInstall) -> list[str]:
    """A file of each part: where one is missing, the program is not there."""
    parts = [program.tree / "bin" / "spack", program.recipes / "repo.yaml"]
    return [str(path) for path in (*parts, *([program.clingo / RECEIPT] if program.clingo else []))]


def _write_python(top: Path, programs: tuple[SpackInstall, ...]) -> None:
    """A virtual environment (PEP 405): no variable that leads to clingo reaches a user's other programs."""
    python = interpreter()
    packages = top / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    for directory in (top / "bin", packages):
        make_dir(directory)
    write_atomic(top / "pyvenv.cfg", f"home = {python.parent}\ninclude-system-site-packages = false\n".encode())
    lines = [*_clingo(programs), "; ".join(STARTUP)]
    write_atomic(packages / "petal.pth", "".join(line + "\n" for line in lines).encode())
    replace_link(top / "bin" / "python3", str(python))


def _clingo(programs: tuple[SpackInstall, ...]) -> list[str]:
    """Where clingo may lie: beside Spack, else where the Python that runs petal-node has it."""
    beside = [str(program.clingo) for program in programs if program.clingo]
    return list(dict.fromkeys(beside or [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]))


def _sections(ctx: Context, target: str) -> dict[str, Any]:
    """The site's own configuration, with what a user needs in other places. Spack's defaults stay for the rest."""
    mine = Path(f"${DIRECTORY}") / SPACK_VERSIONS[ctx.config.spack.version]
    host, program = ctx.facts.host, anywhere(ctx.config, ctx.paths)[0]
    modules = mine / "modules" / f"{host.os}-{host.machine}"
    places = Places(mine / "store", modules, Path(f"${RECIPES}"), Path("$user_cache_path"))
    site = sections(places, site_of(ctx, target), program.family)
    upstream = {"install_tree": str(store_of(ctx)), "modules": {"lmod": str(module_tree(ctx, target))}}
    return {
        "config": {**site["config"]["config"], **_config(mine, program)},
        "upstreams": {"site": upstream},
        "repos": site["repos"]["repos:"],
        "packages": _packages(ctx, site["packages"]["packages"]),
        "compilers": site["compilers"]["compilers:"],
        "concretizer": {**site["concretizer"]["concretizer"], "reuse": True},
        "mirrors": _mirrors(site["mirrors"]["mirrors:"]),
        "modules": {"default": _modules(site["modules"]["modules"]["default"])},
    }


def _config(mine: Path, program: SpackInstall) -> dict[str, Any]:
    """Stages are on the node's own disk (TMPDIR or /tmp), in a directory that only the user can read.

    Spack tells by the time of a recipe whether its index of all recipes is old, so each repository has its own.
    """
    key = hashlib.sha256(str(program.recipes).encode()).hexdigest()[:7]
    return {
        "misc_cache": f"$user_cache_path/misc-{key}",
        "build_stage:": ["$tempdir/$user/spack-stage", "$user_cache_path/stage"],
        "environments_root": str(mine / "environments"),
        "license_dir": str(mine / "licenses"),
        "install_status": True,
    }


def _packages(ctx: Context, site: Mapping[str, Any]) -> dict[str, Any]:
    """Externals and preferences of the stack and of the site; the target is a preference, which a user may change."""
    everything = {key: value for key, value in site["all"].items() if key not in ("require", "permissions")}
    stack = with_lists(ctx.environment.get("packages") or {})
    ours = {**site, "all": everything}
    named = {f"{name}:" if f"{name}:" in stack else name: said for name, said in ours.items()}  # the stack's ``all::``
    merged: dict[str, Any] = _merged(stack, named)
    return merged


def _merged(weak: Any, strong: Any) -> Any:
    """Two scopes in one, as Spack joins them: mappings by key, lists one after the other (docs: configuration.rst)."""
    if isinstance(weak, Mapping) and isinstance(strong, Mapping):
        both = {key: _merged(weak[key], strong[key]) for key in weak.keys() & strong.keys()}
        return {**weak, **strong, **both}
    if isinstance(weak, list) and isinstance(strong, list):
        return [*strong, *weak]
    return strong


def _mirrors(site: Mapping[str, Any]) -> dict[str, Any]:
    """Those of sources; what else there is lies where root alone works."""
    sources = {name: mirror for name, mirror in site.items() if mirror["source"]}
    return {name: mirror for name, mirror in sources.items() if mirror["url"].startswith(MIRRORS)}


def _modules(site: Mapping[str, Any]) -> dict[str, Any]:
    """Named as in the site's tree, so that a module finds those that it needs there.

    All are in ``Core``: a module of the site's MPI or compiler leads into the site's own hierarchy only.
    """
    return {**site, "lmod": {**site["lmod"], "core_specs": ["platform=linux"]}}
