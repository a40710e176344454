"""Shared storage is there, is really shared, is the one from before, and belongs to us below <mount>/petal."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..core.deadlines import PROBE
from ..core.errors import PetalError, StateError, StorageError, as_error
from ..core.facts import NETWORK_KINDS, Mount
from ..core.model import Finding, Role, change, refused, satisfied
from ..host.files import PathProblem, make_own_dir, mode_problem, path_problem
from ..host.locks import lock_problem, mount_lock_problem, no_locks_error
from ..state.context import Context
from ..state.desired import Token
from ..state.owner import Owner, is_foreign
from ..state.store import ClusterState, KnownStorage
from .base import Step
from .hidden_mounts import HiddenMounts
from .mount import MountStorage
from .self_install import SelfInstall

GIB = 1 << 30


@dataclass(frozen=True)
class Look:
    """What one guarded look at the mount saw."""

    distrusted: PathProblem | None
    on_root_disk: bool
    writable: bool
    prepared: bool
    free: int
    token: Token | None
    locks: str = ""


class Storage(Step):
    """Finds shared storage and remembers which one it is; the head node prepares it, the others only look."""

    name = "storage"
    title = "shared storage is mounted and shared"
    needs = (SelfInstall, MountStorage)
    after = (HiddenMounts, MountStorage)

    def probe(self, ctx: Context) -> Finding:
        mount = ctx.mounted if ctx.paths.live else None
        if ctx.paths.live and mount is None:
            return refused(_missing(ctx)) if ctx.config.storage.source is None else _to_be_mounted(ctx)
        before = KnownStorage.load(ctx.paths)  # first: a run beside this one marks the storage, then remembers it
        try:
            seen = ctx.system.on_storage(lambda: _look(ctx), ctx.paths.shared_mount, PROBE)
        except (PetalError, OSError) as error:
            return refused(as_error(error, ctx.paths.shared_mount))
        bad = (
            _unsafe(ctx, seen)
            or _not_shared(ctx, mount, seen)
            or _another(ctx, seen, before)
            or _unfit(ctx, mount, seen)
        )
        return refused(bad) if bad else _judge(ctx, mount, seen, before)

    def apply(self, ctx: Context) -> None:
        if ctx.paths.live and ctx.mounted is None:
            raise _missing(ctx)
        shared = ClusterState(ctx.paths)
        token = ctx.system.on_storage(shared.token, ctx.paths.shared_mount, PROBE)
        if ctx.role is Role.HEAD:
            for path in _directories(ctx):
                make_own_dir(path, ctx.paths.shared_mount)
        if _is_foreign(ctx, token):
            return
        if ctx.role is Role.HEAD:
            try_locks(ctx)
            if token is None:
                token = Token(os.urandom(16).hex(), ctx.facts.host.name, Owner.of(ctx.facts.cluster))
                shared.save_token(token)
        if token is not None:
            KnownStorage.of(ctx.paths.mount, token, ctx.role).save(ctx.paths)


def _is_foreign(ctx: Context, token: Token | None) -> bool:
    """Another cluster's: the step ``storage-owner`` decides what becomes of it."""
    return token is not None and is_foreign(token.owner, ctx.facts.cluster)


def _directories(ctx: Context) -> list[Path]:
    paths = ctx.paths
    top = [paths.shared, paths.shared_root, paths.state, paths.state / "nodes", paths.archives, paths.locks]
    return [*top, *(paths.shared_root / name for name in ("store", "releases", "spack"))]


def _look(ctx: Context) -> Look:
    """Runs in a child with a deadline: everything here may hang."""
    paths = ctx.paths
    space = os.statvfs(paths.shared_mount)
    writable = not space.f_flag & os.ST_RDONLY
    tried, token = tried_file(ctx), _token(ctx)
    ours = (path_problem(path, paths.shared_mount) for path in (*_directories(ctx)[1:], paths.builds))
    return Look(
        distrusted=mode_problem(paths.shared_mount, paths.shared_mount.stat(), sticky=True)
        or next(filter(None, ours), None),
        on_root_disk=paths.live and _is_on_root_disk(paths.shared_mount),
        writable=writable,
        prepared=all(path.is_dir() for path in _directories(ctx)) and (tried.is_file() or _is_foreign(ctx, token)),
        free=space.f_bavail * space.f_frsize,
        token=token,
        locks=lock_problem(tried) if ctx.role is Role.HEAD and writable and tried.is_file() else "",
    )


def _is_on_root_disk(mount: Path) -> bool:
    return mount.stat().st_dev == Path("/").stat().st_dev


def _token(ctx: Context) -> Token | None:
    try:
        return ClusterState(ctx.paths).token()
    except StateError as error:
        if error.code == "untrusted":
            return None  # ``distrusted`` tells it
        raise


def _to_be_mounted(ctx: Context) -> Finding:
    return change(f"{ctx.paths.mount} is not mounted yet", f"use {ctx.paths.mount} when it is")


def _missing(ctx: Context) -> StorageError:
    declared = ", ".join(shared.mount for shared in ctx.facts.cluster.shared) or "none"
    mount = ctx.paths.mount
    return StorageError(
        f"{mount} is not mounted (the cluster's shared directories: {declared})",
        remedy=(f"mount {mount}", f"findmnt {mount}", "or name another mount in the configuration: storage.mount"),
        code="storage-not-mounted",
    )


