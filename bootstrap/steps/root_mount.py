"""The bind mount of <mount>/petal/root at /opt/petal (layouts ``shared`` and ``hybrid``), which reboots keep.

systemd.mount(5) wants a unit named after its mount point. ``_netdev``: it needs the network, and what is not marked so
stands before local-fs.target, which the network comes after. ``nofail``: no boot waits for it. Under ``--root`` nothing
is mounted: a symbolic link stands for the bind mount there.
"""

from __future__ import annotations

from pathlib import Path

from ..core.deadlines import COMMAND, PROBE, PROGRAM
from ..core.errors import PetalError, RootError, as_error
from ..core.model import Finding, blocked, change, refused, satisfied
from ..host import systemd
from ..host.atomic import replace_link
from ..host.files import make_dir, real_path_problem
from ..state.context import Context

UNIT_SECONDS = 90.0  # DefaultTimeoutStartSec of systemd (systemd-system.conf(5))
UNIT = "opt-petal.mount"
TEMPLATE = """\
# petal-node: the software root, on every node under the same path.
[Unit]
Description=petal-node software root
RequiresMountsFor={mount}

[Mount]
What={backing}
Where=/opt/petal
Type=none
Options=bind,_netdev,nofail
TimeoutSec=60

[Install]
WantedBy=multi-user.target
"""


def probe(ctx: Context) -> Finding:
    """Whether the root is bound to shared storage, and stays so over a reboot; looks for at most 5 s."""
    backing = ctx.paths.shared_root
    try:
        state = ctx.system.on_storage(lambda: _backed(ctx), ctx.paths.root, PROBE)
    except (PetalError, OSError) as trouble:
        return refused(as_error(trouble, ctx.paths.root))
    if state == "absent":
        return change(f"{backing} is not made yet", f"bind {ctx.paths.root} to {backing}")
    if state == "foreign":
        return blocked(
            f"{ctx.paths.root} is in use for something else",
            f"ls -la {ctx.paths.root}",
            f"move it away, then: petal-node bootstrap; for example: mv {ctx.paths.root} {ctx.paths.root}.before",
        )
    if state in ("no", "moved"):
        how = "is backed by another place" if state == "moved" else "is not backed yet"
        return change(f"{ctx.paths.root} {how}", f"bind {ctx.paths.root} to {backing}")
    if _keeps(ctx) and not _unit(ctx).is_current(ctx.paths.units):
        return change("a reboot would lose it", f"write and enable {ctx.paths.units / UNIT}")
    return satisfied(f"{ctx.paths.root} is {backing}")


def apply(ctx: Context) -> None:
    """Binds it, by a unit where systemd runs.

    Raises:
        RootError: ``storage-unprepared``, the head node has not made the directory.
    """
    if not ctx.paths.shared_root.is_dir():
        raise RootError(
            f"{ctx.paths.shared_root} is not there",
            why="the head node makes it",
            remedy="on the head node: petal-node status",
            code="storage-unprepared",
        )
    if not ctx.paths.live:
        make_dir(ctx.paths.root.parent)
        replace_link(ctx.paths.root, str(ctx.paths.shared_root))
        return
    make_dir(ctx.paths.root)
    if _keeps(ctx):
        systemd.install([_unit(ctx)], ctx.paths.units, ctx.system)
        state = _backed(ctx)
        if state != "yes":
            systemd.start(UNIT, ctx.system, timeout=UNIT_SECONDS, again=state == "moved")
    elif _backed(ctx) != "yes":
        ctx.system.run(["mount", "--bind", str(ctx.paths.shared_root), str(ctx.paths.root)], timeout=COMMAND)


def _keeps(ctx: Context) -> bool:
    return ctx.paths.live and ctx.system.has_systemd()


def _unit(ctx: Context) -> systemd.Unit:
    return systemd.Unit(UNIT, TEMPLATE.format(mount=ctx.paths.mount, backing=f"{ctx.paths.mount}/petal/root"))


def _backed(ctx: Context) -> str:
    """``yes``, ``no`` (free to be mounted over), ``moved`` (ours, elsewhere), ``foreign``, ``absent`` (no backing)."""
    root, backing = ctx.paths.root, ctx.paths.shared_root
    if not backing.is_dir():
        return "absent"
    if not root.exists():
        return "no"
    if root.samefile(backing):
        return "yes"
    if root.is_mount():
        return "moved" if _is_ours(ctx) and not _is_hidden(ctx) else "foreign"
    return "foreign" if any(root.iterdir()) and not (ctx.paths.live and is_image(root)) else "no"


def _is_hidden(ctx: Context) -> bool:
    """Somebody mounted over the bind mount: to take that off is not ours to decide."""
    return sum(mount.point == str(ctx.paths.root) for mount in ctx.system.mounts()) > 1


def _is_ours(ctx: Context) -> bool:
    """True if petal-node mounted it, perhaps from another ``storage.mount``: the unit's first line tells."""
    return _unit(ctx).is_ours(ctx.paths.units)


def is_image(root: Path) -> bool:
    """True for a root that a machine image carries: a real directory of ours, which may be mounted over."""
    if root.is_symlink() or root.is_mount() or not (root / "store").is_dir() or not (root / "releases").is_dir():
        return False
    return not real_path_problem(root)


def is_bound(ctx: Context) -> bool:
    """True where a mount or, under ``--root``, a link of ours stands at the root."""
    root = ctx.paths.root
    return root.is_symlink() or (root.is_mount() and _is_ours(ctx))


def unbind(ctx: Context) -> None:
    """Takes the bind mount away, now and for the next boot; what the image carries is seen again.

    Raises:
        RootError: ``root-busy``, programs run from it.
    """
    root = ctx.paths.root
    if root.is_symlink():
        root.unlink()
        return
    try:
        if _keeps(ctx):
            systemd.disable(UNIT, ctx.system, timeout=UNIT_SECONDS)
        if root.is_mount():
            ctx.system.run(["umount", str(root)], timeout=PROGRAM)
    except PetalError as error:
        raise RootError(
            f"{root} is in use and stays bound to shared storage",
            why=error.why or error.what,
            remedy=(f"fuser -vm {root}", "or reboot this node when its jobs have ended: petal-node does the rest"),
            code="root-busy",
        ) from error
    (ctx.paths.units / UNIT).unlink(missing_ok=True)
