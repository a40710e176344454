"""What the machine image carries is not built again where the layout moves it onto shared storage: it is copied."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..core.deadlines import BULK
from ..core.model import Finding, Scope, change, elsewhere, satisfied
from ..host.atomic import staged_dir, write_atomic
from ..state.context import Context
from . import root_mount as binding
from .base import HEAD, Step
from .storage_owner import StorageOwner

STORES = "store*"  # each family of Spack has its own


class SeedFromImage(Step):
    """The image's stores and release, below <mount>/petal/root, before that is bound over them."""

    name = "seed-from-image"
    title = "what the image carries is on shared storage"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (StorageOwner,)
    is_check = False

    def probe(self, ctx: Context) -> Finding:
        if not ctx.config.bound or not ctx.paths.live:
            return elsewhere("the layout does not move it there")
        if ctx.mounted is None or not (ctx.paths.shared_root / "store").is_dir():
            return elsewhere("shared storage is not prepared yet")
        begun = _mark(ctx).is_file()
        if _manifest(ctx, ctx.paths.shared_root).is_file():
            return _there(begun=begun)
        if not binding.is_image(ctx.paths.root) or not _manifest(ctx, ctx.paths.root).is_file():
            return elsewhere("the image does not carry the release")
        return _to_copy(ctx, begun=begun)

    def apply(self, ctx: Context) -> None:
        """The release's directory comes last: while it is not there, nobody takes the copy for whole.

        The mark tells a store that came from here from one that shared storage had before. It names the release, so
        that it says nothing where another one is wanted by then.
        """
        mark = _mark(ctx)
        if not _manifest(ctx, ctx.paths.shared_root).is_file():
            ctx.confirm()
            write_atomic(mark, b"")
            for part in _parts(ctx):
                _copy(ctx, ctx.paths.root / part, ctx.paths.shared_root / part)
        ctx.confirm()
        mark.unlink()


def _there(*, begun: bool) -> Finding:
    if begun:
        return change("the copy is whole, and still marked as begun", "take the mark away")
    return satisfied("the release is there")


def _to_copy(ctx: Context, *, begun: bool) -> Finding:
    """What was begun goes on only while nothing else was installed there: then a store that is there is the copy."""
    if begun and not any(ctx.paths.shared_root.glob("releases/[!.]*/manifest.json")):
        return change(f"the copy of release {ctx.desired_release} did not come to its end", "copy the rest")
    if any(_is_filled(store) for store in ctx.paths.shared_root.glob(STORES)):
        return elsewhere("shared storage has a store of its own: the release is installed into that")
    return change(f"the image carries release {ctx.desired_release}", f"copy it to {ctx.paths.shared_root}")


def _parts(ctx: Context) -> Iterator[str]:
    """What is to be copied still. A store is there whole or not at all; the release may have been begun elsewise."""
    for store in sorted(ctx.paths.root.glob(STORES)):
        if not _is_filled(ctx.paths.shared_root / store.name):
            yield store.name
    yield f"releases/{ctx.desired_release}"


def _copy(ctx: Context, source: Path, target: Path) -> None:
    ctx.note(f"copying {source}")
    with staged_dir(target, confirm=ctx.confirm, flush=ctx.system.flush) as part:
        ctx.system.run(["cp", "-a", str(source), str(part)], timeout=BULK)


def _is_filled(directory: Path) -> bool:
    """True where something is in it; an empty one, as the storage is prepared with, is replaced by a rename."""
    return directory.is_dir() and any(directory.iterdir())


def _mark(ctx: Context) -> Path:
    return ctx.paths.shared_root / f".image-{ctx.desired_release}.begun"


def _manifest(ctx: Context, root: Path) -> Path:
    return root / "releases" / ctx.desired_release / "manifest.json"
