"""Shared storage serves this cluster. The storage of another cluster is taken over only with ``--accept-storage``.

Store and releases stay, and the probes of the later steps decide which of them are used. The records of the other
cluster are removed, and the storage gets a new token, so that nodes that know the old one write nothing to it.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ..core.errors import StorageError
from ..core.model import Finding, change, elsewhere, satisfied
from ..host.log import LOG
from ..state.context import Context
from ..state.desired import Owner, Token, is_foreign
from ..state.release import current_in
from ..state.store import ClusterState, KnownStorage
from .base import ClusterStep
from .storage import Storage, try_locks


class StorageOwner(ClusterStep):
    """The token on the storage names this cluster."""

    name = "storage-owner"
    needs = (Storage,)
    claims_storage = True
    runs = frozenset({"bootstrap", "repair"})

    def probe(self, ctx: Context) -> Finding:
        own = Owner.of(ctx.facts.cluster)
        if own is None:
            return elsewhere("the name of this cluster is not known")
        token = ClusterState(ctx.paths).token()
        if token is None or token.owner is None:
            return change("shared storage has no owner yet", f"write the owner, cluster {own}")
        if not is_foreign(token.owner, ctx.facts.cluster):
            return satisfied(f"shared storage serves cluster {own}")
        if not ctx.options.accept_storage:
            raise _serves_another(ctx, token.owner)
        lines = (f"take over {_release(ctx)}", f"remove the records of cluster {token.owner} in {ctx.paths.state}")
        return change(f"shared storage serves cluster {token.owner}", *lines)

    def apply(self, ctx: Context) -> None:
        own, shared = Owner.of(ctx.facts.cluster), ClusterState(ctx.paths)
        token = shared.token()
        assert own is not None
        assert token is not None
        if token.owner is None:
            ctx.confirm()
            shared.save_token(replace(token, owner=own))
            return
        try_locks(ctx)
        # The token is written last: until then, a run after a kill finds the storage of another cluster.
        ctx.confirm()
        shared.remove_records()
        taken = Token(os.urandom(16).hex(), ctx.facts.host.name, own)
        shared.save_token(taken)
        KnownStorage.of(ctx.paths.mount, taken, ctx.role).save(ctx.paths)
        message = f"took over {_release(ctx)} of cluster {token.owner}"
        ctx.note(message)
        LOG.info("%s", message, extra={"step": self.name})


def _release(ctx: Context) -> str:
    release = current_in(ctx.paths.shared_root)
    return f"release {release}" if release else "a storage without a release"


def _serves_another(ctx: Context, other: Owner) -> StorageError:
    return StorageError(
        f"{ctx.paths.shared_mount} serves cluster {other}",
        why="one storage serves one cluster, and that cluster may still be in use",
        remedy=(
            "name another file system, or another directory of it, in the configuration: storage.mount",
            "if that cluster is deleted: petal-node bootstrap --accept-storage",
        ),
        code="storage-other-cluster",
    )
