"""Whether the current release is complete and desired and fits this node, and whether its database is readable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial

from ..cluster.targets import common, level
from ..core.deadlines import PROBE
from ..core.facts import Host
from ..core.model import Finding
from ..core.paths import Paths
from ..prove.login_shell import check_login_shell
from ..spack.database import database_problem
from ..spack.workspace import store_of
from ..state.context import Context, ObservedRelease
from ..state.release import Manifest, current_release, read_manifest
from ..steps.base import HEAD, Check
from ..steps.root import WAY_TO_STORAGE


class CurrentRelease(Check):
    """Whether ``current`` leads to a complete release, and to the desired one."""

    name = "release"
    seconds = PROBE
    after = WAY_TO_STORAGE

    def findings(self, ctx: Context) -> Iterator[Finding]:
        yield self.judge(observe_release(ctx), ctx.release)

    def judge(self, release: ObservedRelease, desired: str | None) -> Finding:
        """Whether the current release is complete, and the desired one; None if that is not known."""
        current, manifest = release
        if current is None:
            why = "the head node has not finished the install, or it failed"
            return self.fail("no release is published yet", why, "on the head node: petal-node status")
        if manifest is None:
            remedy = "on the head node: petal-node repair"
            why = "an install or a removal was interrupted"
            return self.fail(f"release {current} is incomplete: manifest.json is missing", why, remedy)
        if desired is not None and current != desired:
            message = f"the current release is {current}, the desired one is {desired}"
            return self.warn(message, "", "on the head node: petal-node status")
        return self.ok(f"release {current} of {manifest.created} is complete and current")


class SpackDatabase(Check):
    """Whether Spack's database of the store can be read. Jobs do not need it, the next install does."""

    name = "spack-database"
    roles = HEAD
    seconds = 30
    after = WAY_TO_STORAGE

    def findings(self, ctx: Context) -> Iterator[Finding]:
        if not ctx.config.uses_spack:
            return
        place = store_of(ctx)
        damage = ctx.system.on_storage(lambda: database_problem(place), place, self.seconds)
        if not damage:
            yield self.ok("Spack's database can be read")
            return
        why = "spack install would start with an empty database and build everything again"
        yield self.warn(damage, why, "petal-node repair    # restores it")


class CpuFits(Check):
    """Whether this node's CPU, C library and operating system are ones that the release was built for."""

    name = "cpu"
    seconds = PROBE
    after = (*WAY_TO_STORAGE, CurrentRelease)

    def findings(self, ctx: Context) -> Iterator[Finding]:
        manifest = observe_release(ctx).manifest
        if manifest is not None:
            yield self.fits(ctx.facts.host, manifest)

    def fits(self, host: Host, manifest: Manifest) -> Finding:
        """Whether a node can run the software of a release.

        If nothing was built, the release has binary packages only, whose requirements are unknown.
        """
        tree = manifest.tree_for(host.target)
        if tree is None and manifest.specs:
            return self._other_cpu(host, [tree.target for tree in manifest.trees])
        one_image = "use one operating system image for head, queues and login nodes"
        if host.os != manifest.os:
            return self.fail(f"the release was built on {manifest.os}, this node has {host.os}", "", one_image)
        if _numbers(host.glibc) < _numbers(manifest.glibc):
            message = f"the release was built with glibc {manifest.glibc}, this node has glibc {host.glibc}"
            return self.fail(message, "", one_image)
        if tree is None or not manifest.specs:
            return self.ok(f"the release has no software that was built for a CPU; this node has {host.target}")
        return self.ok(f"the release was built for {tree.target}, this node has {host.target}")

    def _other_cpu(self, host: Host, built: list[str]) -> Finding:
        mine = level(host.target)
        shown = mine if all(target == level(target) for target in built) else host.target
        both = common((*built, host.target), host.machine)
        return self.fail(
            f"the release was built for {' and '.join(built)}, this node has {shown}",
            f"its CPU is {host.target}: programs may end with SIGILL (Illegal instruction)",
            f"spack: {{target: {both}}}    # or [{', '.join((*built, mine))}]: a module tree for each",
            "on the head node, with that in the configuration: petal-node bootstrap --config FILE",
        )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if re.fullmatch(r"[0-9]{1,9}", part))


class ModulesUsable(Check):
    """Whether a login shell loads every module, and programs find their libraries and run."""

    name = "modules"
    seconds = 120
    after = (*WAY_TO_STORAGE, CurrentRelease)
    more_names = ("load", "libraries", "run")

    def findings(self, ctx: Context) -> Iterator[Finding]:
        manifest = observe_release(ctx).manifest
        if manifest is not None:
            yield from check_login_shell(ctx, manifest, self.seconds)


def observe_release(ctx: Context) -> ObservedRelease:
    """The release that shells get. Read once in the checks of a node.

    Raises:
        StateError: the manifest is damaged.
        StorageError: shared storage does not answer.
    """
    if ctx.observed.release is None:
        ctx.observed.release = ctx.system.on_storage(partial(read_release, ctx.paths), ctx.paths.root, PROBE)
    return ctx.observed.release


def read_release(paths: Paths) -> ObservedRelease:
    """The current release and its manifest.

    Raises:
        StateError: the manifest is damaged.
    """
    current = current_release(paths)
    return ObservedRelease(current, None if current is None else read_manifest(paths, current))
