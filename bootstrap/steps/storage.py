"""Shared storage is mounted, shared, the one that this node knows, safe to write to, and serves this cluster."""

from __future__ import annotations

import os
import shlex
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.deadlines import PROBE
from ..core.errors import StateError, StorageError
from ..core.facts import NETWORK_KINDS, Mount
from ..core.model import Finding, Role, Severity, change, elsewhere, satisfied
from ..core.text import human, quoted
from ..host.files import Lstats, PathProblem, make_own_dir, mode_problem, path_problem
from ..host.locks import lock_problem, mount_lock_problem, no_locks_error
from ..host.log import LOG
from ..state.context import Context
from ..state.desired import Owner, Token, is_foreign
from ..state.release import current_in
from ..state.store import ClusterState, KnownStorage, is_own_storage, untrusted_remedy
from .base import ClusterStep, Run, Step
from .mount import HiddenMounts, MountStorage
from .self_install import SelfInstall


@dataclass(frozen=True)
class StorageView:
    """The state of the mounted storage.

    Args:
        problem: a path that others could change.
        prepared: all directories of petal-node are there, and this node's file for trials of locks.
        free: bytes that can be written.
        token: None on a storage that no head node has prepared.
        token_is_lost: only the token is missing from the storage that this head node has used.
        lock_problem: the reason why locks do not work; only the head node tries them.
    """

    problem: PathProblem | None
    on_root_disk: bool
    writable: bool
    prepared: bool
    free: int
    token: Token | None
    token_is_lost: bool = False
    lock_problem: str = ""


class Storage(Step):
    """Finds shared storage and remembers its token. Only the head node prepares it."""

    name = "storage"
    needs = (SelfInstall, MountStorage)
    after = (HiddenMounts, MountStorage)

    def probe(self, ctx: Context) -> Finding:
        mount, where = ctx.mounted if ctx.paths.live else None, ctx.paths.mount
        if ctx.paths.live and mount is None:
            if ctx.config.storage.source is None:
                raise _not_mounted(ctx)
            return change(f"{where} is not mounted yet", f"use {where} when it is mounted")
        if not ctx.paths.live and not ctx.paths.shared_mount.is_dir():
            raise _no_directory(ctx.paths.shared_mount)
        known = KnownStorage.load(ctx.paths)  # before the storage is read: another run writes the token first
        view = ctx.system.on_storage(lambda: _view(ctx), ctx.paths.shared_mount, PROBE)
        _refuse_unusable(ctx, mount, view, known)
        return _compare(ctx, mount, view, known)

    def apply(self, ctx: Context) -> None:
        if ctx.paths.live and ctx.mounted is None:
            raise _not_mounted(ctx)
        state = ClusterState(ctx.paths)
        token = ctx.system.on_storage(state.token, ctx.paths.shared_mount, PROBE)
        if ctx.role is Role.HEAD:
            for path in _directories(ctx):
                make_own_dir(path, ctx.paths.shared_mount)
        if _serves_another(ctx, token):
            return
        if ctx.role is Role.HEAD:
            try_locks(ctx)
            if token is None:
                token = _new_token(ctx)
                state.save_token(token)
        if token is not None:
            KnownStorage.of(ctx.paths.mount, token, ctx.role).save(ctx.paths)


def _no_directory(place: Path) -> StorageError:
    """The error of a tree (``--root``) in which the directory for shared storage is missing or a file."""
    state, command = ("is not a directory", "ls -ld") if os.path.lexists(place) else ("is missing", "mkdir -p")
    what = f"the directory for shared storage, {place}, {state}"
    return StorageError(what, remedy=f"{command} {shlex.quote(str(place))}", code="storage-not-mounted")


def _directories(ctx: Context) -> list[Path]:
    paths = ctx.paths
    top = [paths.shared, paths.shared_root, paths.state, paths.state / "nodes", paths.archives, paths.locks]
    return [*top, *(paths.shared_root / name for name in ("store", "releases", "spack"))]


def _serves_another(ctx: Context, token: Token | None) -> bool:
    """True for the storage of another cluster; the step ``storage-owner`` takes it over or refuses it."""
    return token is not None and is_foreign(token.owner, ctx.facts.cluster)


