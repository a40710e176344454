"""A release is complete when it has a manifest, and published when the link ``current`` leads to it."""

from __future__ import annotations

from ..core.model import Finding, change, satisfied
from ..host.times import timestamp
from ..releases.publish import pin_of, publish
from ..spack.workspace import missing_packages, specs_of
from ..state.context import Context
from ..state.release import Manifest, current_release, read_index, read_manifest, write_manifest
from ..state.store import save_desired_state_of
from .base import ClusterStep, Run
from .desired_state import RecordDesiredState
from .module_tree import ModuleTree
from .packages import Packages
from .spack import SpackStack


class Publish(ClusterStep):
    """New shells get the desired release."""

    name = "publish"
    needs = (RecordDesiredState, Packages, SpackStack, ModuleTree)
    part_of = frozenset({Run.BOOTSTRAP, Run.REPAIR, Run.AMI_IMAGE})
    in_image = True

    def probe(self, ctx: Context) -> Finding:
        release, current = ctx.desired_release, current_release(ctx.paths)
        manifest = read_manifest(ctx.paths, release)
        link = f"link current -> {release} (now: {current or 'missing'})"
        if manifest is None:
            return change(f"release {release} is not published yet", "write its manifest", link)
        if current != release:
            return change(f"the current release is {current or 'missing'}, the desired one is {release}", link)
        if manifest.missing and manifest.missing != missing_packages(ctx):
            names = ", ".join(manifest.missing)
            return change(f"release {release} was published without {names}", "write its manifest")
        if not pin_of(ctx, release).is_file():
            return change(f"release {release} has no module for jobs to load", f"write the module petal/{release}")
        return satisfied(f"release {release} is current")

    def apply(self, ctx: Context) -> None:
        manifest = read_manifest(ctx.paths, ctx.desired_release)
        if manifest is None or manifest.missing:
            # The files reach the disk before the manifest, so a snapshot with a manifest is complete.
            ctx.system.flush(ctx.paths.root)
            write_manifest(ctx.paths, _manifest(ctx))
        save_desired_state_of(ctx.paths, ctx.desired_state)  # before it is published, for a later rollback
        publish(ctx, ctx.desired_release)


def _manifest(ctx: Context) -> Manifest:
    host = ctx.facts.host
    index = read_index(ctx.paths, ctx.desired_release)
    return Manifest(
        release=ctx.desired_release,
        created=timestamp(),
        os=host.os,
        glibc=host.glibc,
        specs=tuple(specs_of(ctx)),
        trees=index.trees if index else (),
        missing=missing_packages(ctx),
    )
