"""Mounts that hide shared storage or the root, and shared storage of /etc/fstab that is not mounted."""

from __future__ import annotations

from ..core.deadlines import PROBE, PROGRAM
from ..core.errors import PetalError
from ..core.model import Finding, blocked, change, elsewhere, satisfied
from ..host.files import fstab_has
from ..state.context import Context
from ..state.store import ClusterState, KnownStorage
from .base import Step

AUTOMOUNT = "autofs"  # systemd.automount(5) leaves this below a mount, for example of FSx for Lustre


class HiddenMounts(Step):
    """Shared storage is mounted if /etc/fstab has it, and no other mount hides it or the root.

    Other mounts are never unmounted: the finding has the command.
    """

    name = "hidden-mounts"
    title = "no other mount hides shared storage or the root"
    runs = frozenset({"repair", "check"})
    seconds = None

    def probe(self, ctx: Context) -> Finding:
        mount = ctx.paths.mount
        if not ctx.paths.live:
            return elsewhere("nothing is mounted under --root")
        if ctx.mounted is None:
            if ctx.config.storage.source is not None or not fstab_has(ctx.paths.at("/etc/fstab"), mount):
                return elsewhere(f"/etc/fstab has no line for {mount}")
            return change(f"{mount} is not mounted, and /etc/fstab has it", f"mount {mount}")
        hidden = _hidden(ctx)
        if hidden is None:
            return satisfied(f"no other mount hides {mount} or {ctx.paths.root}")
        top = [mount for mount in ctx.system.mounts() if mount.point == hidden][-1]
        return blocked(
            f"{hidden} is hidden by another mount: {top.kind} from {top.source}",
            f"findmnt {hidden}",
            f"umount --lazy {hidden}    (programs that use the upper mount lose their files)",
        )

    def apply(self, ctx: Context) -> None:
        if ctx.mounted is None:
            ctx.system.run(["mount", ctx.paths.mount], timeout=PROGRAM)


def _hidden(ctx: Context) -> str | None:
    """The mount point whose upper mount is not petal-node's; shared storage first, because the root depends on it."""
    points = [mount.point for mount in ctx.system.mounts() if mount.kind != AUTOMOUNT]
    root, storage = str(ctx.paths.root), ctx.paths.mount
    if points.count(storage) > 1 and not _is_known_storage(ctx):
        return storage
    return root if points.count(root) > 1 and not _is_backed(ctx) else None


def _is_known_storage(ctx: Context) -> bool:
    """True for the storage that this node has used, or if it has used none. False for a mount that hangs."""
    before = KnownStorage.load(ctx.paths)
    if before is None:
        return True
    try:
        token = ctx.system.on_storage(ClusterState(ctx.paths, trusting=True).token_or_none, ctx.paths.mount, PROBE)
    except (PetalError, OSError):
        return False
    return before.knows(ctx.paths.mount, token)


def _is_backed(ctx: Context) -> bool:
    backing, root = ctx.paths.shared_root, ctx.paths.root

    def is_same() -> bool:
        return root.exists() and backing.exists() and root.samefile(backing)

    try:
        return ctx.system.on_storage(is_same, root, PROBE)
    except (PetalError, OSError):
        return False