def _view(ctx: Context) -> StorageView:
    """Runs in a child with a deadline, because every call may hang."""
    paths, mount = ctx.paths, ctx.paths.shared_mount
    space, tried, directories = os.statvfs(mount), tried_file(ctx), _directories(ctx)
    writable, lstats = not space.f_flag & os.ST_RDONLY, Lstats()
    places = (*directories, paths.builds, paths.state / "token.json")
    problems = [path_problem(path, mount, lstats) for path in places]
    try:
        token = ClusterState(paths, lstats=lstats).token()
    except StateError as error:
        if error.code != "untrusted":
            raise
        token = None  # ``problem`` has the reason
    are_made = all(info and stat.S_ISDIR(info.st_mode) for info in map(lstats.get, directories))
    has_tried = tried.is_file()
    return StorageView(
        problem=mode_problem(mount, mount.stat(), sticky=True) or next(filter(None, problems), None),
        on_root_disk=paths.live and _is_on_root_disk(mount),
        writable=writable,
        prepared=are_made and (has_tried or _serves_another(ctx, token)),
        free=space.f_bavail * space.f_frsize,
        token=token,
        token_is_lost=token is None and ctx.role is Role.HEAD and is_own_storage(paths, ctx.facts.host.name),
        lock_problem=lock_problem(tried) if ctx.role is Role.HEAD and writable and has_tried else "",
    )


def _is_on_root_disk(mount: Path) -> bool:
    return mount.stat().st_dev == Path("/").stat().st_dev


def _not_mounted(ctx: Context) -> StorageError:
    mount, name = ctx.followed(ctx.paths.mount), ctx.paths.mount
    name += f", a link to {mount}," if mount != name else ""
    declared = ", ".join(shared.mount for shared in ctx.facts.cluster.shared) or "none"
    return StorageError(
        f"{name} is not mounted (the cluster's shared directories: {declared})",
        remedy=(
            f"mount {quoted(mount)}",
            f"findmnt {quoted(mount)}",
            "or name another mount in the configuration: storage.mount",
        ),
        code="storage-not-mounted",
    )


def _refuse_unusable(ctx: Context, mount: Mount | None, view: StorageView, known: KnownStorage | None) -> None:
    """Raises the first reason not to use the storage, in the order of causes."""
    where = ctx.paths.shared_mount
    if mount is not None and mount.user:
        what = f"{where} was mounted by user {mount.user}, not by root; it is not used"
        raise StorageError(what, remedy=(f"findmnt {quoted(where)}", f"umount {quoted(where)}"), code="untrusted")
    if view.problem:
        remedy = untrusted_remedy(ctx.paths, view.problem)
        raise StorageError(f"{view.problem}; it is not used", remedy=remedy, code="untrusted")
    if view.on_root_disk:
        remedy = (f"findmnt -T {quoted(where)}", "mount the shared storage there")
        raise StorageError(f"{where} is on the root disk", remedy=remedy, code="storage-local")
    if ctx.role is Role.HEAD:
        _refuse_on_head(ctx, mount, view, known)
        return
    if ctx.paths.live and view.token is not None and view.token.host == ctx.facts.host.name:
        what = f"{where} was prepared by this node itself, so it is not shared"
        raise StorageError(what, remedy=f"findmnt {quoted(where)}", code="storage-local")
    _refuse_changed(ctx, view, known)
    if view.token is None or _serves_another(ctx, view.token):
        owner = f": it serves cluster {view.token.owner}" if view.token else ""
        what = f"the head node has not prepared {where} yet, or this is another storage{owner}"
        raise StorageError(what, remedy="on the head node: petal-node status", code="storage-unprepared")


def _refuse_on_head(ctx: Context, mount: Mount | None, view: StorageView, known: KnownStorage | None) -> None:
    where = ctx.paths.shared_mount
    declared = [shared.mount for shared in ctx.facts.cluster.shared]
    is_network = mount is not None and mount.kind in NETWORK_KINDS
    if ctx.paths.live and declared and ctx.paths.mount not in declared and not is_network:
        what = f"{where} is a local disk that the cluster does not share (it shares {', '.join(declared)})"
        remedy = f"name one of them in the configuration: storage: {{mount: {declared[0]}}}"
        raise StorageError(what, remedy=remedy, code="storage-local")
    _refuse_changed(ctx, view, known)
    if not view.writable:
        raise read_only_error(where)
    if view.lock_problem:
        raise no_locks_error(where, view.lock_problem)
    problem = mount_lock_problem(mount) if mount else None
    if problem:
        raise problem


def read_only_error(where: Path) -> StorageError:
    """The error for shared storage that was mounted read-only, or that the kernel made read-only after errors."""
    remedy = (f"findmnt {quoted(where)}", f"mount -o remount,rw {quoted(where)}")
    return StorageError(f"{where} is mounted read-only", remedy=remedy, code="storage-read-only")


