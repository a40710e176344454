"""A small recipe repository out of a real one, as a site's own subset would be: what is built is verbatim.

Concretizing with all 8,000 recipes costs 18 s warm and 68 s cold, since the compilers' recipes pull a thousand
packages into what is possible. Here the kept recipes are copied as they are; compilers, libc and make with every
dependency, conflict and patch taken out, which is right for what the system brings; whatever else a kept recipe may
name is an empty recipe. The tests of real Spack use the whole repository as well.
"""

from __future__ import annotations

import re
import shutil
import tarfile
from pathlib import Path

VIRTUALS = {"c": "gcc", "cxx": "gcc", "fortran": "gcc", "mpi": "openmpi", "libc": "glibc"}
ALWAYS = ("gcc", "gcc-runtime", "glibc", "compiler-wrapper", "gmake")
KEPT_ALWAYS = frozenset({"gcc-runtime", "compiler-wrapper"})
BARE = "\ndepends_on = conflicts = patch = resource = requires = lambda *args, **kwargs: None\n"
DEPENDENCY = re.compile(r'depends_on\(\s*"([a-z0-9-]+)')
EMPTY = '''\
from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class {name}(Package):
    """Named by a recipe of this subset and not part of it."""

    has_code = False
    version("1")
{provides}'''
IMPORT = re.compile(r"^from spack\.package import .*$", re.MULTILINE)


def subset(recipes: Path, target: Path, keep: tuple[str, ...], bare: tuple[str, ...] = ()) -> None:
    """Writes ``target/repos/spack_repo/builtin`` with the recipes ``keep`` and all that they may need, bare.

    Args:
        recipes: the top of a spack-packages tree.
        bare: recipes that are there with their variants, and without what they need.
    """
    source = recipes / "repos" / "spack_repo" / "builtin"
    made = target / "repos" / "spack_repo" / "builtin"
    made.mkdir(parents=True)
    for name in ("repo.yaml", "__init__.py"):
        if (source / name).exists():
            shutil.copyfile(source / name, made / name)
    shutil.copytree(source / "build_systems", made / "build_systems")
    named = {"mpi"}  # the module hierarchy names it, so it must be a virtual package that somebody provides
    for name in keep:
        named |= set(DEPENDENCY.findall(_copy(source, made, name)))
    for name in (*ALWAYS, *bare):
        _copy_bare(source, made, name)
    for name in sorted({VIRTUALS.get(found, found) for found in named} - {*keep, *bare, *ALWAYS}):
        _write_empty(made, name)


def _copy_bare(source: Path, made: Path, name: str) -> None:
    text = _copy(source, made, name)
    if name not in KEPT_ALWAYS:
        bare = IMPORT.sub(lambda found: found.group(0) + BARE, text, count=1)
        _recipe(made, name).write_text(bare, encoding="utf-8")


def _write_empty(made: Path, name: str) -> None:
    provides = "".join(f'    provides("{virtual}")\n' for virtual, provider in VIRTUALS.items() if provider == name)
    recipe = _recipe(made, name)
    recipe.parent.mkdir(parents=True)
    class_name = "".join(part.capitalize() for part in name.split("-"))
    recipe.write_text(EMPTY.format(name=class_name, provides=provides), encoding="utf-8")


def pack(tree: Path, archive: Path) -> None:
    """Packs a tree with one directory at its top, as a release tarball has."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(f".{archive.name}.part")
    with tarfile.open(part, "w:gz", compresslevel=1) as tar:
        tar.add(tree, arcname=tree.name, filter=_without_caches)
    part.rename(archive)


def _without_caches(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in member.name or member.name.endswith(".pyc") else member


def _recipe(repository: Path, name: str) -> Path:
    return repository / "packages" / name.replace("-", "_") / "package.py"


def _copy(source: Path, made: Path, name: str) -> str:
    recipe = _recipe(source, name)
    if not recipe.is_file():
        raise FileNotFoundError(f"{recipe}: there is no recipe {name}")
    shutil.copytree(recipe.parent, _recipe(made, name).parent, ignore=shutil.ignore_patterns("__pycache__"))
    return recipe.read_text(encoding="utf-8")
