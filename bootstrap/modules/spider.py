"""Lmod's spider cache of a release, with which ``module`` lists and loads modules without reading the tree.

An incomplete cache hides modules. Each version of Lmod therefore creates its own cache and reads only that one
(``lmodrc.lua``). While a tree changes, its caches are invalid: Lmod ignores a cache that is older than its timestamp
(Lmod, docs/source/130_spider_cache.rst).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from ..core.deadlines import INDEX
from ..core.errors import ModulesError
from ..core.text import quoted
from ..host.atomic import staged_dir, write_atomic
from ..host.files import make_dir
from ..host.system import PATH, clean_env
from ..lmod.find import NONE, Lmod, find_lmod, usable_copies
from ..state.context import Context

UPDATE = "update_lmod_system_cache_files"
CACHE, TIMESTAMP = "spiderT.lua", "timestamp"
ENV = clean_env("/nonexistent")
# Parse each file with Lua first, because Lmod's spider silently skips files with syntax errors. Lua's message has only
# the end of a long path (LUA_IDSIZE).
PARSE = """
for _, path in ipairs(arg) do
  local ok, why = loadfile(path)
  if not ok then print((why:gsub("^%.%.%..-(:%d+:)", function(line) return path .. line end))) os.exit(1) end
end
"""
FILES_PER_PROCESS = 1000


def invalidate(tree: Path) -> None:
    """Makes Lmod read the tree itself until ``write_cache``. Call it before a change of the tree."""
    for cache in _directory(tree).glob(f"*/{CACHE}"):
        timestamp = cache.with_name(TIMESTAMP)
        later = max(cache.stat().st_mtime, time.time()) + 2  # Lmod compares whole seconds
        write_atomic(timestamp, b"the tree is being written\n")
        os.utime(timestamp, (later, later))


def write_cache(ctx: Context, tree: Path) -> None:
    """Writes the cache of a complete tree, for the node's Lmod and for older copies that nodes use until they restart.

    A node without Lmod writes none; modules work without it.

    Raises:
        ModulesError: ``modules-lua``, a module file is not valid Lua; ``modules-cache``, Lmod failed.
    """
    lmod = find_lmod(ctx)
    if lmod is None or lmod.problem:
        ctx.note(f"no module cache: {lmod.problem if lmod else NONE}")
        return
    _check_syntax(ctx, lmod, tree)
    for each in {copy.version: copy for copy in (*usable_copies(ctx.system, ctx.paths), lmod)}.values():
        with staged_dir(_directory(tree) / each.version) as staging:
            make_dir(staging)
            _run_spider(ctx, each, staging, tree)


def is_missing(ctx: Context, tree: Path) -> bool:
    """True if the Lmod of this node has no valid cache of the tree."""
    lmod = find_lmod(ctx)
    if lmod is None or lmod.problem:
        return False
    cache = _directory(tree) / lmod.version / CACHE
    try:
        return cache.stat().st_mtime < cache.with_name(TIMESTAMP).stat().st_mtime
    except FileNotFoundError:
        return True


def _directory(tree: Path) -> Path:
    return tree.parents[1] / "cache" / tree.name


def _run_spider(ctx: Context, lmod: Lmod, directory: Path, tree: Path) -> None:
    program, timestamp = lmod.place / "libexec" / UPDATE, directory / TIMESTAMP
    argv = [str(program), "-d", str(directory), "-t", str(timestamp), str(tree / "Core")]
    lua = _interpreter(lmod)
    # Lmod takes luac from PATH, and cannot read the output of another Lua's luac.
    env = ENV if lua is None else {**ENV, "PATH": f"{lua.parent}:{PATH}"}
    done = ctx.system.run(argv, timeout=INDEX, env=env, ok=None)
    if done.returncode:
        raise ModulesError(
            f"Lmod failed to write its cache of {tree.name}",
            why=done.tail(),
            remedy=(f"ls -l {quoted(lmod.place)}/libexec", f"df -h {quoted(ctx.paths.root)}"),
            code="modules-cache",
        )


def _interpreter(lmod: Lmod) -> Path | None:
    """The Lua in the first line of Lmod's program; None if that line names another program."""
    line = (lmod.place / "libexec" / "lmod").read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    program = Path(next(iter(line.removeprefix("#!").split()), "/"))
    return program if line.startswith("#!") and program.name.startswith("lua") else None


def _check_syntax(ctx: Context, lmod: Lmod, tree: Path) -> None:
    lua = _interpreter(lmod)
    files = [str(path) for path in tree.rglob("*.lua")] if lua else []
    for start in range(0, len(files), FILES_PER_PROCESS):
        argv = [str(lua), "-e", PARSE, "-", *files[start : start + FILES_PER_PROCESS]]
        done = ctx.system.run(argv, timeout=INDEX, env=ENV, ok=None)
        if done.returncode:
            raise ModulesError(
                f"a module file of {tree.name} is not valid Lua",
                why=done.tail(),
                remedy=("correct or remove that file", "petal-node repair    # writes the release's modules again"),
                code="modules-lua",
            )