def _refuse_changed(ctx: Context, view: StorageView, known: KnownStorage | None) -> None:
    """A wrong volume at the right mount point looks like a new cluster, so an operator has to accept it."""
    if known is None or ctx.options.accept_storage or known.knows(ctx.paths.mount, view.token):
        return
    where = ctx.paths.shared_mount
    if view.token_is_lost:
        what = f"{ctx.paths.state}/token.json, the storage token, is missing"
        raise StorageError(what, remedy="petal-node repair", code="storage-changed")
    holds = f"token {view.token.token[:8]}" if view.token else "no token"
    holds += f" of cluster {view.token.owner}" if view.token and view.token.owner else ""
    accept = "or accept this one" if ctx.role is Role.HEAD else "on the head node, to accept this one for all nodes"
    raise StorageError(
        f"{where} is another file system than before: it has {holds}, this node has used token {known.token[:8]}",
        remedy=(
            f"findmnt {quoted(where)}",
            "mount the previous file system",
            f"{accept}: petal-node bootstrap --accept-storage",
        ),
        code="storage-changed",
    )


def _compare(ctx: Context, mount: Mount | None, view: StorageView, known: KnownStorage | None) -> Finding:
    """A storage without problems: is it prepared, and does this node remember it?"""
    if ctx.role is Role.HEAD and (not view.prepared or view.token is None):
        lines = (f"create {ctx.paths.shared} (root, 0755)", "write the storage token")
        return change(f"{ctx.paths.shared} is not prepared", *lines)
    assert view.token is not None
    token, free = f"token {view.token.token[:8]}", f"{human(view.free)} free"
    kind = "a directory" if mount is None else f"{mount.kind} from {mount.source}"
    if _serves_another(ctx, view.token):
        return satisfied(f"{kind}, {free}, {token} of cluster {view.token.owner}")
    if known != KnownStorage.of(ctx.paths.mount, view.token, ctx.role):
        # A node that follows its head node to another token can use the software.
        found = change(f"{ctx.paths.shared_mount} is new to this node", f"remember {token}")
        return replace(found, severity=Severity.WARN) if known and known.knows(ctx.paths.mount, view.token) else found
    if ctx.role is Role.HEAD:
        return satisfied(f"{kind}, {free}, {token}")
    return satisfied(f"{kind}, the same as on {view.token.host}: {token}")


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


def _new_token(ctx: Context) -> Token:
    return Token(os.urandom(16).hex(), ctx.facts.host.name, Owner.of(ctx.facts.cluster))


class StorageOwner(ClusterStep):
    """The token on the storage names this cluster. The storage of another is taken over only with --accept-storage.

    Store and releases stay, and the probes of the later steps decide which of them are used. The records of the other
    cluster are removed, and the storage gets a new token, so that nodes that know the old one write nothing to it.
    """

    name = "storage-owner"
    needs = (Storage,)
    claims_storage = True
    part_of = frozenset({Run.BOOTSTRAP, Run.REPAIR})

    def probe(self, ctx: Context) -> Finding:
        own = Owner.of(ctx.facts.cluster)
        if own is None:
            return elsewhere("the name of this cluster is not known")
        token = ClusterState(ctx.paths).token()
        if token is None or token.owner is None:
            return change("shared storage has no owner yet", f"write the owner, cluster {own}")
        if not is_foreign(token.owner, ctx.facts.cluster):
            return satisfied(f"shared storage serves cluster {own}")
        if not ctx.options.accept_storage:
            raise StorageError(
                f"{ctx.paths.shared_mount} serves cluster {token.owner}",
                why="one storage serves one cluster, and that cluster may still be in use",
                remedy=(
                    "name another file system, or another directory of it, in the configuration: storage.mount",
                    "if that cluster is deleted: petal-node bootstrap --accept-storage",
                ),
                code="storage-other-cluster",
            )
        lines = (
            f"take over {_taken_release(ctx)}",
            f"remove the records of cluster {token.owner} in {ctx.paths.state}",
        )
        return change(f"shared storage serves cluster {token.owner}", *lines)

    def apply(self, ctx: Context) -> None:
        own, shared = Owner.of(ctx.facts.cluster), ClusterState(ctx.paths)
        token = shared.token()
        assert own is not None
        assert token is not None
        if token.owner is None:
            ctx.confirm()
            shared.save_token(replace(token, owner=own))
            return
        try_locks(ctx)
        # The token is written last: until then, a run after a kill finds the storage of another cluster.
        ctx.confirm()
        shared.remove_records()
        taken = _new_token(ctx)
        shared.save_token(taken)
        KnownStorage.of(ctx.paths.mount, taken, ctx.role).save(ctx.paths)
        message = f"took over {_taken_release(ctx)} of cluster {token.owner}"
        ctx.note(message)
        LOG.info("%s", message, extra={"step": self.name})


def _taken_release(ctx: Context) -> str:
    release = current_in(ctx.paths.shared_root)
    return f"release {release}" if release else "a storage without a release"
