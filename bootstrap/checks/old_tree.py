"""A Spack tree at /opt/spack, where images of petal and many guides have it: is it the image's, or this node's alone?

A file's change time (st_ctime) cannot be set, and a snapshot keeps it: what changed before this instance first came up
was there when it was started from its image, and so is on every node of that image. When that was is told by
cloud-init's semaphores, which it writes once per instance (/var/lib/cloud/instance/sem), else by dna.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..cluster.detect import DNA
from ..core.errors import PetalError, SpackError
from ..core.model import Finding, Mark
from ..spack.database import install_times
from ..spack.program import version_of
from ..state.context import Context

TREE = "/opt/spack"
TOUCH_SECONDS = 5.0
DOCS = "docs/layouts.md tells how to move it to shared storage"


@dataclass(frozen=True)
class OldTree:
    """What lies there.

    Args:
        version: Spack's, None where the tree does not say.
        packages: how many its database calls installed.
        later: how many of these were installed after this node came up.
        baked: the tree itself is the machine image's.
    """

    version: str | None
    packages: int
    later: int
    baked: bool


def find_old_tree(ctx: Context) -> OldTree | None:
    """The tree at /opt/spack, None where there is none or nobody knows when this node came up."""
    tree = ctx.paths.at(TREE)
    program = tree / "bin" / "spack"
    came_up = _first_boot(ctx)
    if not program.is_file() or came_up is None:
        return None
    try:
        times = install_times(tree / "opt" / "spack")
    except SpackError:  # a database that nobody can read holds no package that anybody could use
        times = ()
    later = sum(time > came_up for time in times)
    return OldTree(version_of(tree), len(times), later, _changed(program) < came_up)


def judge_old_tree(ctx: Context) -> Finding | None:
    """Who can use it, as a finding; None where there is nothing to say."""
    try:
        old = ctx.system.guarded(lambda: find_old_tree(ctx), timeout=TOUCH_SECONDS, what=TREE)  # it may be a mount
    except (PetalError, OSError) as error:
        return Finding("opt-spack", Mark.WARN, f"{TREE} cannot be looked at", str(error), (f"findmnt -T {TREE}",))
    if old is None:
        return None
    what = f"Spack {old.version or 'of an unknown version'} with {old.packages} packages is at {TREE}"
    if not old.baked:
        why = "it was put there after this node came up, so this node alone has it"
        return Finding("opt-spack", Mark.WARN, what, why, (DOCS,))
    if old.later:
        why = f"it is part of the machine image, but {old.later} packages were installed later, on this node alone"
        return Finding("opt-spack", Mark.WARN, what, why, (DOCS,))
    return Finding("opt-spack", Mark.OK, f"{what}, part of the machine image: every node of that image has it")


def _first_boot(ctx: Context) -> float | None:
    marks = [*ctx.paths.at("/var/lib/cloud/instance/sem").glob("*")] or [ctx.paths.at(DNA)]
    return min((_changed(mark) for mark in marks if mark.exists()), default=None)


def _changed(path: Path) -> float:
    return path.lstat().st_ctime
