"""Writes the module trees of a release: Spack's modules, and a rendered file for each binary package.

A tree is made in a private directory, and its files are then put into the tree that users read, one rename(2) for each.
So no module is missing at any moment, and a failure before the last file leaves the others as they were.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.model import PackageConfig
from ..core.errors import ModulesError, StateError
from ..host.atomic import private_dir, replace_link, staged_file
from ..host.files import make_dir, remove_tree, same_content, sha256_of
from ..host.log import LOG
from ..spack import users
from ..spack.workspace import missing_packages, module_tree, open_spack
from ..state.context import Context
from ..state.release import (
    ModuleFile,
    ModuleIndex,
    Tree,
    current_release,
    package_prefix,
    read_index,
    read_manifest,
    write_index,
)
from . import site, templates
from .spider import invalidate, write_cache

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


def write_trees(ctx: Context, *, overwrite: bool = False) -> None:
    """Writes the module files that are missing, empty or outdated, and the release's list of modules.

    The caches become invalid: call ``write_caches`` then. A module file that was changed by hand stays, and so does
    everything that the site added.

    Args:
        overwrite: also write the module files that were changed by hand.

    Raises:
        SpackError: Spack cannot write its modules.
        ModulesError: ``modules-config``.
    """
    if current_release(ctx.paths) != ctx.desired_release and read_manifest(ctx.paths, ctx.desired_release) is None:
        remove_tree(module_tree(ctx, ctx.targets[0]).parent)  # an interrupted run left it, and no shell uses it
    try:
        listed = read_index(ctx.paths, ctx.desired_release)
    except StateError:
        listed = None
    checksums = {path: module.sha256 for module, path in files_of(ctx, listed)}
    trees = tuple(_write_tree(ctx, target, checksums, overwrite=overwrite) for target in ctx.targets)
    write_index(ctx.paths, ctx.desired_release, ModuleIndex(trees, missing_packages(ctx)))


def write_caches(ctx: Context) -> None:
    """Writes Lmod's caches of all trees, and lists the modules that the site added or removed.

    Raises:
        ModulesError: as ``spider.write_cache``.
    """
    index = read_index(ctx.paths, ctx.desired_release) or ModuleIndex(())
    trees = []
    for listed in index.trees:
        tree = tree_of(ctx, listed)
        trees.append(replace(listed, modules=_modules_of(tree, listed.modules)))
        invalidate(tree)
        write_cache(ctx, tree)
    if tuple(trees) != index.trees:
        write_index(ctx.paths, ctx.desired_release, replace(index, trees=tuple(trees)))


def tree_of(ctx: Context, listed: Tree) -> Path:
    """The directory of a tree of the desired release."""
    return ctx.paths.release(ctx.desired_release) / "modules" / listed.name


def files_of(ctx: Context, index: ModuleIndex | None) -> Iterator[tuple[ModuleFile, Path]]:
    """The listed modules of the desired release, with the path of each file."""
    for tree in index.trees if index else ():
        yield from ((module, tree_of(ctx, tree) / module.path) for module in tree.modules)


def is_lost(path: Path) -> bool:
    """True if a module file is missing or empty."""
    return not path.is_file() or path.stat().st_size == 0


def module_files(tree: Path) -> Iterator[Path]:
    """Every module file of a tree, hidden modules included."""
    return (path for path in sorted(tree.rglob("*.lua")) if not path.name.startswith("."))


def unlisted(tree: Path, listed: Tree) -> list[str]:
    """Names of modules that were added to a tree after it was written."""
    paths = {module.path for module in listed.modules}
    return [name for name, path in _visible(tree) if str(path.relative_to(tree)) not in paths]


def missing_of_users(ctx: Context, target: str) -> list[Path]:
    """Missing files of the users' Spack, if the release has a module for it."""
    path = _users_module(ctx, module_tree(ctx, target)) if ctx.config.uses_spack else None
    return users.missing(ctx, target) if path is not None and path.is_file() else []


def _visible(tree: Path) -> Iterator[tuple[str, Path]]:
    """The modules of a tree with their names, without the hidden ones."""
    return ((site.module_name(path), path) for path in module_files(tree) if not site.is_hidden(path))


