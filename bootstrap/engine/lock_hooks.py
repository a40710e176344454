"""What happens under the cluster lock before a change: jobs of killed runs end, and an outdated run is refused."""

from __future__ import annotations

from ..core.errors import StateError, StorageError
from ..core.model import Mode
from ..spack.job.worker import end_abandoned_jobs
from ..state.context import Context
from ..state.store import ClusterState
from .run_locks import LockHooks


def end_jobs_of_killed_runs(ctx: Context) -> None:
    """Cancels build jobs whose run was killed, on any node."""
    end_abandoned_jobs(ctx.paths, ctx.system)


def refuse_changed_storage(ctx: Context) -> None:
    """A run that waited for the lock may find that the storage serves another cluster, or was replaced.

    Raises:
        StorageError: ``storage-changed``.
    """
    if not ClusterState(ctx.paths).is_known_storage():
        where = ctx.paths.shared_mount
        raise StorageError(
            f"shared storage at {where} changed owner or was replaced while this run waited for the lock",
            remedy=("petal-node status", f"findmnt {where}"),
            code="storage-changed",
        )


def refuse_outdated_run(ctx: Context) -> None:
    """A run that follows the desired state may find another release in it: after a rollback or an update.

    Raises:
        StateError: ``state-outdated``.
    """
    if ctx.sets_desired_state or ctx.mode is Mode.IMAGE or ctx.release is None:
        return
    desired = ClusterState(ctx.paths).desired_state()
    if desired is not None and desired.release != ctx.release:
        raise StateError(
            f"this run was to make release {ctx.release}, but the desired release is now {desired.release}",
            why="a rollback or an update changed it while this run waited for the lock",
            remedy="petal-node bootstrap    (the service at boot and its timer do it too)",
            code="state-outdated",
        )


CLUSTER_HOOKS = LockHooks((end_jobs_of_killed_runs,), (refuse_changed_storage, refuse_outdated_run))
