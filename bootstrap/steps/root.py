"""/opt/petal is the one root: bound to shared storage, or in the layout ``ami`` a directory of the machine image."""

from __future__ import annotations

from ..core.deadlines import PROBE
from ..core.errors import PetalError, as_error
from ..core.model import Finding, Mode, blocked, change, refused, satisfied
from ..host.files import make_dir, real_path_problem
from ..state.context import Context
from ..state.release import current_release, read_manifest
from . import root_mount as binding
from .base import Step
from .hidden_mounts import HiddenMounts
from .mount import MountStorage
from .seed_from_image import SeedFromImage
from .storage import Storage
from .storage_owner import StorageOwner


class Root(Step):
    """What backs the root."""

    name = "root"
    title = "/opt/petal is what the layout says"
    needs = (Storage, StorageOwner, SeedFromImage)
    after = (HiddenMounts, MountStorage, Storage)
    image_layouts = frozenset({"ami"})

    def probe(self, ctx: Context) -> Finding:
        return binding.probe(ctx) if ctx.config.bound else _probe_image(ctx)

    def apply(self, ctx: Context) -> None:
        if ctx.config.bound:
            binding.apply(ctx)
            return
        if binding.is_bound(ctx):
            binding.unbind(ctx)
        if ctx.mode is Mode.IMAGE:
            for name in ("store", "releases"):
                make_dir(ctx.paths.root / name)


def _probe_image(ctx: Context) -> Finding:
    root = ctx.paths.root
    try:
        bound = ctx.system.on_storage(lambda: binding.is_bound(ctx), root, PROBE)
    except (PetalError, OSError) as trouble:
        return refused(as_error(trouble, root))
    if bound:
        return change(f"{root} is bound to shared storage", f"take the bind mount at {root} away")
    if ctx.mode is Mode.IMAGE:
        return _probe_bake(ctx)
    return _carried(ctx)


def _probe_bake(ctx: Context) -> Finding:
    root = ctx.paths.root
    if binding.is_image(root):
        return satisfied(f"{root} is a directory of this machine")
    if root.exists() and any(root.iterdir()):
        problem = real_path_problem(root)
        why = str(problem) if problem else f"{root} is in use for something else"
        return blocked(why, f"ls -la {root}", f"mv {root} {root}.before")
    return change(f"{root} is not made yet", f"make {root}")


def _carried(ctx: Context) -> Finding:
    """The image's release is the wanted one; nothing is installed into it here, since this node would have it alone."""
    root, current = ctx.paths.root, current_release(ctx.paths)
    if not binding.is_image(root):
        return blocked(f"the machine image carries no {root} of petal-node's", *_remedy(ctx))
    if current is None or read_manifest(ctx.paths, current) is None:
        return blocked("the machine image carries no complete release", *_remedy(ctx))
    if ctx.release is not None and current != ctx.release:
        return blocked(f"the machine image carries release {current}, wanted is {ctx.release}", *_remedy(ctx))
    return satisfied(f"the machine image carries release {current}")


def _remedy(ctx: Context) -> tuple[str, ...]:
    return (
        "on the machine that becomes the image: petal-node bootstrap --layout ami --config FILE",
        "or in the configuration: layout: shared",
        *(("or name its release's spack.target in the configuration: target",) if ctx.config.builds else ()),
    )


# A check of files on shared storage comes after these: if one of them failed, it would fail for the same cause.
WAY_TO_STORAGE: tuple[type[Step], ...] = (HiddenMounts, MountStorage, Storage, Root)
