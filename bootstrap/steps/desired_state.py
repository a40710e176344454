"""What this cluster should have stands on shared storage: the archive of this tool, the configuration, the release."""

from __future__ import annotations

from ..core.errors import StateError
from ..core.model import Finding, Scope, change, refused, satisfied
from ..host.atomic import install_executable
from ..host.files import sha256_of
from ..state.context import Context
from ..state.request import is_pending, mark_request_applied
from ..state.store import ClusterState
from .base import HEAD, Step
from .root import WAY_TO_STORAGE
from .self_install import SelfInstall
from .storage import Storage
from .storage_owner import StorageOwner


class RecordDesiredState(Step):
    """Other nodes obey desired.json before their own Args, and take the archive from here before they ask S3."""

    name = "desired-state"
    title = "the other nodes know what to have"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (SelfInstall, Storage, StorageOwner)
    after = WAY_TO_STORAGE

    def probe(self, ctx: Context) -> Finding:
        try:
            known = ClusterState(ctx.paths).desired_state()
        except StateError as error:
            if error.code != "state-corrupt":
                return refused(error)
            known = None
        desired = ctx.desired_state
        if known != desired:
            before = f"release {known.release}" if known else "nothing"
            return change(
                f"desired.json has {before}", f"record release {desired.release}, petal-node {desired.version}"
            )
        if not _archive_is_there(ctx):
            return change("the archive is not on shared storage", f"write {ctx.paths.archives / str(ctx.tool.sha256)}")
        return satisfied(f"release {desired.release}, petal-node {desired.version}")

    def on_held(self, ctx: Context) -> None:
        mark_request_applied(ctx)

    def apply(self, ctx: Context) -> None:
        if not _archive_is_there(ctx):
            sha256 = str(ctx.tool.sha256)
            install_executable(ctx.kept_archive, ctx.paths.archives / sha256, sha256)
        ctx.confirm()
        _refuse_outdated(ctx)
        ClusterState(ctx.paths).save_desired_state(ctx.desired_state)


def _refuse_outdated(ctx: Context) -> None:
    """Two runs may resume one request. The second would overwrite the desired state that the first has written."""
    if ctx.resumes_pending and not is_pending(ctx.paths):
        raise StateError(
            "another run has already applied this change",
            why="the run of the hook that requested it has written desired.json",
            remedy="petal-node bootstrap    (the service at boot and its timer do it too)",
            code="state-outdated",
        )


def _archive_is_there(ctx: Context) -> bool:
    if ctx.tool.archive is None:
        return True
    target = ctx.paths.archives / str(ctx.tool.sha256)
    return target.is_file() and sha256_of(target) == ctx.tool.sha256
