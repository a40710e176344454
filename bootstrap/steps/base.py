"""What a step is: data about where it belongs, and two functions."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from ..core.model import Probe, Role, Scope
from ..host.file_locks import broken, no_locks
from ..state.context import Context

TOUCH_SECONDS = 5.0  # of one look at shared storage, which may hang

EVERYWHERE = frozenset(Role)
HEAD = frozenset({Role.HEAD})


class Step(Protocol):
    """One thing that must hold on a node or in the cluster.

    Attributes:
        name: how the operator names it.
        title: what holds when it is satisfied, for people.
        roles: the nodes that it is for.
        scope: ``cluster`` steps are applied under the cluster lock only.
        needs: steps that must hold before this one is applied.
        local: it holds without shared storage, so it is also done at OnNodeStart.
        background: nobody waits for it: a hook returns before it has ended.
    """

    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def roles(self) -> frozenset[Role]: ...
    @property
    def scope(self) -> Scope: ...
    @property
    def needs(self) -> tuple[str, ...]: ...
    @property
    def local(self) -> bool: ...
    @property
    def background(self) -> bool: ...

    def probe(self, ctx: Context) -> Probe:
        """Does it hold? Reads only, and never raises for what it finds: that is its answer."""

    def apply(self, ctx: Context) -> None:
        """Makes it so. Must be fit to be run again after a kill at any moment.

        Raises:
            PetalError: it could not; nothing half-made is visible.
        """


def tried_file(ctx: Context) -> Path:
    """What locks are tried on, beside the locks.

    Each node has its own: a server of NFS asks whoever has a file open before it lets another one write there (a
    delegation), and waits for the lease of a node that was cut off.
    """
    return ctx.paths.locks / f"tried.{ctx.facts.host.name}"


def try_locks(ctx: Context) -> None:
    """Refuses shared storage whose locks do not keep two apart.

    Raises:
        StorageError: ``storage-no-locks``.
    """
    where = ctx.paths.shared_mount
    why = ctx.system.on_storage(lambda: broken(tried_file(ctx)), where, TOUCH_SECONDS)
    if why:
        raise no_locks(where, why)
