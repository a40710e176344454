"""What the machine image carries is not built again where the layout moves it onto shared storage: it is copied."""

from __future__ import annotations

from pathlib import Path

from .. import binding
from ..context import Context
from ..files import make_dir, remove_tree
from ..model import Probe, Scope, change, elsewhere, satisfied
from .base import HEAD

COPY_SECONDS = 7200.0
STORES = "store*"  # each family of Spack has its own


class Adopted:
    """The image's store and release, below <mount>/petal/root, before that is bound over them."""

    name = "adopted"
    title = "what the image carries is on shared storage"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("owner",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.config.bound or not ctx.paths.live:
            return elsewhere("the layout does not move it there")
        if ctx.mounted is None or not (ctx.paths.shared_root / "store").is_dir():
            return elsewhere("shared storage is not prepared yet")
        if _manifest(ctx, ctx.paths.shared_root).is_file():
            return satisfied("the release is there")
        if not binding.is_image(ctx.paths.root) or not _manifest(ctx, ctx.paths.root).is_file():
            return elsewhere("the image does not carry the release")
        if any(any(store.iterdir()) for store in ctx.paths.shared_root.glob(STORES)):
            return elsewhere("shared storage has a store of its own: the release is installed into that")
        return change(f"the image carries release {ctx.wanted_release}", f"copy it to {ctx.paths.shared_root}")

    def apply(self, ctx: Context) -> None:
        """The release's directory comes last: while it is not there, nobody takes the copy for whole."""
        stores = (store.name for store in sorted(ctx.paths.root.glob(STORES)))
        for part in (*stores, f"releases/{ctx.wanted_release}"):
            ctx.note(f"copying {ctx.paths.root / part}")
            _copy(ctx, ctx.paths.root / part, ctx.paths.shared_root / part)


def _copy(ctx: Context, source: Path, target: Path) -> None:
    part = target.with_name(f".{target.name}.part")
    remove_tree(part)
    make_dir(part.parent)
    ctx.system.run(["cp", "-a", str(source), str(part)], timeout=COPY_SECONDS)
    ctx.confirm()
    remove_tree(target)
    part.rename(target)


def _manifest(ctx: Context, root: Path) -> Path:
    return root / "releases" / ctx.wanted_release / "manifest.json"
