"""Mounts that hide shared storage or the root, and shared storage of /etc/fstab that is not mounted."""

from __future__ import annotations

from ..core.deadlines import PROBE, PROGRAM
from ..core.model import Finding, blocked, change, elsewhere, satisfied
from ..host.files import fstab_has
from ..state.context import Context
from ..state.store import ClusterState
from .base import Step

AUTOMOUNT = "autofs"  # systemd.automount(5) leaves this below a mount, for example of FSx for Lustre


class HiddenMounts(Step):
    """Shared storage is mounted if /etc/fstab has it, and no other mount hides it or the root.

    Other mounts are never unmounted: the finding has the command.
    """

    name = "hidden-mounts"
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
    root, storage = ctx.paths.root, ctx.paths.mount
    shared = ClusterState(ctx.paths, trusting=True)
    if points.count(storage) > 1 and not ctx.system.try_storage(shared.is_known_storage, storage, PROBE):
        return storage
    if points.count(str(root)) > 1:
        is_same = ctx.system.try_storage(lambda: root.samefile(ctx.paths.shared_root), root, PROBE)
        return None if is_same else str(root)
    return None