def _write_tree(ctx: Context, target: str, checksums: Mapping[Path, str], *, overwrite: bool) -> Tree:
    tree = module_tree(ctx, target)
    with private_dir(ctx.paths.work(ctx.desired_release) / target / "modules") as made:
        origins = _make(ctx, target, made)
        modules = []
        for path in module_files(made):
            name = site.module_name(path)
            relative = str(path.relative_to(made))
            modules.append(ModuleFile(name, relative, origins.get(name, "spack"), sha256_of(path)))
        ctx.confirm()
        make_dir(tree / "Core")
        invalidate(tree)
        for source in sorted(path for path in made.rglob("*") if path.is_symlink() or path.is_file()):
            path = tree / source.relative_to(made)
            _put(source, path, checksums.get(path), overwrite=overwrite)
    return Tree(tree.name, target, _modules_of(tree, modules))


def _make(ctx: Context, target: str, directory: Path) -> dict[str, str]:
    """Makes the tree of one target in an empty directory; returns the origin of each module that is not Spack's."""
    make_dir(directory / "Core")
    if ctx.config.uses_spack:
        ctx.note(f"writing Spack's modules for {target}")
        open_spack(ctx, target).write_modules(directory)
        _write_users_spack(ctx, target, directory)
    origins = {}
    for package in ctx.config.packages:
        prefix = package_prefix(package, ctx.paths, ctx.facts.host)
        path = directory / "Core" / package.name / f"{package.version}.lua"
        # Spack's module for an external MPI of the same prefix adds the modules built with that MPI, so it stays.
        if path.is_file() and any(external.prefix == prefix for external in ctx.externals):
            continue
        _write_package(ctx, package, path)
        origins[site.module_name(path)] = "package"
    site.apply_settings(ctx, directory, list(module_files(directory)))
    origins[site.defaults_module(ctx)] = "site"
    return origins


def _put(source: Path, path: Path, checksum: str | None, *, overwrite: bool) -> None:
    """Puts a file or link into a tree.

    Args:
        checksum: that of the module file as petal-node wrote it; None if it is not known.
    """
    make_dir(path.parent)
    if source.is_symlink():
        if overwrite or not path.exists():
            replace_link(path, str(source.readlink()))
        return
    if source.name == site.RULES:
        site.add_rules(path, source.read_bytes())
        return
    if same_content(path, source.read_bytes()):
        return
    if path.suffix == ".lua" and not is_lost(path) and sha256_of(path) != checksum:
        LOG.warning("%s has other contents, and %s", path, "is written again" if overwrite else "stays")
        if not overwrite:
            return
    info = source.stat()
    with staged_file(path, mode=stat.S_IMODE(info.st_mode)) as part:
        part.write_bytes(source.read_bytes())
        os.chown(part, -1, info.st_gid)  # the stack may allow the package to one group only


def _modules_of(tree: Path, listed: Iterable[ModuleFile]) -> tuple[ModuleFile, ...]:
    """The visible modules of a tree. Those that are not ``listed`` were added by the site."""
    known = {module.path: module for module in listed}
    paths = ((name, str(path.relative_to(tree))) for name, path in _visible(tree))
    return tuple(known.get(path) or ModuleFile(name, path, "site") for name, path in paths)


def _write_users_spack(ctx: Context, target: str, directory: Path) -> None:
    path = _users_module(ctx, directory)
    if path is None:
        ctx.note("the stack contains a package named spack: users get it, without the release as upstream")
        return
    users.write(ctx, target)
    templates.write(path, "spack.lua.j2", users.module_values(ctx, target))


def _users_module(ctx: Context, tree: Path) -> Path | None:
    """The module of the users' Spack in a tree; None if Spack wrote that file for a package of the stack."""
    path = tree / "Core" / "spack" / f"{ctx.config.spack.version}.lua"
    is_other = path.is_file() and not path.read_text(encoding="utf-8", errors="replace").startswith(USERS_SPACK_HEADER)
    return None if is_other else path


def _write_package(ctx: Context, package: PackageConfig, path: Path) -> None:
    if path.is_file():
        raise ModulesError(
            f"two packages have the module {package.name}/{package.version}",
            why="one is an entry of packages in the configuration, the other is in the Spack stack",
            remedy="give the entry of packages another name or version",
            code="modules-config",
        )
    templates.write(path, "package.lua.j2", package_values(ctx, package))


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
