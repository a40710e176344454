"""Init files on local disk, with which new shells find Lmod and the current release. They are sourced last.

ParallelCluster's images have Tcl environment-modules with init files in /etc/profile.d; ``zz-petal`` sorts last.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from ..core.deadlines import PROBE
from ..core.model import Finding, change, elsewhere, satisfied
from ..core.paths import Paths
from ..host.atomic import write_atomic
from ..host.files import make_dir, same_content
from ..lmod.build import is_pending
from ..lmod.find import Lmod, find_lmod, image_places, tcl_modulepath
from ..modules import templates
from ..state.context import Context
from .base import IMAGE_BUILDS, ON_NODES, Step
from .lmod import NodeLmod
from .root import WAY_TO_STORAGE, Root

SH = "/etc/profile.d/zz-petal.sh"
STUBS = {SH: "sh", "/etc/profile.d/zz-petal.csh": "csh", "/etc/fish/conf.d/zz-petal.fish": "fish"}
# Debian's csh reads these instead of /etc/profile.d; environment-modules has a file in the second.
CSH = ("/etc/csh/cshrc.d", "/etc/csh/login.d")
LMODRC = "lmodrc.lua"
MODE = 0o644
FIRST_TREE = "first_tree.sh"
# Files of shells that source none of the stubs; each gets one line if it exists. Debian's zsh reads nothing in
# /etc/profile.d, Red Hat's does at login. Red Hat's bash reads it in /etc/bashrc. Debian's bash.bashrc returns early
# in a shell that is not interactive, for example of a command over ssh, so the line is the first one.
LINES = {
    "/etc/bash.bashrc": f"shopt -q login_shell || [ ! -r {SH} ] || . {SH}",
    "/etc/zsh/zshenv": f"[ ! -r {SH} ] || . {SH}",
    "/etc/zshenv": f"[[ -o login ]] || [ ! -r {SH} ] || . {SH}",
}
MARK = "# petal-node: modules of the cluster's software"


class Shell(Step):
    """Init files for sh, bash, zsh, ksh, csh, tcsh and fish."""

    name = "shell"
    needs = (Root, NodeLmod)
    part_of = ON_NODES | IMAGE_BUILDS
    after = WAY_TO_STORAGE
    seconds = None

    def probe(self, ctx: Context) -> Finding:
        lmod = find_lmod(ctx)
        if lmod is None and is_pending(ctx):
            return change("the init files need Lmod, which the stack builds", "write the init files")
        if lmod is None or not lmod.version:  # the step of Lmod reports it
            return elsewhere("this node has no Lmod that runs")
        tree = _tree(ctx)
        stale = [f"write {path}" for path, data in _files(ctx, lmod, tree).items() if not _is_right(path, data)]
        stale += [f"add a line to {path}" for path in _files_to_edit(ctx.paths)]
        if stale:
            return change(f"{len(stale)} init files are missing or differ", *stale)
        return satisfied(f"init files use {lmod.place} and {tree}")

    def apply(self, ctx: Context) -> None:
        lmod = find_lmod(ctx)
        assert lmod is not None
        for path, data in _files(ctx, lmod, _tree(ctx)).items():
            make_dir(path.parent)
            write_atomic(path, data)
        for path, text in _files_to_edit(ctx.paths).items():
            write_atomic(path.resolve(), text.encode(errors="surrogateescape"), mode=path.stat().st_mode & 0o777)


def _is_right(path: Path, data: bytes) -> bool:
    """True if all users can read the file, and it has this content."""
    return same_content(path, data) and path.stat().st_mode & MODE == MODE


def _tree(ctx: Context) -> str:
    """The tree of root's shells, which never touch shared storage: the one that other users' shells find.

    The current release counts, because the desired one may never be published; without a release, the desired one.
    """

    def find() -> str:
        modules = ctx.paths.current / "modules"
        return next((tree for tree in ctx.trees if (modules / tree).is_dir()), ctx.tree)

    return ctx.system.on_storage(find, ctx.paths.root, PROBE)


def _files(ctx: Context, lmod: Lmod, tree: str) -> dict[Path, bytes]:
    """The content of each file of ours: init files, the files that they read, stubs in /etc that source them."""
    lmodrc = ctx.paths.init / LMODRC
    values = {
        "current": str(ctx.paths.current),
        "tree": tree,
        "trees": ctx.trees,
        "lmod": str(lmod.place),
        "lmod_version": lmod.version,
        "lmodrc": str(lmodrc),
        "first_tree": str(ctx.paths.init / FIRST_TREE),
        "site": [*ctx.config.modules.paths, str(ctx.paths.pins)],
        "image": tcl_modulepath(ctx.paths),
        "others": [str(place) for place in image_places() if place != lmod.place],
    }
    files = {ctx.paths.init / name: templates.text(name).encode() for name in (LMODRC, FIRST_TREE)}
    csh = {f"{directory}/zz-petal": "csh" for directory in CSH if ctx.paths.at(directory).is_dir()}
    for path, kind in {**STUBS, **csh}.items():
        init = ctx.paths.init / f"petal.{kind}"
        files[init] = templates.render(f"init.{kind}.j2", values).encode()
        files[ctx.paths.at(path)] = _stub(kind, init).encode()
    return files


def _stub(kind: str, init: Path) -> str:
    path = shlex.quote(str(init))
    lines = {
        "sh": f"if [ -r {path} ]; then . {path}; fi\n",
        "csh": f"if ( -r {path} ) source {path}\n",
        "fish": f"test -r {path}; and source {path}\n",
    }
    return f"# Written by petal-node: modules of the cluster's software.\n{lines[kind]}"


def _files_to_edit(paths: Paths) -> dict[Path, str]:
    """The existing files of ``LINES`` whose line is missing or differs, each with its new text."""
    edits = {}
    for path, line in ((paths.at(name), line) for name, line in LINES.items()):
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
            edited = _with_line(f"{line} {MARK}\n", text, first=path.name == "bash.bashrc")
            if edited != text:
                edits[path] = edited
    return edits


def _with_line(line: str, text: str, *, first: bool) -> str:
    """A file's text with our line in it once: ``first``, else in place of an earlier line of ours, else at the end."""
    lines = text.splitlines(keepends=True)
    ours = [number for number, other in enumerate(lines) if other.rstrip().endswith(MARK)]
    if not ours and not first:
        return f"{text}{'' if not text or text.endswith(chr(10)) else chr(10)}{line}"
    others = [other for number, other in enumerate(lines) if number not in ours]
    others.insert(0 if first else ours[0], line)
    return "".join(others)
