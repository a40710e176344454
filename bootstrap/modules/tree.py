"""Writes the module tree of one CPU target: Spack's modules, and a rendered file for each binary package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.model import PackageConfig
from ..core.errors import ModulesError
from ..host.files import make_dir, same_content, sha256_of
from ..spack import users
from ..spack.workspace import module_tree, open_spack
from ..state.context import Context
from ..state.release import ModuleFile, Tree, package_prefix
from . import site, templates

SEARCH_PATHS = (
    ("PATH", "bin"),
    ("MANPATH", "share/man"),
    ("MANPATH", "man"),
    ("PKG_CONFIG_PATH", "lib/pkgconfig"),
    ("PKG_CONFIG_PATH", "lib64/pkgconfig"),
    ("LD_LIBRARY_PATH", "lib"),
    ("LD_LIBRARY_PATH", "lib64"),
    ("CMAKE_PREFIX_PATH", ""),
)
MPI = frozenset({"openmpi", "mpich", "mvapich2", "intelmpi", "intel-oneapi-mpi"})  # a shell can load one of them
USERS_SPACK_HEADER = "-- Spack for the users of"  # the start of spack.lua.j2


def write_tree(ctx: Context, target: str) -> Tree:
    """Writes all modules of one target at their final path.

    Raises:
        SpackError: Spack cannot write its modules.
        ModulesError: ``modules-config``.
    """
    tree = module_tree(ctx, target)
    make_dir(tree / "Core")
    if ctx.config.uses_spack:
        ctx.note(f"writing Spack's modules for {target}")
        open_spack(ctx, target).write_modules()
        _write_users_spack(ctx, target)
    origins = {}
    for package in ctx.config.packages:
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        path = tree / "Core" / package.name / f"{package.version}.lua"
        # Spack's module for an external MPI of the same prefix adds the modules built with that MPI, so it stays.
        if path.is_file() and any(external.prefix == prefix for external in ctx.externals):
            continue
        _write_package(ctx, package, path)
        origins[site.module_name(path)] = "package"
    site.apply_settings(ctx, tree, list(module_files(tree)))
    origins[site.defaults_module(ctx)] = "site"
    return Tree(tree.name, target, tuple(scan(tree, origins)))


def module_files(tree: Path) -> Iterator[Path]:
    """Every module file of a tree, hidden modules included."""
    return (path for path in sorted(tree.rglob("*.lua")) if not path.name.startswith("."))


def scan(tree: Path, origins: Mapping[str, str]) -> list[ModuleFile]:
    """The visible modules of a tree; ``origins`` has the origin of each one that is not Spack's."""
    return [
        ModuleFile(name, str(path.relative_to(tree)), origins.get(name, "spack"), sha256_of(path))
        for name, path in _visible(tree)
    ]


def unlisted(tree: Path, listed: Tree) -> list[str]:
    """Names of modules that were added to a tree after it was written."""
    paths = {module.path for module in listed.modules}
    return [name for name, path in _visible(tree) if str(path.relative_to(tree)) not in paths]


def missing_of_users(ctx: Context, target: str) -> list[Path]:
    """Missing files of the users' Spack, if the release has a module for it."""
    path = _users_module(ctx, target) if ctx.config.uses_spack else None
    return users.missing(ctx, target) if path is not None and path.is_file() else []


def _visible(tree: Path) -> Iterator[tuple[str, Path]]:
    """The modules of a tree with their names, without the hidden ones."""
    return ((site.module_name(path), path) for path in module_files(tree) if not site.is_hidden(path))


def _write_users_spack(ctx: Context, target: str) -> None:
    path = _users_module(ctx, target)
    if path is None:
        ctx.note("the stack contains a package named spack: users get it, without the release as upstream")
        return
    users.write(ctx, target)
    templates.write(path, "spack.lua.j2", users.module_values(ctx, target))


def _users_module(ctx: Context, target: str) -> Path | None:
    """The module of the users' Spack; None if Spack wrote that file for a package of the stack."""
    path = module_tree(ctx, target) / "Core" / "spack" / f"{ctx.config.spack.version}.lua"
    is_other = path.is_file() and not path.read_text(encoding="utf-8", errors="replace").startswith(USERS_SPACK_HEADER)
    return None if is_other else path


def _write_package(ctx: Context, package: PackageConfig, path: Path) -> None:
    values = package_values(ctx, package)
    if not path.is_file():
        templates.write(path, "package.lua.j2", values)
    elif not same_content(path, templates.render("package.lua.j2", values).encode()):
        raise ModulesError(
            f"the module {package.name}/{package.version} exists already",
            why=f"Spack wrote {path} for a package of the stack",
            remedy=(
                "give the entry of packages in the configuration another name or version",
                "if the file was changed by hand: petal-node repair --yes    (changes are lost)",
            ),
            code="modules-config",
        )


def package_values(ctx: Context, package: PackageConfig) -> dict[str, Any]:
    """The values of ``package.lua.j2``."""
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    return {
        "name": package.name,
        "version": package.version,
        "release": ctx.desired_release,
        "summary": package.summary or f"{package.name} {package.version}",
        "source": package.origin.source if package.origin else "the machine image",
        "prefix": str(prefix),
        "requires": package.requires,
        "family": "mpi" if package.name in MPI else "",
        "root_variable": re.sub(r"\W", "_", package.name).upper() + "_ROOT",
        "search_paths": [(name, str(prefix / part)) for name, part in SEARCH_PATHS if (prefix / part).is_dir()],
        "env": [(name, value.replace("{prefix}", str(prefix))) for name, value in sorted(package.env.items())],
    }
