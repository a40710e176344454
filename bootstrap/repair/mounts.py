"""Shared storage that ParallelCluster mounted and that is gone, and what was mounted over it or over the root."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import PetalError
from ..core.model import Probe, Scope, blocked, change, elsewhere, satisfied
from ..host.files import fstab_has
from ..state.context import Context
from ..state.store import Seen
from ..steps.base import EVERYWHERE
from .ours import token_of

MOUNT_SECONDS = 60.0
LOOK_SECONDS = 2.0  # where another mount is below, what takes longer is taken for one that hangs
AUTOMOUNT = "autofs"  # what systemd.automount(5) leaves below a mount, as for FSx for Lustre
YES = "petal-node repair --yes    (takes it off; programs that use it lose their files)"


class Remount:
    """The mount point shows what it showed before."""

    name = "remount"
    title = "nothing is missing from the mount points, or hides them"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ()
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.paths.live:
            return elsewhere("nothing is mounted under --root")
        if ctx.mounted is None:
            return _unmounted(ctx)
        over = _over(ctx)
        if not over:
            return satisfied("nothing hides them")
        told = f"{over[0]} is hidden by {_kind(ctx, over[0])}"
        lines = tuple(f"umount {point}" for point in over)
        return change(told, *lines) if ctx.may_destroy else blocked(told, *(f"findmnt {point}" for point in over), YES)

    def apply(self, ctx: Context) -> None:
        if ctx.mounted is None:
            ctx.system.run(["mount", ctx.paths.mount], timeout=MOUNT_SECONDS)
            return
        while over := _over(ctx):
            # Lazily: what hangs, or is in use, goes when its last user does, and the way is free at once (umount(8)).
            ctx.system.run(["umount", "--lazy", over[0]], timeout=MOUNT_SECONDS)


def _unmounted(ctx: Context) -> Probe:
    if ctx.config.storage.source is not None or not fstab_has(ctx.paths.at("/etc/fstab"), ctx.paths.mount):
        return elsewhere("/etc/fstab does not name it")
    return change(f"{ctx.paths.mount} is not mounted, and /etc/fstab has it", f"mount {ctx.paths.mount}")


def _over(ctx: Context) -> list[str]:
    """Mount points with another mount below the one that is seen, which is not ours."""
    points = [mount.point for mount in ctx.system.mounts() if mount.kind != AUTOMOUNT]
    root, storage = str(ctx.paths.root), ctx.paths.mount
    hidden = [storage] if points.count(storage) > 1 and not _is_ours(ctx) else []
    # Behind a storage that is not ours nothing can be said of the root: its turn comes when the way is free.
    return hidden or ([root] if points.count(root) > 1 and not _is_backed(ctx) else [])


def _is_ours(ctx: Context) -> bool:
    """The storage that this node has used; one that hangs is not."""
    before = Seen.load(ctx.paths)
    if before is None:
        return True  # nobody knows what was there
    try:
        token = ctx.system.guarded(lambda: token_of(ctx), timeout=LOOK_SECONDS, what=ctx.paths.mount)
    except (PetalError, OSError):
        return False
    return before.knows(ctx.paths.mount, token)


def _is_backed(ctx: Context) -> bool:
    backing, root = ctx.paths.shared_root, ctx.paths.root
    try:
        return ctx.system.guarded(lambda: _same(root, backing), timeout=LOOK_SECONDS, what=str(root))
    except (PetalError, OSError):
        return False


def _same(root: Path, backing: Path) -> bool:
    return root.exists() and backing.exists() and root.samefile(backing)


def _kind(ctx: Context, point: str) -> str:
    top = [mount for mount in ctx.system.mounts() if mount.point == point][-1]
    return f"{top.kind} from {top.source}"
