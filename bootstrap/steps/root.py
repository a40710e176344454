"""The software root /opt/petal: a bind mount of <mount>/petal/root, or in the layout ``ami`` a directory of the image.

systemd.mount(5) requires a unit named after its mount point. ``_netdev`` orders it after the network: without it the
mount is ordered before local-fs.target, which comes before the network. With ``nofail`` boot does not wait for it.
Under ``--root`` a symbolic link replaces the bind mount.
"""

from __future__ import annotations

from enum import Enum

from ..core.deadlines import COMMAND, PROBE, PROGRAM
from ..core.errors import PetalError, StorageError
from ..core.model import Finding, Mode, blocked, change, satisfied
from ..core.text import quoted
from ..host import systemd
from ..host.atomic import replace_link
from ..host.files import make_dir, real_path_problem
from ..state.context import Context
from ..state.release import current_release, read_manifest
from .base import ON_NODES, Run, Step
from .mount import HiddenMounts, MountStorage, unit_name
from .seed_from_image import SeedFromImage, is_image
from .storage import Storage, StorageOwner

UNIT_SECONDS = 90.0  # DefaultTimeoutStartSec of systemd (systemd-system.conf(5))
TEMPLATE = """\
# petal-node: the software root, on every node under the same path.
[Unit]
Description=petal-node software root
RequiresMountsFor={mount}

[Mount]
What={backing}
Where={where}
Type=none
Options=bind,_netdev,nofail
TimeoutSec=60

[Install]
WantedBy=multi-user.target
"""


class Backing(Enum):
    """The state of /opt/petal, as a statement."""

    BOUND = "{root} is bound to {backing}"
    FREE = "{root} is not bound to shared storage yet"  # missing, empty, or a directory of the machine image
    MOVED = "{root} is bound to another directory"
    FOREIGN = "{root} is in use for something else"  # files or a mount that petal-node did not make
    UNPREPARED = "{backing} is not made yet"


class Root(Step):
    """/opt/petal is what the layout requires, also after a reboot."""

    name = "root"
    needs = (Storage, StorageOwner, SeedFromImage)
    after = (HiddenMounts, MountStorage, Storage)
    part_of = ON_NODES | {Run.AMI_IMAGE}

    def probe(self, ctx: Context) -> Finding:
        root = ctx.paths.root
        if ctx.config.root_is_shared:
            return _probe_bound(ctx)
        if ctx.system.on_storage(lambda: _is_bound(ctx), root, PROBE):
            return change(f"{root} is bound to shared storage", f"remove the bind mount at {root}")
        return _probe_image_build(ctx) if ctx.mode is Mode.IMAGE else _probe_image_release(ctx)

    def apply(self, ctx: Context) -> None:
        if ctx.config.root_is_shared:
            _bind(ctx)
            return
        if _is_bound(ctx):
            _unbind(ctx)
        if ctx.mode is Mode.IMAGE:
            for name in ("store", "releases"):
                make_dir(ctx.paths.root / name)


def _probe_bound(ctx: Context) -> Finding:
    root, backing = ctx.paths.root, ctx.paths.shared_root
    state = ctx.system.on_storage(lambda: _backing(ctx), root, PROBE)
    reason = state.value.format(root=root, backing=backing)
    if state is Backing.FOREIGN:
        aside = f"move it away, then: petal-node bootstrap; for example: mv {quoted(root)} {quoted(root)}.before"
        return blocked(reason, f"ls -la {quoted(root)}", aside)
    if state is not Backing.BOUND:
        return change(reason, f"bind {root} to {backing}")
    if _has_unit(ctx) and not _unit(ctx).is_current(ctx.paths.units):
        unit = ctx.paths.units / _unit(ctx).name
        return change(f"{reason}, but a reboot would lose the mount", f"write and enable {unit}")
    return satisfied(reason)


def _probe_image_build(ctx: Context) -> Finding:
    root = ctx.paths.root
    if is_image(root):
        return satisfied(f"{root} is a directory of this machine")
    if root.exists() and any(root.iterdir()):
        why = str(real_path_problem(root) or f"{root} is in use for something else")
        return blocked(why, f"ls -la {quoted(root)}", f"mv {quoted(root)} {quoted(root)}.before")
    return change(f"{root} is not made yet", f"make {root}")


