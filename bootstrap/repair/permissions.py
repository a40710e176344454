"""Ownership and permissions below <mount>/petal. Files that other users could have changed need ``--yes``.

The owner of a file is never changed: the finding has the command for it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

from ..core.deadlines import SCAN
from ..core.model import Finding, blocked, elsewhere, satisfied
from ..core.text import at_most, not_reached, quoted
from ..host.files import Scan, has_default_acl, scan
from ..host.log import LOG
from ..state.context import Context
from ..state.store import UNTOUCHED, is_own_storage
from ..steps.base import HEAD, Run, Step
from ..steps.mount import HiddenMounts, MountStorage

SHOWN = 3
BUDGET = 100.0  # seconds of one scan, before the check's own deadline
ACLS = 50  # paths whose directories are asked for their ACL: it is a cause of many of them, and each look takes time
WRITABLE = 0o022
YES = "petal-node repair --yes    # runs chmod go-w; only if you know that no other user has written to them"


@dataclass(frozen=True)
class InsecurePath:
    """A file or directory that belongs to another user than root, or that others can write to."""

    path: str
    owner: int
    mode: int

    @property
    def is_foreign(self) -> bool:
        return self.owner not in (0, os.geteuid())

    def __str__(self) -> str:
        mode = f"has mode {stat.S_IMODE(self.mode):04o}"
        return f"{self.path} {f'belongs to user {self.owner}' if self.is_foreign else mode}"


class Permissions(Step):
    """All files of the cluster's software belong to root, and no other user can write to them.

    A directory is closed at once. A file that others could have changed is closed only with ``--yes``.
    """

    name = "permissions"
    roles = HEAD
    needs: ClassVar[tuple[type[Step], ...]] = (HiddenMounts, MountStorage)
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    after = (HiddenMounts, MountStorage)
    seconds = 120

    def probe(self, ctx: Context) -> Finding:
        if ctx.paths.live and ctx.mounted is None:
            return elsewhere(f"{ctx.paths.mount} is not mounted")
        scanned = ctx.system.on_storage(lambda: _scan(ctx), ctx.paths.shared, SCAN)
        if scanned is None:
            return elsewhere(f"{ctx.paths.mount} is not the storage that this node has used")
        rest = not_reached(scanned.unreached, " directories", BUDGET)
        paths = _insecure(scanned)
        if not paths:
            return satisfied(f"only root owns and writes the files below {ctx.paths.shared}{rest}")
        closed = [one for one in paths if _may_close(ctx, one)]
        kept = [one for one in paths if not _may_close(ctx, one)]
        own = (one for one in paths if not one.is_foreign)
        parents = dict.fromkeys(os.path.dirname(one.path) for one in islice(own, ACLS))  # noqa: PTH120
        acl = ctx.system.on_storage(lambda: next(filter(has_default_acl, parents), None), ctx.paths.shared, SCAN)
        remedy = (*(("petal-node repair",) if closed else ()), *_remedies(ctx, kept))
        why = ""
        if acl is not None:
            why = f"{acl} has a default ACL that lets others write to new files, so each install makes more of them"
            remedy = (f"setfacl -R -k {quoted(ctx.paths.shared)}", *remedy)
        message = ", ".join(at_most(1, [*kept, *closed])) + rest
        changes = tuple(f"chmod go-w {quoted(one.path)}" for one in closed[:SHOWN])
        return replace(blocked(message, *remedy), why=why, changes=changes)

    def apply(self, ctx: Context) -> None:
        for one in _insecure(_scan(ctx)):
            if _may_close(ctx, one):
                _close(one)


def _may_close(ctx: Context, one: InsecurePath) -> bool:
    return not one.is_foreign and (stat.S_ISDIR(one.mode) or ctx.options.yes)


def _remedies(ctx: Context, kept: list[InsecurePath]) -> Iterator[str]:
    """A record in ``state`` decides what root does, so it is removed; the next repair writes it again."""
    foreign = [one for one in kept if one.is_foreign]
    writable = [one for one in kept if not one.is_foreign]
    for one in (*foreign[:1], *writable[:SHOWN]):
        yield f"ls -ld {quoted(one.path)}"
    records = [one for one in foreign if ctx.paths.state in Path(one.path).parents and not stat.S_ISDIR(one.mode)]
    for one in records[:SHOWN]:
        yield f"rm {quoted(one.path)}    # then: petal-node repair"
    for owner in sorted({one.owner for one in foreign if one not in records})[:SHOWN]:
        yield f"chown -Rh --from={owner:d} root:root {quoted(ctx.paths.shared)}    # {UNTOUCHED}"
    if writable:
        yield YES


def _scan(ctx: Context) -> Scan | None:
    """All insecure paths, parents first; None if the storage is not the one that this node has used."""
    top, own = ctx.paths.shared, (0, os.geteuid())
    if not top.is_dir() or not is_own_storage(ctx.paths, ctx.facts.host.name):
        return None

    def is_insecure(info: os.stat_result) -> bool:  # a link has no own mode
        return info.st_uid not in own or (not stat.S_ISLNK(info.st_mode) and bool(info.st_mode & WRITABLE))

    return scan(top, is_insecure, BUDGET)


def _insecure(scanned: Scan | None) -> list[InsecurePath]:
    return [InsecurePath(path, info.st_uid, info.st_mode) for path, info in scanned.found] if scanned else []


def _close(one: InsecurePath) -> None:
    """Takes the right to write from others, by a descriptor: a user may have put a link in the place of the file."""
    try:
        descriptor = os.open(one.path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        info = os.fstat(descriptor)
        if info.st_uid == one.owner and not stat.S_ISLNK(info.st_mode):
            Path(f"/proc/self/fd/{descriptor}").chmod(stat.S_IMODE(info.st_mode) & ~WRITABLE)
        else:
            LOG.warning("%s was replaced during the repair and stays as it is", one.path)
    finally:
        os.close(descriptor)
