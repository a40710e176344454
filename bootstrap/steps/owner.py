"""Shared storage serves this cluster: what another one, or an earlier life of this one, has left there is taken over.

Store and releases stay as they are, and the probes of the other steps say what of them counts. What was said of the
former cluster's nodes is set aside, and the storage gets a new token: whoever knew it by the old one stays away.
"""

from __future__ import annotations

import os
from dataclasses import replace

from ..core.errors import StateError, StorageError
from ..core.model import Probe, Scope, change, elsewhere, refused, satisfied
from ..host.log import LOG
from ..host.system import timestamp
from ..state.context import Context
from ..state.desired import Token
from ..state.owner import Adoption, Owner, is_of_one_machine
from ..state.release import current_in
from ..state.store import Seen, Shared, before_of
from .base import HEAD, try_locks


class StorageOwner:
    """The head node's name is on the storage."""

    name = "owner"
    title = "shared storage serves this cluster"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = ("storage",)
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        own = Owner.of(ctx.facts.cluster)
        if own is None:
            return elsewhere("this node does not know its cluster's name")
        try:
            token = Shared(ctx.paths).token()
        except StateError as error:
            return refused(error)
        if token is None or token.owner is None:
            return change("no cluster's name is on it yet", f"write {own}")
        return _judge(ctx, own, token, token.owner)

    def apply(self, ctx: Context) -> None:
        own, token = Owner.of(ctx.facts.cluster), Shared(ctx.paths).token()
        assert own is not None
        assert token is not None
        if token.owner is None:
            ctx.confirm()
            Shared(ctx.paths).save_token(replace(token, owner=own))
        else:
            try_locks(ctx)
            _adopt(ctx, own, token, token.owner)


def _judge(ctx: Context, own: Owner, token: Token, owner: Owner) -> Probe:
    if own.is_same(owner):
        return satisfied(f"it serves {own}" + (f"; adopted: {token.adopted}" if token.adopted else ""))
    if _may_be_alive(ctx, own, owner):
        return refused(_in_use(ctx, owner))
    found = Adoption(owner, current_in(ctx.paths.shared_root), "")
    aside = before_of(ctx.paths, owner)
    return change(f"it serves cluster {owner}", f"adopt {found}", f"move its records to {aside}")


def _may_be_alive(ctx: Context, own: Owner, other: Owner) -> bool:
    """False where the other cluster cannot be at this storage, or an administrator has said that it is gone."""
    told = ctx.accept_storage or other.name in ctx.config.storage.adopt
    return not (told or own.is_namesake(other) or is_of_one_machine(ctx.mounted if ctx.paths.live else None))


def _in_use(ctx: Context, other: Owner) -> StorageError:
    where = ctx.paths.shared_mount
    return StorageError(
        f"{where} serves cluster {other}",
        why="other machines can mount it too, so that cluster may be alive, and one storage serves one cluster",
        remedy=(
            "name another file system, or another directory of it, in the configuration: storage.mount",
            f"or, where that cluster is gone: storage: {{adopt: [{other.name}]}}",
            "or, once: petal-node bootstrap --accept-storage",
        ),
        code="storage-other-cluster",
    )


def _adopt(ctx: Context, own: Owner, token: Token, other: Owner) -> None:
    """The token comes last: until it is written, a run that follows a killed one finds the storage as it was."""
    shared = Shared(ctx.paths)
    found = Adoption(other, current_in(ctx.paths.shared_root), timestamp())
    shared.set_aside(other)
    ctx.confirm()
    before = _followed(ctx, own, token, other)
    marked = Token(os.urandom(16).hex(), ctx.facts.host.name, before, own, found)
    shared.save_token(marked)
    Seen.of(ctx.paths.mount, marked).save(ctx.paths)
    ctx.note(f"adopted: {found}")
    LOG.info("adopted: %s", found, extra={"step": StorageOwner.name})


def _followed(ctx: Context, own: Owner, token: Token, other: Owner) -> tuple[str, ...]:
    """The tokens whose users follow to the new one: this cluster's own nodes, never those of another cluster."""
    seen = Seen.load(ctx.paths)
    mine = (seen.token, *seen.replaces) if seen is not None and seen.mount == ctx.paths.mount else ()
    earlier = (token.token, *token.replaces) if own.is_namesake(other) else ()
    return tuple(dict.fromkeys((*mine, *earlier)))
