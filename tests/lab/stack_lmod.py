"""The stack's own Lmod in the lab: real recipes, real sources, and nodes without Lmod, like ParallelCluster's.

Lua 5.4.4, luaposix 35.0 and LuaFileSystem 1.8.0 match the recipes. For Lmod and LuaRocks, which the
recipe of Lua contains, Debian has versions that the recipes do not know: the recipes get them with their checksums.
They are linked to libraries of the system.
"""

from __future__ import annotations

from pathlib import Path

from tests.lab import recipes, sources, stack
from tests.lab.stack import Shown

VERSION = "8.7.60"
BUILT = ("lmod", "lua", "lua-luaposix", "lua-luafilesystem")
SYSTEM = (
    "tcl@8.6.13", "ncurses@6.4+termlib", "readline@8.2", "unzip@6.0", "curl@7.88.1", "bc@1.07.1", "pkgconf@1.8.1",
    "libxcrypt@4.4.33", "diffutils@3.8",
)  # fmt: skip
PINS = (f"lmod@{VERSION}", "lua@5.4.4", "lua-luaposix@35.0", "lua-luafilesystem@1.8.0")
GITHUB = ("a4edf2f715feff65acb009e8d1689e57ec665eb79bc36a6649fae55eafd56809",
          "16d17c788b8093f2047325343f5e9b74cccb1ea96001e45914a58bbae8932495")  # fmt: skip
LUAROCKS = 'url="https://luarocks.github.io/luarocks/releases/luarocks-3.11.1.tar.gz"'
LUAROCKS_SHA256 = "c3fb3d960dffb2b2fe9de7e3cb004dc4d0b34bb3d342578af84f84325c669102"


def missing() -> str | None:
    """Return why Lmod cannot be built here, or None if it can."""
    absent = [path for path in map(_kept, GITHUB) if not path.is_file()]
    return stack.no_spack() or (f"{absent[0].name} is not in {absent[0].parent} (make spack)" if absent else None)


def _kept(sha256: str) -> Path:
    return stack.spack_cache() / "sources" / "_source-cache" / "archive" / sha256[:2] / f"{sha256}.tar.gz"


def edit(repository: Path, layout: recipes.Layout = recipes.PACKAGES) -> None:
    """Add Debian's versions to the recipes of a subset."""
    lmod, luarocks = sources.SOURCES["lmod"], sources.SOURCES["luarocks"]
    first = '    version("8.7'
    _replace(layout.recipe(repository, "lmod"), first, f'    version("{VERSION}", sha256="{lmod.sha256}")\n{first}')
    recipe = layout.recipe(repository, "lua")
    _replace(recipe, LUAROCKS, LUAROCKS.replace("3.11.1.tar.gz", "3.8.0.tar.xz"))
    _replace(recipe, LUAROCKS_SHA256, luarocks.sha256)


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise ValueError(f"{path} has no {old}")
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def files() -> dict[str, bytes]:
    """The sources of Lmod and Lua, by their names in Spack's mirror format."""
    names = ("lua", "lmod", "luarocks")
    top = sources.mirror(*names)
    found = [sources.place(top, sources.SOURCES[name]) for name in names] + [_kept(sha256) for sha256 in GITHUB]
    return {f"_source-cache/archive/{path.parent.name}/{path.name}": path.read_bytes() for path in found}


SHOWN = Shown(
    "bzip2",
    stack.BZIP2.spec,
    stack.BZIP2.run,
    (),
    SYSTEM,
    BUILT,
    ("ncurses", "lua-luajit", "lua-luajit-openresty"),
    PINS,
    edit,
    files,
)
