"""Writes the module tree of one CPU target: Spack's own modules, and one rendered file for each binary package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.model import PackageConfig
from ..core.errors import ModulesError
from ..host.atomic import write_atomic
from ..host.files import make_dir, sha256_of
from ..spack import users
from ..spack.workspace import module_tree, open_spack
from ..state.context import Context
from ..state.release import ModuleFile, Tree, package_prefix
from . import site, templates
from .exclusive import MPI

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
USERS_MARK = "-- Spack for the users of"  # how spack.lua.j2 starts
HIDDEN = re.compile(r'hide_version\("([^"]+)"\)')


def write_tree(ctx: Context, target: str) -> Tree:
    """All modules of one target, at their final path.

    Raises:
        SpackError: Spack cannot write its modules.
        ModulesError: ``modules-clash``, ``modules-default``.
    """
    tree = module_tree(ctx, target)
    make_dir(tree / "Core")
    if ctx.config.builds:
        ctx.note(f"writing Spack's modules for {target}")
        open_spack(ctx, target).write_modules()
        _write_users_spack(ctx, target)
    ours = [package for package in ctx.config.packages if not _is_spacks(ctx, package, tree)]
    for package in ours:
        _write_package(ctx, package, tree)
    origins = {f"{package.name}/{package.version}": "package" for package in ours}
    site.apply_settings(ctx, tree, list(files_of(tree)))
    return Tree(tree.name, target, tuple(scan(tree, {**origins, site.defaults_module(ctx): "site"})))


def files_of(tree: Path) -> Iterator[Path]:
    """Every module file of a tree."""
    return (path for path in sorted(tree.rglob("*.lua")) if not path.name.startswith("."))


def scan(tree: Path, origins: Mapping[str, str]) -> list[ModuleFile]:
    """The modules of a tree that users see; those that a ``.modulerc.lua`` hides are left out.

    Args:
        origins: of modules that are not Spack's.
    """
    found = []
    for path in files_of(tree):
        name = site.module_name(path)
        if name not in _hidden(path.parent):
            found.append(ModuleFile(name, str(path.relative_to(tree)), origins.get(name, "spack"), sha256_of(path)))
    return found


def unlisted(tree: Path, listed: Tree) -> list[str]:
    """Modules that somebody has put into a tree since it was written."""
    known = {module.path for module in listed.modules}
    new = [path for path in files_of(tree) if str(path.relative_to(tree)) not in known]
    return [site.module_name(path) for path in new if site.module_name(path) not in _hidden(path.parent)]


def missing_of_users(ctx: Context, target: str) -> list[Path]:
    """What the users' Spack lacks, where this release has one of ours."""
    path = _users_module(ctx, target)
    return users.missing(ctx, target) if ctx.config.builds and path.is_file() and _is_ours(path) else []


def _hidden(directory: Path) -> set[str]:
    rules = [directory / site.RULES, directory.parent / site.RULES]
    return {name for rule in rules if rule.is_file() for name in HIDDEN.findall(rule.read_text(encoding="utf-8"))}


def _write_users_spack(ctx: Context, target: str) -> None:
    """A stack may have a package ``spack`` itself: then that is the module of this name."""
    path = _users_module(ctx, target)
    if path.is_file() and not _is_ours(path):
        ctx.note(f"the stack has spack/{path.stem} itself: users get that one, without the release as upstream")
        return
    users.write(ctx, target)
    make_dir(path.parent)
    write_atomic(path, templates.render("spack.lua.j2", users.module_values(ctx, target)).encode())


def _users_module(ctx: Context, target: str) -> Path:
    return module_tree(ctx, target) / "Core" / "spack" / f"{ctx.config.spack.version}.lua"


def _is_ours(path: Path) -> bool:
    return path.read_text(encoding="utf-8").startswith(USERS_MARK)


def _is_spacks(ctx: Context, package: PackageConfig, tree: Path) -> bool:
    """True where Spack has written the module of the same prefix: that of an MPI leads to what was built with it."""
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    return any(one.prefix == prefix for one in ctx.externals) and _path(package, tree).is_file()


def _path(package: PackageConfig, tree: Path) -> Path:
    return tree / "Core" / package.name / f"{package.version}.lua"


def _write_package(ctx: Context, package: PackageConfig, tree: Path) -> None:
    path = _path(package, tree)
    text = templates.render("package.lua.j2", _values(ctx, package)).encode()
    before = path.read_bytes() if path.is_file() else None
    if before == text:
        return
    if before is not None:
        raise ModulesError(
            f"two things want to be the module {package.name}/{package.version}",
            why=f"{path} is written by Spack already",
            remedy="give the package in the configuration another name or version",
            code="modules-clash",
        )
    make_dir(path.parent)
    write_atomic(path, text)


def _source(package: PackageConfig) -> str:
    return package.origin.source if package.origin else "the machine image"


def _values(ctx: Context, package: PackageConfig) -> dict[str, Any]:
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    paths = [(variable, str(prefix / part)) for variable, part in SEARCH_PATHS if (prefix / part).is_dir()]
    return {
        "name": package.name,
        "version": package.version,
        "release": ctx.wanted_release,
        "summary": package.summary or f"{package.name} {package.version}",
        "source": _source(package),
        "prefix": str(prefix),
        "requires": package.requires,
        "family": "mpi" if package.name in MPI else "",
        "root_variable": re.sub(r"\W", "_", package.name).upper() + "_ROOT",
        "search_paths": paths,
        "env": [(name, value.replace("{prefix}", str(prefix))) for name, value in sorted(package.env.items())],
    }
