"""The release that shells get: is it whole and the wanted one, does it fit this node, is its store in order?"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..cluster.targets import common, level
from ..core.facts import Host
from ..core.model import Finding
from ..spack.recovery import trouble
from ..spack.workspace import store_of
from ..state.context import Context
from ..state.release import Manifest, current_release
from .base import current_manifest, fail, ok, warn


def release(ctx: Context, seconds: float) -> Iterator[Finding]:
    """Whether ``current`` leads to a complete release, and to the wanted one."""
    current = ctx.system.on_storage(lambda: current_release(ctx.paths), ctx.paths.root, seconds)
    if current is None:
        why = "the head node has not finished the install, or it failed"
        yield fail("release", "no release is published yet", why, "on the head node: petal-node status")
        return
    manifest = current_manifest(ctx, seconds)
    if manifest is None:
        remedy = "on the head node: petal-node repair"
        yield fail("release", f"release {current} has no manifest", "it is half a release, or half removed", remedy)
    elif ctx.release is not None and current != ctx.release:
        message = f"current is {current}, wanted is {ctx.release}"
        yield warn("release", message, "", "on the head node: petal-node status")
    else:
        yield ok("release", f"{current} of {manifest.created}")


def store(ctx: Context, seconds: float) -> Iterator[Finding]:
    """Whether Spack's database is there for what the store holds. Jobs do not read it, the next install would."""
    if not ctx.config.builds:
        return
    place = store_of(ctx)
    damage = ctx.system.on_storage(lambda: trouble(place), place, seconds)
    if not damage:
        yield ok("store", "Spack's database is there")
        return
    why = "an install by Spack's own command would begin with an empty one and build everything again"
    yield warn("store", damage, why, "petal-node repair    (brings it back)")


def cpu(ctx: Context, seconds: float) -> Iterator[Finding]:
    """Whether this node's CPU, C library and operating system are ones that the release was built for."""
    manifest = current_manifest(ctx, seconds)
    if manifest is not None:
        yield fits(ctx.facts.host, manifest)


def fits(host: Host, manifest: Manifest) -> Finding:
    """Whether a node can run what a release holds.

    Where nothing was built, the trees hold modules of binary packages alone, and nobody knows what those need.
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
