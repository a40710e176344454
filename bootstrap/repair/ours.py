"""Whether shared storage is the one that this node has used, also if its token is missing or others could write it."""

from __future__ import annotations

from ..core.errors import StateError
from ..state.context import Context
from ..state.store import ClusterState, KnownStorage


def is_ours(ctx: Context) -> bool:
    """True for the storage that this node has used. Reads shared storage, so it may hang.

    If the token cannot be read, the newest install record must be of this node: another storage has none.
    """
    before = KnownStorage.load(ctx.paths)
    if before is None or before.mount != ctx.paths.mount or ctx.paths.shared.is_symlink():
        return False
    token = ClusterState(ctx.paths, trusting=True).token_or_none()
    return _installed_here(ctx) if token is None else before.knows(ctx.paths.mount, token)


def _installed_here(ctx: Context) -> bool:
    try:
        install = ClusterState(ctx.paths, trusting=True).install()
    except StateError:
        return False
    return install is not None and install.host == ctx.facts.host.name
