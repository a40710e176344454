"""Shared storage is there, is really shared, and belongs to us below <mount>/petal."""

from __future__ import annotations

import os
import stat
import uuid
from dataclasses import dataclass
from pathlib import Path

from ..context import Context
from ..errors import PetalError, StateError, StorageError, of_os_error
from ..files import distrust, make_own_dir
from ..model import NETWORK_KINDS, Mount, Probe, Role, Scope, blocked, change, satisfied
from ..state import Shared, Token
from .base import EVERYWHERE

TOUCH_SECONDS = 5.0
GIB = 1 << 30


@dataclass(frozen=True)
class Look:
    """What one guarded look at the mount saw."""

    distrusted: str
    on_root_disk: bool
    writable: bool
    prepared: bool
    free: int
    token: Token | None


class Storage:
    """Finds shared storage; the head node prepares it, the others only look."""

    name = "storage"
    title = "shared storage is mounted and shared"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("tool", "mount")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        mount = ctx.mounted if ctx.paths.live else None
        if ctx.paths.live and mount is None:
            return _not_mounted(ctx)
        try:
            seen = ctx.system.guarded(lambda: _look(ctx), timeout=TOUCH_SECONDS, what=str(ctx.paths.shared_mount))
        except PetalError as error:
            return blocked(str(error), *error.remedy)
        except OSError as trouble:
            refused = of_os_error(trouble, ctx.paths.shared_mount)
            return blocked(str(refused), *refused.remedy)
        return _judge(ctx, mount, seen)

    def apply(self, ctx: Context) -> None:
        if ctx.role is not Role.HEAD or (ctx.paths.live and ctx.mounted is None):
            raise StorageError(
                f"{ctx.paths.mount} is not mounted", remedy="petal-node plan", code="storage-not-mounted"
            )
        for path in _directories(ctx):
            make_own_dir(path, ctx.paths.shared_mount)
        shared = Shared(ctx.paths)
        if shared.token() is None:
            shared.save_token(Token(uuid.uuid4().hex, ctx.facts.host.name))


def _directories(ctx: Context) -> list[Path]:
    paths = ctx.paths
    top = [paths.shared, paths.shared_root, paths.state, paths.state / "nodes", paths.archives, paths.locks]
    return [*top, *(paths.shared_root / name for name in ("store", "releases", "spack"))]


def _look(ctx: Context) -> Look:
    """Runs in a child with a deadline: everything here may hang."""
    paths = ctx.paths
    space = os.statvfs(paths.shared_mount)
    return Look(
        distrusted=_loose(paths.shared_mount)
        or distrust(paths.locks, paths.shared_mount)
        or distrust(paths.shared_root, paths.shared_mount),
        on_root_disk=paths.live and _is_on_root_disk(paths.shared_mount),
        writable=not space.f_flag & os.ST_RDONLY,
        prepared=all(path.is_dir() for path in _directories(ctx)),
        free=space.f_bavail * space.f_frsize,
        token=_token(ctx),
    )


def _loose(mount: Path) -> str:
    """Why what root puts below the mount point could be moved away by others: 1777 is fine, 0777 is not."""
    info = mount.stat()
    if info.st_uid not in {0, os.geteuid()}:
        return f"{mount} itself belongs to user {info.st_uid}, not to root"
    if info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX:
        return f"{mount} itself can be written by others and is not sticky"
    return ""


def _is_on_root_disk(mount: Path) -> bool:
    return mount.stat().st_dev == Path("/").stat().st_dev


def _token(ctx: Context) -> Token | None:
    try:
        return Shared(ctx.paths).token()
    except StateError as error:
        if error.code == "state-untrusted":
            return None  # ``distrusted`` tells it
        raise


def _not_mounted(ctx: Context) -> Probe:
    if ctx.config.storage.source is not None:
        return change(f"{ctx.paths.mount} is not mounted yet", f"use {ctx.paths.mount} when it is")
    declared = ", ".join(shared.mount for shared in ctx.facts.cluster.shared) or "none"
    return blocked(
        f"{ctx.paths.mount} is not mounted (the cluster's shared directories: {declared})",
        f"mount {ctx.paths.mount}",
        f"findmnt {ctx.paths.mount}",
        "or name another mount in the configuration: storage.mount",
    )


def _judge(ctx: Context, mount: Mount | None, seen: Look) -> Probe:
    where = ctx.paths.shared_mount
    if seen.distrusted:
        return blocked(
            f"{seen.distrusted}; it is not used",
            f"ls -ld {ctx.paths.shared}",
            f"mv {ctx.paths.shared} {ctx.paths.shared}.foreign",
        )
    if seen.on_root_disk:
        return blocked(f"{where} is on the root disk", f"findmnt -T {where}", "mount the shared storage there")
    if ctx.role is Role.HEAD:
        return _judge_head(ctx, mount, seen)
    return _judge_other(ctx, mount, seen)


def _judge_head(ctx: Context, mount: Mount | None, seen: Look) -> Probe:
    where = ctx.paths.shared_mount
    declared = [shared.mount for shared in ctx.facts.cluster.shared]
    is_network = mount is not None and mount.kind in NETWORK_KINDS
    if ctx.paths.live and declared and ctx.paths.mount not in declared and not is_network:
        return blocked(
            f"{where} is a local disk that the cluster does not share (it shares {', '.join(declared)})",
            f"name one of them in the configuration: storage: {{mount: {declared[0]}}}",
        )
    if not seen.writable:
        return blocked(f"{where} is mounted read-only", f"mount -o remount,rw {where}")
    if not seen.prepared or seen.token is None:
        return change(
            f"{ctx.paths.shared} is not prepared",
            f"create {ctx.paths.shared} (root, 0755)",
            "write the storage token",
        )
    return satisfied(f"{_kind(mount)}, {seen.free / GIB:.0f} GiB free, token {seen.token.token[:8]}")


def _judge_other(ctx: Context, mount: Mount | None, seen: Look) -> Probe:
    where = ctx.paths.shared_mount
    if seen.token is None:
        return blocked(
            f"the head node has not prepared {where} yet, or this is another storage",
            "on the head node: petal-node status",
        )
    if ctx.paths.live and seen.token.host == ctx.facts.host.name:
        return blocked(f"{where} was prepared by this node itself, so it is not shared", f"findmnt {where}")
    return satisfied(f"{_kind(mount)}, the same as on {seen.token.host}: token {seen.token.token[:8]}")


def _kind(mount: Mount | None) -> str:
    return "not checked under --root" if mount is None else f"{mount.kind} from {mount.source}"