def _unsafe(ctx: Context, seen: Look) -> StorageError | None:
    where = ctx.paths.shared_mount
    if seen.distrusted:
        found = seen.distrusted
        return StorageError(f"{found}; it is not used", remedy=(f"ls -ld {found.path}", found.remedy), code="untrusted")
    if seen.on_root_disk:
        return StorageError(
            f"{where} is on the root disk",
            remedy=(f"findmnt -T {where}", "mount the shared storage there"),
            code="storage-local",
        )
    return None


def _not_shared(ctx: Context, mount: Mount | None, seen: Look) -> StorageError | None:
    where = ctx.paths.shared_mount
    if ctx.role is not Role.HEAD:
        if ctx.paths.live and seen.token is not None and seen.token.host == ctx.facts.host.name:
            what = f"{where} was prepared by this node itself, so it is not shared"
            return StorageError(what, remedy=f"findmnt {where}", code="storage-local")
        return None
    declared = [shared.mount for shared in ctx.facts.cluster.shared]
    is_network = mount is not None and mount.kind in NETWORK_KINDS
    if ctx.paths.live and declared and ctx.paths.mount not in declared and not is_network:
        what = f"{where} is a local disk that the cluster does not share (it shares {', '.join(declared)})"
        remedy = f"name one of them in the configuration: storage: {{mount: {declared[0]}}}"
        return StorageError(what, remedy=remedy, code="storage-local")
    return None


def _another(ctx: Context, seen: Look, before: KnownStorage | None) -> StorageError | None:
    """A wrong volume at the right place looks like a new cluster: nothing is installed there until somebody says so."""
    if before is None or ctx.options.accept_storage or before.knows(ctx.paths.mount, seen.token):
        return None
    where = ctx.paths.shared_mount
    now = f"it holds token {seen.token.token[:8]}" if seen.token else "it holds no token"
    now += f" of cluster {seen.token.owner}" if seen.token and seen.token.owner else ""
    who = "" if ctx.role is Role.HEAD else "    (on the head node: for all nodes)"
    return StorageError(
        f"{where} is another file system than before: {now}, this node has used {before.token[:8]}",
        remedy=(
            f"findmnt {where}",
            "mount the one from before",
            f"or, where this one is meant: petal-node bootstrap --accept-storage{who}",
        ),
        code="storage-changed",
    )


def _unfit(ctx: Context, mount: Mount | None, seen: Look) -> StorageError | None:
    where = ctx.paths.shared_mount
    if ctx.role is Role.HEAD:
        if not seen.writable:
            remedy = (f"findmnt {where}", f"mount -o remount,rw {where}")
            return StorageError(f"{where} is mounted read-only", remedy=remedy, code="storage-read-only")
        if seen.locks:
            return no_locks_error(where, seen.locks)
        return mount_lock_problem(mount) if mount else None
    if seen.token is None or _is_foreign(ctx, seen.token):
        whose = f": it serves cluster {seen.token.owner}" if seen.token else ""
        what = f"the head node has not prepared {where} yet, or this is another storage{whose}"
        return StorageError(what, remedy="on the head node: petal-node status", code="storage-unprepared")
    return None


def _judge(ctx: Context, mount: Mount | None, seen: Look, before: KnownStorage | None) -> Finding:
    if ctx.role is Role.HEAD and (not seen.prepared or seen.token is None):
        return change(
            f"{ctx.paths.shared} is not prepared",
            f"create {ctx.paths.shared} (root, 0755)",
            "write the storage token",
        )
    assert seen.token is not None
    token = f"token {seen.token.token[:8]}"
    if _is_foreign(ctx, seen.token):
        return satisfied(f"{_kind(mount)}, {seen.free / GIB:.0f} GiB free, {token} of cluster {seen.token.owner}")
    if before != KnownStorage.of(ctx.paths.mount, seen.token, ctx.role):
        return change(f"{ctx.paths.shared_mount} is new to this node", f"remember {token}")
    if ctx.role is Role.HEAD:
        return satisfied(f"{_kind(mount)}, {seen.free / GIB:.0f} GiB free, {token}")
    return satisfied(f"{_kind(mount)}, the same as on {seen.token.host}: {token}")


def _kind(mount: Mount | None) -> str:
    return "not checked under --root" if mount is None else f"{mount.kind} from {mount.source}"


def tried_file(ctx: Context) -> Path:
    """The file on which this node tries locks, next to the locks.

    Each node has its own: an NFS server that has given a delegation for a file asks its holder before another node may
    write there, and waits for the lease of a node that was cut off.
    """
    return ctx.paths.locks / f"tried.{ctx.facts.host.name}"


def try_locks(ctx: Context) -> None:
    """Refuses shared storage whose locks do not exclude another process.

    Raises:
        StorageError: ``storage-no-locks``.
    """
    where = ctx.paths.shared_mount
    why = ctx.system.on_storage(lambda: lock_problem(tried_file(ctx)), where, PROBE)
    if why:
        raise no_locks_error(where, why)
