"""A release is complete when its manifest is there, and published when ``current`` leads to it: one rename."""

from __future__ import annotations

from ..core.model import Finding, Scope, change, satisfied
from ..host.times import timestamp
from ..releases.publish import has_pin, publish, save_desired_state
from ..spack.workspace import missing_packages, specs_of
from ..state.context import Context
from ..state.release import Manifest, current_release, read_index, read_manifest, write_manifest
from .base import HEAD, Step
from .module_tree import ModuleTree
from .packages import Packages
from .spack import SpackStack


class Publish(Step):
    """New shells get the desired release."""

    name = "publish"
    title = "the release is published"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (Packages, SpackStack, ModuleTree)
    image_layouts = frozenset({"ami"})
    in_image = True
    is_check = False

    def probe(self, ctx: Context) -> Finding:
        desired = ctx.desired_release
        current = current_release(ctx.paths)
        manifest = read_manifest(ctx.paths, desired)
        if manifest is None:
            before = current or "nothing"
            return change(f"release {desired} is not complete", "write its manifest", f"current: {before} -> {desired}")
        if current != desired:
            before = current or "nothing"
            return change(f"current is {before}", f"current: {before} -> {desired}")
        if manifest.missing and manifest.missing != missing_packages(ctx):
            missing = ", ".join(manifest.missing)
            return change(f"release {desired} was published without {missing}", "write its manifest")
        if not has_pin(ctx, desired):
            return change(f"no module pins a job to {desired}", f"write petal/{desired}")
        return satisfied(f"current is {desired}")

    def apply(self, ctx: Context) -> None:
        manifest = read_manifest(ctx.paths, ctx.desired_release)
        if manifest is None or manifest.missing:
            # What the manifest calls complete is on the disk before it is: a snapshot has nothing else.
            ctx.system.flush(ctx.paths.root)
            write_manifest(ctx.paths, _manifest(ctx))
        save_desired_state(ctx)
        publish(ctx, ctx.desired_release)


def _manifest(ctx: Context) -> Manifest:
    host = ctx.facts.host
    return Manifest(
        release=ctx.desired_release,
        created=timestamp(),
        os=host.os,
        glibc=host.glibc,
        specs=tuple(specs_of(ctx)),
        trees=read_index(ctx.paths, ctx.desired_release) or (),
        missing=missing_packages(ctx),
    )
