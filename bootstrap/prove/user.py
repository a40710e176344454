"""The user of the jobs and shells that prove the software."""

from __future__ import annotations

import shlex
from pwd import getpwnam

from ..core.errors import PetalError
from ..state.context import Context


def ordinary_user(ctx: Context) -> str | None:
    """The user for jobs and shells: users must be able to use the software, not only root.

    Returns:
        ``check.user``, else the cluster's default user; None if this process is not root's, or the default user does
        not exist on this node.

    Raises:
        PetalError: ``check.user`` does not exist on this node.
    """
    name = ctx.config.check.user or ctx.facts.cluster.user
    if name is None or not ctx.system.is_root():
        return None
    try:
        getpwnam(name)
    except KeyError:
        if ctx.config.check.user:
            what = f"check.user names {name}, who does not exist on this node"
            raise PetalError(what, remedy=f"id {shlex.quote(name)}") from None
        return None
    return name
