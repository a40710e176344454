"""The software root /opt/petal: bound to shared storage, or in the layout ``ami`` a directory of the machine image."""

from __future__ import annotations

from ..core.deadlines import PROBE
from ..core.model import Finding, Mode, blocked, change, satisfied
from ..host.files import make_dir, real_path_problem
from ..state.context import Context
from ..state.release import current_release, read_manifest
from . import root_mount
from .base import ON_NODES, Step
from .hidden_mounts import HiddenMounts
from .mount import MountStorage
from .seed_from_image import SeedFromImage
from .storage import Storage
from .storage_owner import StorageOwner


class Root(Step):
    """/opt/petal is what the layout requires."""

    name = "root"
    title = "the software root is at /opt/petal"
    needs = (Storage, StorageOwner, SeedFromImage)
    after = (HiddenMounts, MountStorage, Storage)
    runs = ON_NODES | {"ami"}

    def probe(self, ctx: Context) -> Finding:
        root = ctx.paths.root
        if ctx.config.root_is_shared:
            return root_mount.probe(ctx)
        if ctx.system.on_storage(lambda: root_mount.is_bound(ctx), root, PROBE):
            return change(f"{root} is bound to shared storage", f"remove the bind mount at {root}")
        return _probe_image_build(ctx) if ctx.mode is Mode.IMAGE else _probe_image_release(ctx)

    def apply(self, ctx: Context) -> None:
        if ctx.config.root_is_shared:
            root_mount.apply(ctx)
            return
        if root_mount.is_bound(ctx):
            root_mount.unbind(ctx)
        if ctx.mode is Mode.IMAGE:
            for name in ("store", "releases"):
                make_dir(ctx.paths.root / name)


def _probe_image_build(ctx: Context) -> Finding:
    root = ctx.paths.root
    if root_mount.is_image(root):
        return satisfied(f"{root} is a directory of this machine")
    if root.exists() and any(root.iterdir()):
        why = str(real_path_problem(root) or f"{root} is in use for something else")
        return blocked(why, f"ls -la {root}", f"mv {root} {root}.before")
    return change(f"{root} is not made yet", f"make {root}")


def _probe_image_release(ctx: Context) -> Finding:
    """Whether the image's release is the desired one. Nothing is installed: only this node would have it."""
    root, current = ctx.paths.root, current_release(ctx.paths)
    if not root_mount.is_image(root):
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


# A check of files on shared storage comes after these: if one of them failed, it would fail for the same cause.
WAY_TO_STORAGE: tuple[type[Step], ...] = (HiddenMounts, MountStorage, Storage, Root)
