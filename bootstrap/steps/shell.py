"""Every new shell of this node finds Lmod and the release: static files on local disk, sourced last.

ParallelCluster's images carry Tcl environment-modules with init files in /etc/profile.d; ``zz-petal`` sorts last.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ..core.model import Probe, Scope, change, elsewhere, satisfied
from ..core.paths import Paths
from ..host.atomic import write_atomic
from ..host.files import make_dir, same_content
from ..lmod import image
from ..lmod.build import comes_with_the_stack, is_left_to_nodes
from ..lmod.find import Lmod, find, places_on_machine
from ..modules import templates
from ..state.context import Context
from .base import EVERYWHERE

SH = "/etc/profile.d/zz-petal.sh"
STUBS = {SH: "sh", "/etc/profile.d/zz-petal.csh": "csh", "/etc/fish/conf.d/zz-petal.fish": "fish"}
# Debian's csh reads these, and not /etc/profile.d; environment-modules stands in the second.
CSH = ("/etc/csh/cshrc.d", "/etc/csh/login.d")
LMODRC = "lmodrc.lua"
# What these shells read that no other file of theirs has sourced: a line is added where the file is there.
# Debian's zsh reads nothing of /etc/profile.d, Red Hat's at login. Red Hat's bash reads it in /etc/bashrc.
LINES = {
    "/etc/bash.bashrc": f"shopt -q login_shell || [ ! -r {SH} ] || . {SH}",
    "/etc/zsh/zshenv": f"[ ! -r {SH} ] || . {SH}",
    "/etc/zshenv": f"[[ -o login ]] || [ ! -r {SH} ] || . {SH}",
}
MARK = "# petal-node: modules of the cluster's software"


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
        lmod = find(ctx)
        if lmod is None:
            if comes_with_the_stack(ctx) and not is_left_to_nodes(ctx):
                return change("they come with Lmod", "write them")
            return elsewhere("this node has no Lmod yet")
        stale = [f"write {path}" for path, data in _files(ctx, lmod).items() if not same_content(path, data)]
        stale += [f"add a line to {path}" for path in _without_line(ctx.paths)]
        if stale:
            return change(f"{len(stale)} init files are missing or differ", *stale)
        return satisfied(f"init files use {lmod.place} and {ctx.tree}")

    def apply(self, ctx: Context) -> None:
        lmod = find(ctx)
        assert lmod is not None
        for path, data in _files(ctx, lmod).items():
            make_dir(path.parent)
            write_atomic(path, data)
        for path, text in _without_line(ctx.paths).items():
            write_atomic(path.resolve(), text.encode(errors="surrogateescape"), mode=path.stat().st_mode & 0o777)


def _files(ctx: Context, lmod: Lmod) -> dict[Path, bytes]:
    """What must stand where: the init files, what tells Lmod of the cache, and the stubs in /etc that source them."""
    lmodrc = ctx.paths.init / LMODRC
    values = {
        "current": str(ctx.paths.current), "tree": ctx.tree, "trees": ctx.trees,
        "lmod": str(lmod.place), "lmod_version": lmod.version, "lmodrc": str(lmodrc),
        "beside": [*ctx.config.modules.paths, str(ctx.paths.pins)], "image": image.directories(ctx.paths),
        "others": [str(place) for place in places_on_machine() if place != lmod.place],
    }  # fmt: skip
    files = {lmodrc: templates.text(LMODRC).encode()}
    for stub, kind in _stubs(ctx.paths).items():
        init = ctx.paths.init / f"petal.{kind}"
        files[init] = templates.render(f"init.{kind}.j2", values).encode()
        files[ctx.paths.at(stub)] = _stub(kind, init).encode()
    return files


def _stubs(paths: Paths) -> dict[str, str]:
    return {**STUBS, **{f"{directory}/zz-petal": "csh" for directory in CSH if paths.at(directory).is_dir()}}


def _stub(kind: str, init: Path) -> str:
    path = shlex.quote(str(init))
    lines = {
        "sh": f"if [ -r {path} ]; then . {path}; fi\n",
        "csh": f"if ( -r {path} ) source {path}\n",
        "fish": f"test -r {path}; and source {path}\n",
    }
    return f"# Written by petal-node: modules of the cluster's software.\n{lines[kind]}"


def _without_line(paths: Paths) -> dict[Path, str]:
    """The files of ``LINES`` that are there and lack theirs, each with what it should be."""
    found = {}
    for path, line in ((paths.at(name), line) for name, line in LINES.items()):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            wanted = _with(f"{line} {MARK}\n", text)
            if wanted != text:
                found[path] = wanted
    return found


def _with(line: str, text: str) -> str:
    """A file's text with our line in it, once: at its place where there is one of ours already, else at the end."""
    lines = text.splitlines(keepends=True)
    ours = [number for number, other in enumerate(lines) if other.rstrip().endswith(MARK)]
    if not ours:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}"
    kept = [other for number, other in enumerate(lines) if number not in ours[1:]]
    kept[ours[0]] = line
    return "".join(kept)
