"""Every new shell of this node finds Lmod and the release: static files on local disk, sourced last.

ParallelCluster's images carry Tcl environment-modules with init files in /etc/profile.d; ``zz-petal`` sorts last.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from .. import templates
from ..context import Context
from ..errors import PetalError
from ..files import make_dir, same_content, write_atomic
from ..model import Probe, Scope, blocked, change, satisfied
from .base import EVERYWHERE

LMOD_PLACES = ("/usr/share/lmod/lmod", "/opt/apps/lmod/lmod", "/usr/share/lmod")
OLDEST_LMOD = (8, 5)
SHELLS = {
    "sh": "/etc/profile.d/zz-petal.sh",
    "csh": "/etc/profile.d/zz-petal.csh",
    "fish": "/etc/fish/conf.d/zz-petal.fish",
}


class Shell:
    """Init files for sh, bash, zsh, ksh, csh, tcsh and fish."""

    name = "shell"
    title = "new shells find the modules"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("root",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        lmod = find_lmod()
        if lmod is None:
            return blocked(
                "this node has no Lmod",
                "apt-get install lmod    (Debian, Ubuntu 24.04; into the image)",
                "dnf install Lmod        (EPEL; into the image)",
            )
        version = lmod_version(ctx, lmod)
        if version < OLDEST_LMOD:
            found = ".".join(map(str, version)) or "unknown"
            return blocked(f"Lmod {found} in {lmod} is too old, 8.5 is needed", "install a newer Lmod into the image")
        stale = [str(path) for path, data in _files(ctx, lmod).items() if not same_content(path, data)]
        if stale:
            return change(f"{len(stale)} init files are missing or differ", *(f"write {path}" for path in stale))
        return satisfied(f"init files use Lmod {'.'.join(map(str, version))} and {ctx.tree}")

    def apply(self, ctx: Context) -> None:
        lmod = find_lmod()
        assert lmod is not None
        for path, data in _files(ctx, lmod).items():
            make_dir(path.parent)
            write_atomic(path, data)


def find_lmod() -> Path | None:
    """The directory of the node's own Lmod: the one that holds init/ and libexec/."""
    places = [Path(place) for place in LMOD_PLACES]
    return next((place for place in places if (place / "libexec" / "lmod").is_file()), None)


def lmod_version(ctx: Context, lmod: Path) -> tuple[int, ...]:
    """Lmod's version, ``(8, 6, 19)``; empty where it does not say."""
    try:
        done = ctx.system.run([str(lmod / "libexec" / "lmod"), "bash", "--version"], timeout=20, ok=None)
    except PetalError:
        return ()
    found = re.search(r"Version (\d+(?:\.\d+)*)", done.stderr + done.stdout)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _files(ctx: Context, lmod: Path) -> dict[Path, bytes]:
    """What must stand where: the init files, and the stubs in /etc that source them."""
    values = {"current": str(ctx.paths.current), "tree": ctx.tree, "trees": ctx.trees, "lmod": str(lmod)}
    files = {}
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
