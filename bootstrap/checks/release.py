"""The release that shells get: is it complete and the wanted one, does it fit this node, is its database readable?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..cluster.targets import common, level
from ..core.deadlines import PROBE
from ..core.facts import Host
from ..core.model import Finding
from ..prove.login_shell import check_login_shell
from ..spack.recovery import database_problem
from ..spack.workspace import store_of
from ..state.context import Context
from ..state.release import Manifest, current_release
from ..steps.base import HEAD, Check
from ..steps.root import WAY_TO_STORAGE
from .base import current_manifest, fail, ok, warn


class CurrentRelease(Check):
    """Whether ``current`` leads to a complete release, and to the wanted one."""

    name = "release"
    seconds = PROBE
    after = WAY_TO_STORAGE

    def findings(self, ctx: Context) -> Iterator[Finding]:
        current = ctx.system.on_storage(lambda: current_release(ctx.paths), ctx.paths.root, self.seconds)
        if current is None:
            why = "the head node has not finished the install, or it failed"
            yield fail("release", "no release is published yet", why, "on the head node: petal-node status")
            return
        manifest = current_manifest(ctx, self.seconds)
        if manifest is None:
            remedy = "on the head node: petal-node repair"
            why = "an install or a removal was interrupted"
            yield fail("release", f"release {current} is incomplete: manifest.json is missing", why, remedy)
        elif ctx.release is not None and current != ctx.release:
            message = f"current is {current}, wanted is {ctx.release}"
            yield warn("release", message, "", "on the head node: petal-node status")
        else:
            yield ok("release", f"{current} of {manifest.created}")


class SpackDatabase(Check):
    """Whether Spack's database of the store can be read. Jobs do not need it, the next install does."""

    name = "spack-database"
    roles = HEAD
    seconds = 30
    after = WAY_TO_STORAGE

    def findings(self, ctx: Context) -> Iterator[Finding]:
        if not ctx.config.builds:
            return
        place = store_of(ctx)
        damage = ctx.system.on_storage(lambda: database_problem(place), place, self.seconds)
        if not damage:
            yield ok("spack-database", "Spack's database can be read")
            return
        why = "spack install would start with an empty database and build everything again"
        yield warn("spack-database", damage, why, "petal-node repair    (restores it)")


class CpuFits(Check):
    """Whether this node's CPU, C library and operating system are ones that the release was built for."""

    name = "cpu"
    seconds = PROBE
    after = (*WAY_TO_STORAGE, CurrentRelease)

    def findings(self, ctx: Context) -> Iterator[Finding]:
        manifest = current_manifest(ctx, self.seconds)
        if manifest is not None:
            yield fits(ctx.facts.host, manifest)


class ModulesUsable(Check):
    """Whether a login shell loads every module, and programs find their libraries and run."""

    name = "modules"
    seconds = 120
    after = (*WAY_TO_STORAGE, CurrentRelease)
    more_names = ("load", "libraries", "run")

    def findings(self, ctx: Context) -> Iterator[Finding]:
        manifest = current_manifest(ctx)
        if manifest is not None:
            yield from check_login_shell(ctx, manifest, self.seconds)


def fits(host: Host, manifest: Manifest) -> Finding:
    """Whether a node can run the software of a release.

    If nothing was built, the release has binary packages only, whose requirements are unknown.
    """
    tree = manifest.tree_for(host.target)
    if tree is None and manifest.specs:
        return _cpu_misfit(host, [tree.target for tree in manifest.trees])
    if host.os != manifest.os:
        return _image_misfit(f"built on {manifest.os}, this node is {host.os}")
    if _version(host.glibc) < _version(manifest.glibc):
        return _image_misfit(f"built with glibc {manifest.glibc}, this node has {host.glibc}")
    if tree is None or not manifest.specs:
        return ok("cpu", f"nothing was built for a CPU, this node is {host.target}")
    return ok("cpu", f"built for {tree.target}, this node is {host.target}")


def _cpu_misfit(host: Host, built: list[str]) -> Finding:
    levels = all(target == level(target) for target in built)
    mine = level(host.target)
    message = f"built for {' and '.join(built)}, this node is {mine if levels else host.target}"
    why = f"its CPU is {host.target}: a program may die of SIGILL there (Illegal instruction)"
    remedy = (
        f"spack: {{target: {_common(built, host)}}}    (or [{', '.join((*built, mine))}]: a module tree for each)",
        "with that in the configuration, on the head node: petal-node bootstrap --config FILE",
    )
    return fail("cpu", message, why, *remedy)


def _common(built: list[str], host: Host) -> str:
    return common({name: name for name in (*built, host.target)}, host.machine)


def _image_misfit(message: str) -> Finding:
    return fail("cpu", message, "", "use one operating system image for head, queues and login nodes")


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if re.fullmatch(r"[0-9]{1,9}", part))
