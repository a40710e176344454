"""Every new shell of this node finds Lmod and the release: static files on local disk, sourced last.

ParallelCluster's images carry Tcl environment-modules with init files in /etc/profile.d; ``zz-petal`` sorts last.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from .. import templates
from ..context import Context
from ..files import make_dir, same_content, write_atomic
from ..lmod import dotted, find_lmod, lmod_version
from ..model import Probe, Scope, change, elsewhere, satisfied
from .base import EVERYWHERE

SHELLS = {
    "sh": "/etc/profile.d/zz-petal.sh",
    "csh": "/etc/profile.d/zz-petal.csh",
    "fish": "/etc/fish/conf.d/zz-petal.fish",
}
LMODRC = "lmodrc.lua"


class Shell:
    """Init files for sh, bash, zsh, ksh, csh, tcsh and fish."""

    name = "shell"
    title = "new shells find the modules"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("root", "lmod")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        lmod = find_lmod()
        if lmod is None:
            return change("they come with Lmod", "write them") if ctx.bakes else elsewhere("this node has no Lmod")
        stale = [str(path) for path, data in _files(ctx, lmod).items() if not same_content(path, data)]
        if stale:
            return change(f"{len(stale)} init files are missing or differ", *(f"write {path}" for path in stale))
        return satisfied(f"init files use {lmod} and {ctx.tree}")

    def apply(self, ctx: Context) -> None:
        lmod = find_lmod()
        assert lmod is not None
        for path, data in _files(ctx, lmod).items():
            make_dir(path.parent)
            write_atomic(path, data)


def _files(ctx: Context, lmod: Path) -> dict[Path, bytes]:
    """What must stand where: the init files, what tells Lmod of the cache, and the stubs in /etc that source them."""
    lmodrc = ctx.paths.init / LMODRC
    values = {
        "current": str(ctx.paths.current), "tree": ctx.tree, "trees": ctx.trees,
        "lmod": str(lmod), "lmod_version": dotted(lmod_version(ctx.system, lmod)), "lmodrc": str(lmodrc),
        "beside": [*ctx.config.modules.paths, str(ctx.paths.pins)],
    }  # fmt: skip
    files = {lmodrc: templates.text(LMODRC).encode()}
    for shell, stub in SHELLS.items():
        init = ctx.paths.init / f"petal.{shell}"
        files[init] = templates.render(f"init.{shell}.j2", values).encode()
        files[ctx.paths.at(stub)] = _stub(shell, init).encode()
    return files


def _stub(shell: str, init: Path) -> str:
    path = shlex.quote(str(init))
    lines = {
        "sh": f"if [ -r {path} ]; then . {path}; fi\n",
        "csh": f"if ( -r {path} ) source {path}\n",
        "fish": f"test -r {path}; and source {path}\n",
    }
    return "# Written by petal-node: modules of the cluster's software.\n" + lines[shell]
