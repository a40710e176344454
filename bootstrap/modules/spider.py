"""Lmod's spider cache of a release: what ``module`` shows and loads without reading the tree.

A cache that says too little hides modules, so it is made by the Lmod that is here, found only by one of that version
(``lmodrc.lua``), and void while the tree changes: Lmod passes over a cache that is older than its timestamp
(Lmod, docs/source/130_spider_cache.rst).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..core.errors import ModulesError
from ..host.atomic import staged_dir, write_atomic
from ..host.files import make_dir
from ..host.system import PATH
from ..lmod.find import NONE, Lmod, find_lmod, usable_copies
from ..state.context import Context

UPDATE = "update_lmod_system_cache_files"
CACHE, TIMESTAMP = "spiderT.lua", "timestamp"
SPIDER_SECONDS = 600.0
ENV = {"PATH": PATH, "HOME": "/nonexistent", "LANG": "C.UTF-8"}
# Lua's own parser looks at each file; Lmod's spider passes over one that is none without a word.
PARSE = "for number = 1, #arg do local ok, why = loadfile(arg[number]) if not ok then print(why) os.exit(1) end end"
AT_ONCE = 1000
WHOLE_SECONDS = 2  # Lmod compares times without their fractions


def invalidate(tree: Path) -> None:
    """Called before a tree is changed: Lmod looks at the tree itself until the cache has been written again."""
    for cache in _place(tree).glob(f"*/{CACHE}"):
        stamp, later = cache.with_name(TIMESTAMP), max(cache.stat().st_mtime, time.time()) + WHOLE_SECONDS
        write_atomic(stamp, b"the tree is being written\n")
        os.utime(stamp, (later, later))


def write_cache(ctx: Context, tree: Path) -> None:
    """Makes the cache of a tree that is whole. Without an Lmod here there is none, and modules work as before.

    Older copies of the stack's Lmod get one too: nodes use them until they start again.

    Raises:
        ModulesError: ``modules-lua``, a module file is not valid Lua; ``modules-cache``, Lmod failed.
    """
    lmod = find_lmod(ctx)
    if lmod is None or lmod.problem:
        ctx.note(f"no module cache: {lmod.problem if lmod else NONE}")
        return
    _parse(ctx, lmod, tree)
    for each in {one.version: one for one in (*usable_copies(ctx.system, ctx.paths), lmod)}.values():
        _write_one(ctx, each, tree)


def _write_one(ctx: Context, lmod: Lmod, tree: Path) -> None:
    place = _place(tree) / lmod.version
    with staged_dir(place) as part:
        make_dir(part)
        _spider(ctx, lmod, part, tree)


def is_missing(ctx: Context, tree: Path) -> bool:
    """True where the Lmod of this node has no valid cache of the tree."""
    lmod = find_lmod(ctx)
    if lmod is None or lmod.problem:
        return False
    cache = _place(tree) / lmod.version / CACHE
    try:
        return cache.stat().st_mtime < cache.with_name(TIMESTAMP).stat().st_mtime
    except FileNotFoundError:
        return True


def _place(tree: Path) -> Path:
    return tree.parents[1] / "cache" / tree.name


def _spider(ctx: Context, lmod: Lmod, part: Path, tree: Path) -> None:
    argv = [str(lmod.place / "libexec" / UPDATE), "-d", str(part), "-t", str(part / TIMESTAMP), str(tree / "Core")]
    lua = _lua(lmod)
    # Lmod looks into PATH for luac, and cannot read what that of another Lua compiles.
    env = ENV if lua is None else {**ENV, "PATH": f"{lua.parent}:{PATH}"}
    done = ctx.system.run(argv, timeout=SPIDER_SECONDS, env=env, ok=None)
    if done.returncode:
        raise ModulesError(
            f"Lmod could not make its cache of {tree.name}",
            why=done.tail(),
            remedy=(f"ls -l {lmod.place}/libexec", f"df -h {ctx.paths.root}"),
            code="modules-cache",
        )


def _lua(lmod: Lmod) -> Path | None:
    """The Lua that runs Lmod, which the first line of its program names; None where that is another program."""
    line = (lmod.place / "libexec" / "lmod").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    program = Path(next(iter(line.removeprefix("#!").split()), "/"))
    return program if line.startswith("#!") and program.name.startswith("lua") else None


def _parse(ctx: Context, lmod: Lmod, tree: Path) -> None:
    lua = _lua(lmod)
    files = [str(path) for path in tree.rglob("*.lua")] if lua else []
    for start in range(0, len(files), AT_ONCE):
        argv = [str(lua), "-e", PARSE, "-", *files[start : start + AT_ONCE]]
        done = ctx.system.run(argv, timeout=SPIDER_SECONDS, env=ENV, ok=None)
        if done.returncode:
            raise ModulesError(
                f"a module file of {tree.name} is not valid Lua",
                why=done.tail(),
                remedy="correct or remove that file; petal-node repair writes the modules of the release again",
                code="modules-lua",
            )
