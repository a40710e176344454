"""The desired state of the cluster on shared storage: desired.json and the archive of petal-node."""

from __future__ import annotations

from ..core.errors import StateError
from ..core.model import Finding, change, satisfied
from ..host.atomic import install_executable
from ..host.files import has_sha256
from ..releases.publish import record_current
from ..state.context import Context
from ..state.desired import DesiredState
from ..state.release import current_release
from ..state.request import kept_request, mark_request_applied
from ..state.store import LOST, ClusterState, desired_state_of, save_desired_state_of
from .base import ClusterStep
from .root import WAY_TO_STORAGE
from .self_install import SelfInstall
from .storage import Storage, StorageOwner


class RecordDesiredState(ClusterStep):
    """For other nodes, desired.json counts before their own Args, and they copy the archive from here instead of S3."""

    name = "desired-state"
    needs = (SelfInstall, Storage, StorageOwner)
    after = WAY_TO_STORAGE

    def probe(self, ctx: Context) -> Finding:
        lost = "desired.json is missing"
        try:
            recorded = ClusterState(ctx.paths).desired_state()
        except StateError as error:
            if error.code not in LOST:
                raise
            recorded, lost = None, f"desired.json is {'damaged' if error.code == 'state-corrupt' else 'not trusted'}"
        desired = ctx.desired_state
        content = f"release {desired.release} and petal-node {desired.version}"
        if recorded != desired:
            before = f"desired.json has release {recorded.release}" if recorded else lost
            before += " with another configuration" if recorded and recorded.release == desired.release else ""
            return change(before, f"write {content}")
        archive = ctx.paths.archives / str(ctx.tool.sha256)
        if ctx.tool.archive is not None and not has_sha256(archive, ctx.tool.sha256):
            return change("the archive is not on shared storage", f"write {archive}")
        return satisfied(f"desired.json has {content}")

    def on_held(self, ctx: Context) -> None:
        mark_request_applied(ctx)

    def apply(self, ctx: Context) -> None:
        if ctx.tool.archive is not None:
            sha256 = str(ctx.tool.sha256)
            install_executable(ctx.paths.program(ctx.tool.version), ctx.paths.archives / sha256, sha256)
        ctx.confirm()
        if ctx.resumes_pending and not kept_request(ctx.paths).pending:
            # Two runs may resume one decision; the second would overwrite what the first one recorded.
            raise StateError(
                "another run has already applied this change",
                why="the run of the hook that requested it has written desired.json",
                remedy=ctx.options.converge_again,
                code="state-outdated",
            )
        desired = ctx.desired_state
        is_published = ctx.publishes_to_cluster and current_release(ctx.paths) == desired.release
        if is_published and _copy_of_release(ctx, desired.release) != desired:
            save_desired_state_of(ctx.paths, desired)
        if is_published:
            record_current(ctx)  # else a release that another cluster made would not count as one of this cluster
        ClusterState(ctx.paths).save_desired_state(desired)


def _copy_of_release(ctx: Context, release: str) -> DesiredState | None:
    """The desired state that a published release holds, for a rollback to it; None if it is missing or damaged."""
    try:
        return desired_state_of(ctx.paths, release)
    except StateError:
        return None
