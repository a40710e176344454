"""Copies the release of the machine image to shared storage, if the layout has moved the root there.

The packages are not built again.
"""

from __future__ import annotations

from pathlib import Path

from ..core.deadlines import BULK
from ..core.model import Finding, change, elsewhere, satisfied
from ..host.atomic import staged_dir, write_atomic
from ..host.files import real_path_problem
from ..state.context import Context
from .base import ClusterStep, Run
from .storage import StorageOwner

STORES = "store*"  # each family of Spack has its own


class SeedFromImage(ClusterStep):
    """Copies the image's stores and release to <mount>/petal/root, before it is mounted over them.

    The release's directory is copied last, so an unfinished copy is never complete. A mark, named after the release,
    tells a store that was copied from one that shared storage had before.
    """

    name = "seed-from-image"
    needs = (StorageOwner,)
    part_of = frozenset({Run.BOOTSTRAP, Run.REPAIR})

    def probe(self, ctx: Context) -> Finding:
        shared = ctx.paths.shared_root
        if not ctx.config.root_is_shared or not ctx.paths.live:
            return elsewhere("the layout does not copy the image's release to shared storage")
        if ctx.mounted is None or not (shared / "store").is_dir():
            return elsewhere("shared storage is not prepared yet")
        begun = _mark(ctx).is_file()
        if _manifest(ctx, shared).is_file():
            return change("the copy is complete", "remove its mark") if begun else satisfied("the release is there")
        return _compare(ctx, begun=begun)

    def apply(self, ctx: Context) -> None:
        mark, shared, image = _mark(ctx), ctx.paths.shared_root, ctx.paths.root
        if not _manifest(ctx, shared).is_file():
            ctx.confirm()
            write_atomic(mark, b"")
            stores = [store.name for store in sorted(image.glob(STORES)) if not _is_filled(shared / store.name)]
            for part in (*stores, f"releases/{ctx.desired_release}"):
                ctx.note(f"copying {image / part}")
                with staged_dir(shared / part, confirm=ctx.confirm, flush=ctx.system.flush) as staged:
                    ctx.system.run(["cp", "-a", str(image / part), str(staged)], timeout=BULK)
        ctx.confirm()
        mark.unlink()


def _compare(ctx: Context, *, begun: bool) -> Finding:
    """The image and a shared storage without the release."""
    shared, image = ctx.paths.shared_root, ctx.paths.root
    if not is_image(image) or not _manifest(ctx, image).is_file():
        return elsewhere("the machine image does not have the release")
    if begun and not any(shared.glob("releases/[!.]*/manifest.json")):  # so the stores there are the copy's
        return change(f"the copy of release {ctx.desired_release} was interrupted", "copy the rest")
    if any(_is_filled(store) for store in shared.glob(STORES)):
        return elsewhere("shared storage has a store already: the release is installed into it")
    return change(f"the machine image has release {ctx.desired_release}", f"copy it to {shared}")


def is_image(root: Path) -> bool:
    """True for the root of a machine image: a directory of petal-node, which may be mounted over."""
    if root.is_symlink() or root.is_mount() or not (root / "store").is_dir() or not (root / "releases").is_dir():
        return False
    return not real_path_problem(root)


def _is_filled(directory: Path) -> bool:
    """True if the directory has entries; the empty one of a prepared storage is replaced by a rename."""
    return directory.is_dir() and any(directory.iterdir())


def _mark(ctx: Context) -> Path:
    return ctx.paths.shared_root / f".image-{ctx.desired_release}.begun"


def _manifest(ctx: Context, root: Path) -> Path:
    return root / "releases" / ctx.desired_release / "manifest.json"
