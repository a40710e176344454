"""The release's module tree: Spack's own modules, and one rendered file for each binary package, in one hierarchy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .. import templates
from ..config import Package
from ..context import Context
from ..errors import ModulesError, StateError
from ..files import make_dir, remove_tree, sha256_of, write_atomic
from ..log import LOG
from ..model import Probe, Scope, change, satisfied
from ..mpi import MPI
from ..release import (
    ModuleFile,
    Tree,
    current_release,
    package_prefix,
    read_index,
    read_manifest,
    read_missing,
    write_index,
)
from ..spack import users
from ..spack.workspace import lacking, module_tree, open_spack
from .base import HEAD

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


class ModuleTree:
    """Every module of the release is written, in a tree of its own for each CPU target."""

    name = "modules"
    title = "the module tree is written"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("packages", "spack")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        try:
            listed = read_index(ctx.paths, ctx.wanted_release)
            without = read_missing(ctx.paths, ctx.wanted_release)
        except StateError as error:
            return change(str(error), "write the module tree again")
        written = [f"write {module_tree(ctx, target)}" for target in ctx.targets]
        if listed is None:
            return change(f"release {ctx.wanted_release} has none yet", *written)
        if without and without != lacking(ctx):
            return change("packages have come since it was written", *written)
        wrong = [module.name for module, path in _files(ctx, listed) if _is_wrong(ctx, module, path)]
        wrong += [path.name for tree in listed for path in _missing_of_users(ctx, tree.target)]
        number = sum(len(tree.modules) for tree in listed)
        if wrong:
            lines = (f"write {name}" for name in wrong[:8])
            return change(f"{len(wrong)} of {number} files are missing or damaged", *lines)
        return satisfied(f"{number} modules in {', '.join(tree.name for tree in listed)}")

    def apply(self, ctx: Context) -> None:
        in_use = current_release(ctx.paths) == ctx.wanted_release
        if not in_use and read_manifest(ctx.paths, ctx.wanted_release) is None:
            remove_tree(module_tree(ctx, ctx.targets[0]).parent)
        for module, path in _files(ctx, _listed(ctx)):
            if path.exists() and _is_wrong(ctx, module, path):
                LOG.warning("%s is not as it was written, and is written again", path, extra={"step": self.name})
                path.unlink()
        trees = [_write_tree(ctx, target) for target in ctx.targets]
        write_index(ctx.paths, ctx.wanted_release, trees, lacking(ctx))


def _listed(ctx: Context) -> tuple[Tree, ...]:
    try:
        return read_index(ctx.paths, ctx.wanted_release) or ()
    except StateError:
        return ()


def _files(ctx: Context, trees: Iterable[Tree]) -> Iterator[tuple[ModuleFile, Path]]:
    for tree in trees:
        directory = ctx.paths.release(ctx.wanted_release) / "modules" / tree.name
        yield from ((module, directory / module.path) for module in tree.modules)


def _is_wrong(ctx: Context, module: ModuleFile, path: Path) -> bool:
    """Lost, or empty; what a site has changed in it is overwritten by ``repair --yes`` only."""
    if not path.is_file() or path.stat().st_size == 0:
        return True
    return ctx.may_destroy and module.sha256 not in ("", sha256_of(path))


def _write_tree(ctx: Context, target: str) -> Tree:
    tree = module_tree(ctx, target)
    make_dir(tree / "Core")
    if ctx.config.builds:
        ctx.note(f"writing Spack's modules for {target}")
        open_spack(ctx, target).write_modules()
        _write_users_spack(ctx, target)
    ours = [package for package in ctx.config.packages if not _is_spacks(ctx, package, tree)]
    for package in ours:
        _write_package(ctx, package, tree)
    packages = {f"{package.name}/{package.version}" for package in ours}
    return Tree(tree.name, target, tuple(scan(tree, packages)))


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


def _missing_of_users(ctx: Context, target: str) -> list[Path]:
    path = _users_module(ctx, target)
    return users.missing(ctx, target) if ctx.config.builds and path.is_file() and _is_ours(path) else []


def scan(tree: Path, packages: set[str]) -> list[ModuleFile]:
    """The modules of a tree that users see; those that a ``.modulerc.lua`` hides are left out."""
    found = []
    for path in sorted(tree.rglob("*.lua")):
        name = f"{path.parent.name}/{path.stem}"
        if path.name.startswith(".") or name in _hidden(path.parent):
            continue
        origin = "package" if name in packages else "spack"
        found.append(ModuleFile(name, str(path.relative_to(tree)), origin, sha256_of(path)))
    return found


def _hidden(directory: Path) -> set[str]:
    rules = [directory / ".modulerc.lua", directory.parent / ".modulerc.lua"]
    return {name for rule in rules if rule.is_file() for name in HIDDEN.findall(rule.read_text(encoding="utf-8"))}


def _is_spacks(ctx: Context, package: Package, tree: Path) -> bool:
    """True where Spack has written the module of the same prefix: that of an MPI leads to what was built with it."""
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    return any(one.prefix == prefix for one in ctx.externals) and _path(package, tree).is_file()


def _path(package: Package, tree: Path) -> Path:
    return tree / "Core" / package.name / f"{package.version}.lua"


def _write_package(ctx: Context, package: Package, tree: Path) -> None:
    path = _path(package, tree)
    text = templates.render("package.lua.j2", _values(ctx, package)).encode()
    if path.is_file() and path.read_bytes() != text:
        raise ModulesError(
            f"two things want to be the module {package.name}/{package.version}",
            why=f"{path} is written by Spack already",
            remedy="give the package in the configuration another name or version",
            code="modules-clash",
        )
    make_dir(path.parent)
    write_atomic(path, text)


def _values(ctx: Context, package: Package) -> dict[str, Any]:
    prefix = package_prefix(package, ctx.paths, ctx.facts.host)
    paths = [(variable, str(prefix / part)) for variable, part in SEARCH_PATHS if (prefix / part).is_dir()]
    return {
        "name": package.name,
        "version": package.version,
        "release": ctx.wanted_release,
        "summary": package.summary or f"{package.name} {package.version}",
        "source": package.origin.source if package.origin else "the machine image",
        "prefix": str(prefix),
        "requires": package.requires,
        "family": "mpi" if package.name in MPI else "",
        "root_variable": re.sub(r"\W", "_", package.name).upper() + "_ROOT",
        "search_paths": paths,
        "env": [(name, value.replace("{prefix}", str(prefix))) for name, value in sorted(package.env.items())],
    }
