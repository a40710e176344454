"""The locks of one run: the cluster's is held to the end of the run, the node's for one step at a time.

A process that holds the node's lock never waits for the cluster's, so two runs never wait for each other. Under the
cluster lock, the builders and jobs of killed runs end, and a run that is outdated by now is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

from ..core.deadlines import LOCK
from ..core.errors import StateError, StorageError, from_error
from ..core.model import Mode, Outcome, Scope, StepReport
from ..core.text import quoted
from ..host.locks import Holder, Lock, builders_ended, own_holder
from ..host.log import LOG
from ..host.processes import has_process
from ..state.context import Context
from ..state.store import LOST, ClusterState
from .registry import ON_CLUSTER_LOCK

NODE_LOCK = "node.lock"


class RunLocks:
    """Takes the lock that a change needs, and waits for each at most as long as ``--lock-wait`` allows.

    Args:
        stack: releases the cluster lock at its end.
        listen: called with the report of the step or command that waits, which names the holder.
    """

    def __init__(self, ctx: Context, stack: ExitStack, listen: Callable[[StepReport], None]) -> None:
        self._ctx = ctx
        self._stack = stack
        self._listen = listen
        self._cluster: Lock | None = None
        self._previous: Holder | None = None
        self._builders: int | None = None

    @contextmanager
    def hold(self, report: StepReport, scope: Scope, *, claims_storage: bool = False) -> Iterator[Context]:
        """Holds the lock of ``scope`` for one step or command.

        Args:
            report: a report of the step or command, for ``listen``.
            claims_storage: the change makes this cluster the owner of the storage, so it is not refused.

        Yields:
            The context for the change: its ``confirm`` makes sure that the lock is still held.
        """
        ctx, host, timeout = self._ctx, self._ctx.facts.host, self._ctx.options.lock_wait
        holder, waiting = own_holder(host.name, host.boot_id, ctx.run_id), partial(self._wait, report)
        if scope is Scope.NODE:
            path = ctx.paths.var / NODE_LOCK
            with Lock(path, holder, timeout=min(LOCK, timeout), waiting=waiting):
                yield ctx
            return
        if self._cluster is None:
            lock = Lock(ctx.cluster_lock, holder, timeout=timeout, waiting=waiting, inherit=self._end_previous_run)
            with ExitStack() as attempt:  # if a clean-up fails, the next step takes the lock and repeats it
                attempt.enter_context(lock)
                for clean_up in ON_CLUSTER_LOCK:
                    clean_up(ctx.paths, ctx.system)
                self._stack.push(attempt.pop_all())
            self._cluster = lock
        else:
            self._cluster.confirm()
        if not claims_storage:
            _refuse_changed_storage(ctx)
            _refuse_outdated_run(ctx)
        if self._builders is None:
            ended = builders_ended(ctx.cluster_lock.with_suffix(".builders"), self._previous, timeout, waiting)
            self._builders = self._stack.enter_context(ended)
        yield replace(ctx, confirm=self._cluster.confirm, builders=self._builders)

    def _wait(self, report: StepReport, holder: str) -> None:
        LOG.info("waiting for %s", holder, extra={"step": report.name})
        self._listen(replace(report, outcome=Outcome.WAITING, reason=f"waiting for {holder}", changes=()))

    def _end_previous_run(self, previous: Holder) -> None:
        """Ends the builders of a killed run, which would write into the store at the same time."""
        self._previous = self._previous or previous
        host = self._ctx.facts.host
        on_this_boot = (previous.host, previous.boot_id) == (host.name, host.boot_id)
        if on_this_boot and not has_process(previous.pid, previous.process_start):
            ended = self._ctx.system.end_run(previous.run_id)
            if ended:
                LOG.warning("ended %d processes of the killed run %s", ended, previous.run_id)


@contextmanager
def cluster_lock(ctx: Context) -> Iterator[Context]:
    """Holds the cluster lock for a command that is not a run of steps.

    Raises:
        LockTimeout: another process still holds it.
        PetalError: ``file-...``, a file of the command cannot be written.
    """
    command = ctx.options.command
    with ExitStack() as stack:
        locks = RunLocks(ctx, stack, ctx.services.listen)
        try:
            with locks.hold(StepReport(command, Outcome.WAITING, ""), Scope.CLUSTER) as inside:
                yield inside
        except OSError as error:
            raise from_error(error, ctx.paths.shared_mount) from error


def _refuse_changed_storage(ctx: Context) -> None:
    """A run that waited for the lock may find that the storage serves another cluster, or was replaced.

    Raises:
        StorageError: ``storage-changed``.
    """
    if not ClusterState(ctx.paths).is_known_storage():
        where = ctx.paths.shared_mount
        raise StorageError(
            f"shared storage at {where} changed owner or was replaced while this run waited for the lock",
            remedy=("petal-node status", f"findmnt {quoted(where)}"),
            code="storage-changed",
        )


def _refuse_outdated_run(ctx: Context) -> None:
    """A run that follows the desired state may find another release in it: after a rollback or an update.

    Raises:
        StateError: ``state-outdated``.
    """
    if ctx.sets_desired_state or ctx.mode is Mode.IMAGE or ctx.release is None:
        return
    try:
        desired = ClusterState(ctx.paths).desired_state()
    except StateError as error:
        if error.code not in LOST:
            raise
        return
    if desired is not None and desired.release != ctx.release:
        raise StateError(
            f"this run was to make release {ctx.release}, but the desired release is now {desired.release}",
            why="a rollback or an update changed it while this run waited for the lock",
            remedy=ctx.options.converge_again,
            code="state-outdated",
        )
