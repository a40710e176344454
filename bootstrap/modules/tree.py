"""Writes the module tree of one CPU target: Spack's own modules, and one rendered file for each binary package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.model import Package
from ..core.errors import ModulesError
from ..host.atomic import write_atomic
from ..host.files import make_dir, sha256_of
from ..spack import database, users
from ..spack.workspace import lockfile_of, module_tree, open_spack, store_of
from ..state.context import Context
from ..state.release import ModuleFile, Tree, package_prefix
from . import site, templates
from .exclusive import MPI
from .site import Module

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
        ModulesError: ``modules-clash``, ``modules-template``, ``modules-default``, ``modules-unknown``.
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
    site.say(ctx, tree, list(_modules(ctx, target, tree, {package.name: package for package in ours})))
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
        name = f"{path.parent.name}/{path.stem}"
        if name not in _hidden(path.parent):
            found.append(ModuleFile(name, str(path.relative_to(tree)), origins.get(name, "spack"), sha256_of(path)))
    return found


def unlisted(tree: Path, listed: Tree) -> list[str]:
    """Modules that somebody has put into a tree since it was written."""
    known = {module.path for module in listed.modules}
    new = [path for path in files_of(tree) if str(path.relative_to(tree)) not in known]
    names = ((f"{path.parent.name}/{path.stem}", path.parent) for path in new)
    return [name for name, directory in names if name not in _hidden(directory)]


def missing_of_users(ctx: Context, target: str) -> list[Path]:
    """What the users' Spack lacks, where this release has one of ours."""
    path = _users_module(ctx, target)
    return users.missing(ctx, target) if ctx.config.builds and path.is_file() and _is_ours(path) else []


def _hidden(directory: Path) -> set[str]:
    rules = [directory / site.RULES, directory.parent / site.RULES]
    return {name for rule in rules if rule.is_file() for name in HIDDEN.findall(rule.read_text(encoding="utf-8"))}


def _modules(ctx: Context, target: str, tree: Path, packages: Mapping[str, Package]) -> Iterator[Module]:
    """Every module with what is known of its software; Spack's hidden ones have their hash behind the version."""
    locked = database.locked_specs(lockfile_of(ctx, target)) if ctx.config.builds else ()
    prefixes = database.installed(store_of(ctx)) if locked else {}
    specs = {f"{spec.name}/{spec.version}{end}": spec for spec in locked for end in ("", f"-{spec.hash[:7]}")}
    for path in files_of(tree):
        name = f"{path.parent.name}/{path.stem}"
        spec = specs.get(name)
        package = packages.get(path.parent.name)
        if package is not None and package.version == path.stem:
            prefix = package_prefix(package, ctx.paths, ctx.facts.host)
            yield Module(path, name, package.version, str(prefix), "", _source(package))
        elif spec is not None:
            prefix = prefixes.get(spec.hash, Path())
            yield Module(path, name, spec.version, str(prefix), spec.hash, f"Spack {ctx.config.spack.version}")
        else:  # the users' Spack
            yield Module(path, name, path.stem, "", "", "petal-node")


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


def _is_spacks(ctx: Context, package: Package, tree: Path) -> bool:
    """True where Spack has written the module of the same prefix: that of an MPI leads to what was built with it."""
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    return any(one.prefix == prefix for one in ctx.externals) and _path(package, tree).is_file()


def _path(package: Package, tree: Path) -> Path:
    return tree / "Core" / package.name / f"{package.version}.lua"


def _write_package(ctx: Context, package: Package, tree: Path) -> None:
    path = _path(package, tree)
    text = templates.render("package.lua.j2", _values(ctx, package)).encode()
    before = site.without_templates(path.read_bytes()) if path.is_file() else None
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


def _source(package: Package) -> str:
    return package.origin.source if package.origin else "the machine image"


def _values(ctx: Context, package: Package) -> dict[str, Any]:
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
