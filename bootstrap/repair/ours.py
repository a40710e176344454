"""Whether shared storage is the one that this node has used, also where its token is lost or nobody may trust it."""

from __future__ import annotations

from ..core.errors import StateError
from ..state.context import Context
from ..state.desired import Token
from ..state.store import Seen, Shared


def is_ours(ctx: Context) -> bool:
    """True for the storage from before. May hang: it is looked at in here.

    Where the token cannot be read, the last install there must be one of this node's: another storage has none.
    """
    before = Seen.load(ctx.paths)
    if before is None or before.mount != ctx.paths.mount or ctx.paths.shared.is_symlink():
        return False
    token = token_of(ctx)
    return _installed_here(ctx) if token is None else before.knows(ctx.paths.mount, token)


def token_of(ctx: Context) -> Token | None:
    """The token, whoever could have written it; None where there is none that can be read."""
    try:
        return Shared(ctx.paths, trusting=True).token()
    except StateError:
        return None


def _installed_here(ctx: Context) -> bool:
    try:
        install = Shared(ctx.paths, trusting=True).install()
    except StateError:
        return False
    return install is not None and install.host == ctx.facts.host.name