def _probe_image_release(ctx: Context) -> Finding:
    """Whether the image's release is the desired one. Nothing is installed: only this node would have it."""
    root, current = ctx.paths.root, current_release(ctx.paths)
    if not is_image(root):
        problem = f"the machine image has no {root} of petal-node"
    elif current is None or read_manifest(ctx.paths, current) is None:
        problem = "the machine image has no complete release"
    elif ctx.release is not None and current != ctx.release:
        problem = f"the machine image has release {current}, the desired release is {ctx.release}"
    else:
        return satisfied(f"the machine image has release {current}")
    target = "or set spack.target in the configuration to the target of the image's release"
    return blocked(
        problem,
        "on the machine that becomes the image: petal-node bootstrap --layout ami --config FILE",
        "or in the configuration: layout: shared",
        *((target,) if ctx.config.uses_spack else ()),
    )


def _backing(ctx: Context) -> Backing:
    """Reads the root and shared storage, so it may hang."""
    root, backing = ctx.paths.root, ctx.paths.shared_root
    if not backing.is_dir():
        return Backing.UNPREPARED
    if not root.exists():
        return Backing.FREE
    if root.samefile(backing):
        return Backing.BOUND
    if root.is_mount():
        points = [mount.point for mount in ctx.system.mounts()]
        is_covered = points.count(ctx.followed(root)) > 1  # by a mount of another owner
        return Backing.MOVED if _unit(ctx).is_ours(ctx.paths.units) and not is_covered else Backing.FOREIGN
    in_use = any(root.iterdir()) and not (ctx.paths.live and is_image(root))
    return Backing.FOREIGN if in_use else Backing.FREE


def _bind(ctx: Context) -> None:
    """Binds the root to shared storage, with a unit if systemd runs.

    Raises:
        StorageError: ``storage-unprepared``, the head node has not made the directory.
    """
    root, backing = ctx.paths.root, ctx.paths.shared_root
    if not backing.is_dir():
        raise StorageError(
            f"{backing} is missing",
            why="the head node makes it",
            remedy="on the head node: petal-node status",
            code="storage-unprepared",
        )
    if not ctx.paths.live:
        make_dir(root.parent)
        replace_link(root, str(backing))
        return
    make_dir(root)
    state = _backing(ctx)
    if _has_unit(ctx):
        systemd.install([_unit(ctx)], ctx.paths.units, ctx.system)
        if state is not Backing.BOUND:
            systemd.start(_unit(ctx).name, ctx.system, timeout=UNIT_SECONDS, again=state is Backing.MOVED)
    elif state is not Backing.BOUND:
        ctx.system.run(["mount", "--bind", str(backing), str(root)], timeout=COMMAND)


def _is_bound(ctx: Context) -> bool:
    """True if the root is our bind mount or, under ``--root``, our link, perhaps of another ``storage.mount``."""
    root = ctx.paths.root
    return root.is_symlink() or (root.is_mount() and _unit(ctx).is_ours(ctx.paths.units))


def _unbind(ctx: Context) -> None:
    """Removes the bind mount, now and for the next boot, so that the image's own root is visible again.

    Raises:
        StorageError: ``root-busy``, programs run from it.
    """
    root = ctx.paths.root
    if root.is_symlink():
        root.unlink()
        return
    try:
        if _has_unit(ctx):
            systemd.disable(_unit(ctx).name, ctx.system, timeout=UNIT_SECONDS)
        if root.is_mount():
            ctx.system.run(["umount", str(root)], timeout=PROGRAM)
    except PetalError as error:
        raise StorageError(
            f"{root} is in use and stays bound to shared storage",
            why=error.why or error.what,
            remedy=(
                f"fuser -vm {quoted(root)}",
                "or reboot this node when its jobs have ended: petal-node does the rest",
            ),
            code="root-busy",
        ) from error
    (ctx.paths.units / _unit(ctx).name).unlink(missing_ok=True)


def _has_unit(ctx: Context) -> bool:
    return ctx.paths.live and ctx.system.has_systemd()


def _unit(ctx: Context) -> systemd.Unit:
    """A mount unit is named after its mount point, without symbolic links (systemd.mount(5)): /opt may be one."""
    root, mount = ctx.paths.root, ctx.paths.mount
    where = f"{ctx.followed(root.parent)}/{root.name}"
    text = TEMPLATE.format(mount=mount, backing=f"{mount}/petal/root", where=where)
    return systemd.Unit(unit_name(where), text)


# A check of files on shared storage comes after these: if one of them failed, it would fail for the same cause.
WAY_TO_STORAGE: tuple[type[Step], ...] = (HiddenMounts, MountStorage, Storage, Root)
