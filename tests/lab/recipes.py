"""A subset of a real recipe repository, as a site could make it; the recipes of built packages are unchanged.

Concretizing with all 8,000 recipes takes 18 s warm and 68 s cold, because the compilers' recipes add a thousand
possible packages. The kept recipes are copied unchanged; compilers, libc and make are copied without their
dependencies, conflicts and patches, which is right for externals; every other package that a kept recipe
names gets an empty recipe. The tests of real Spack use the whole repository as well.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

VIRTUALS = {"c": "gcc", "cxx": "gcc", "fortran": "gcc", "mpi": "openmpi", "libc": "glibc", "pkgconfig": "pkgconf"}
KEPT_ALWAYS = frozenset({"gcc-runtime", "compiler-wrapper"})
BARE = "\ndepends_on = conflicts = patch = resource = requires = lambda *args, **kwargs: None\n"
DEPENDENCY = re.compile(r'depends_on\(\s*"([a-z0-9-]+)')
EMPTY = '''\
{imports}from spack.package import *


class {name}(Package):
    """Named by a recipe of this subset and not part of it."""

    has_code = False
    version("1")
{provides}'''
IMPORT = re.compile(r"^from spack\.package import .*$", re.MULTILINE)


@dataclass(frozen=True)
class Layout:
    """The layout of a recipe repository in one family of Spack.

    Args:
        repository: its path in its tree.
        always: packages that every build needs.
        named: packages that must exist although no recipe names them: the virtual package of the modules, which
            needs a provider, and the dependencies of Spack's build systems.
    """

    repository: str
    always: tuple[str, ...]
    named: tuple[str, ...]
    imports: str
    underscores: bool

    def recipe(self, repository: Path, name: str) -> Path:
        directory = name.replace("-", "_") if self.underscores else name
        return repository / "packages" / directory / "package.py"


PACKAGES = Layout(
    "repos/spack_repo/builtin", ("gcc", "gcc-runtime", "glibc", "compiler-wrapper", "gmake"), ("mpi",),
    "from spack_repo.builtin.build_systems.generic import Package\n\n", underscores=True,
)  # fmt: skip
IN_SPACK = Layout(
    "var/spack/repos/builtin", ("gcc", "gcc-runtime", "glibc", "gmake"), ("mpi", "gnuconfig"), "", underscores=False
)


def subset(
    recipes: Path, target: Path, keep: tuple[str, ...], bare: tuple[str, ...] = (), layout: Layout = PACKAGES
) -> None:
    """Write a repository below ``target`` with the recipes ``keep`` and empty recipes of their possible dependencies.

    Args:
        recipes: the top of a spack-packages tree, or of a Spack that contains its recipes.
        bare: recipes that are copied with their variants and without their dependencies.
    """
    source, made = recipes / layout.repository, target / layout.repository
    made.mkdir(parents=True)
    for name in ("repo.yaml", "__init__.py"):
        if (source / name).exists():
            shutil.copyfile(source / name, made / name)
    if (source / "build_systems").is_dir():
        shutil.copytree(source / "build_systems", made / "build_systems")
    named = set(layout.named)
    for name in keep:
        named |= set(DEPENDENCY.findall(_copy(source, made, name, layout)))
    for name in (*layout.always, *bare):
        _copy_bare(source, made, name, layout)
    for name in sorted({VIRTUALS.get(found, found) for found in named} - {*keep, *bare, *layout.always}):
        _write_empty(made, name, layout)


def spack_with(tree: Path, target: Path, keep: tuple[str, ...]) -> None:
    """Copy a Spack that contains its recipes, with a subset of them and without its tests and documentation."""
    left_out = shutil.ignore_patterns("repos", "test", "docs", "__pycache__", "*.pyc", ".*")
    shutil.copytree(tree, target, symlinks=True, ignore=left_out)
    subset(tree, target, keep, layout=IN_SPACK)


def _copy_bare(source: Path, made: Path, name: str, layout: Layout) -> None:
    text = _copy(source, made, name, layout)
    if name not in KEPT_ALWAYS:
        bare = IMPORT.sub(lambda found: found.group(0) + BARE, text, count=1)
        layout.recipe(made, name).write_text(bare, encoding="utf-8")


def _write_empty(made: Path, name: str, layout: Layout) -> None:
    provides = "".join(f'    provides("{virtual}")\n' for virtual, provider in VIRTUALS.items() if provider == name)
    recipe = layout.recipe(made, name)
    recipe.parent.mkdir(parents=True)
    class_name = "".join(part.capitalize() for part in name.split("-"))
    text = EMPTY.format(name=class_name, provides=provides, imports=layout.imports)
    recipe.write_text(text, encoding="utf-8")


def pack(tree: Path, archive: Path) -> None:
    """Pack a tree with one directory at its top, like a release tarball."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f".{archive.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=1) as tar:
        tar.add(tree, arcname=tree.name, filter=_without_caches)
    part.rename(archive)


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or member.name.endswith(".pyc") else member


def _copy(source: Path, made: Path, name: str, layout: Layout) -> str:
    recipe = layout.recipe(source, name)
    if not recipe.is_file():
        raise FileNotFoundError(f"{recipe}: there is no recipe {name}")
    shutil.copytree(recipe.parent, layout.recipe(made, name).parent, ignore=shutil.ignore_patterns("__pycache__"))
    return recipe.read_text(encoding="utf-8")
