"""The locks of one run: the cluster's is held to the end of the run, the node's for one step at a time.

A process that holds the node's lock never waits for the cluster's, so two runs never wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ..core.model import Scope
from ..host.locks import Holder, Lock, builders_ended, own_holder
from ..host.log import LOG
from ..host.processes import has_process
from ..state.context import Context

NODE_LOCK = "node.lock"


@dataclass(frozen=True)
class Waits:
    """How long a run waits for each lock, in seconds."""

    node: float = 120.0
    cluster: float = 7200.0


@dataclass(frozen=True)
class LockHooks:
    """Functions that run under the cluster lock.

    Args:
        on_acquired: called once, right after the lock was taken.
        before_change: called before each change, except by a step that claims the storage; raises to refuse it.
    """

    on_acquired: tuple[Callable[[Context], None], ...] = ()
    before_change: tuple[Callable[[Context], None], ...] = ()


class RunLocks:
    """Takes the lock that a change needs.

    Args:
        waiting: called with the name of the step or command and a description of the holder that it waits for.
    """

    def __init__(
        self, ctx: Context, waits: Waits, hooks: LockHooks, stack: ExitStack, waiting: Callable[[str, str], None]
    ) -> None:
        self._ctx = ctx
        self._waits = waits
        self._hooks = hooks
        self._stack = stack
        self._waiting = waiting
        self._cluster: Lock | None = None
        self._previous: Holder | None = None
        self._builders: int | None = None

    @contextmanager
    def hold(self, name: str, scope: Scope, *, claims_storage: bool = False) -> Iterator[Context]:
        """Holds the lock of ``scope`` for the step or command ``name``.

        Yields:
            The context for the change: its ``confirm`` makes sure that the lock is still held.
        """
        if scope is Scope.NODE:
            with self._lock(name, self._ctx.paths.var / NODE_LOCK, self._waits.node, nameless=True):
                yield self._ctx
            return
        if self._cluster is None:
            lock = self._lock(name, self._ctx.cluster_lock, self._waits.cluster, self._end_previous_run)
            self._cluster = self._stack.enter_context(lock)
            for on_acquired in self._hooks.on_acquired:
                on_acquired(self._ctx)
        else:
            self._cluster.confirm()
        if not claims_storage:
            for before_change in self._hooks.before_change:
                before_change(self._ctx)
        if self._builders is None:
            path = self._ctx.cluster_lock.with_suffix(".builders")
            ended = builders_ended(path, self._previous, self._waits.cluster, partial(self._waiting, name))
            self._builders = self._stack.enter_context(ended)
        yield replace(self._ctx, confirm=self._cluster.confirm, builders=self._builders)

    def _lock(
        self,
        name: str,
        path: Path,
        timeout: float,
        inherit: Callable[[Holder], None] | None = None,
        *,
        nameless: bool = False,
    ) -> Lock:
        host = self._ctx.facts.host
        holder = own_holder(host.name, host.boot_id, self._ctx.run_id)
        waiting = partial(self._waiting, name)
        return Lock(path, holder, timeout=timeout, waiting=waiting, inherit=inherit, nameless=nameless)

    def _end_previous_run(self, previous: Holder) -> None:
        """Ends the builders of a killed run, which would write into the store at the same time."""
        self._previous = previous
        host = self._ctx.facts.host
        on_this_boot = (previous.host, previous.boot_id) == (host.name, host.boot_id)
        if on_this_boot and not has_process(previous.pid, previous.process_start):
            ended = self._ctx.system.end_run(previous.run_id)
            if ended:
                LOG.warning("ended %d processes of the killed run %s", ended, previous.run_id)
