"""Owners and modes of everything below <mount>/petal: what others could write, root does not run."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..context import Context
from ..errors import PetalError, as_error
from ..model import Probe, Scope, blocked, change, elsewhere, refused, satisfied
from ..steps.base import HEAD
from .ours import is_ours

SECONDS = 120.0
SHOWN = 3
LOOSE = 0o022
YES = "petal-node repair --yes    (gives it to root as it is: only where you know that nobody else has written there)"


@dataclass(frozen=True)
class Loose:
    """A file or directory that others can change, or that is not root's; links have no mode of their own."""

    path: str
    owner: int
    mode: int
    is_link: bool

    @property
    def is_foreign(self) -> bool:
        return self.owner not in (0, os.geteuid())

    def __str__(self) -> str:
        return f"{self.path} {f'belongs to user {self.owner}' if self.is_foreign else f'has mode {self.mode:04o}'}"


class Modes:
    """Nobody but root can change the cluster's software."""

    name = "modes"
    title = "the software is root's"
    roles = HEAD
    scope = Scope.NODE
    needs = ("remount", "mount")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if ctx.paths.live and ctx.mounted is None:
            return elsewhere(f"{ctx.paths.mount} is not mounted")
        try:
            found = ctx.system.guarded(lambda: _found(ctx), timeout=SECONDS, what=str(ctx.paths.shared))
        except (PetalError, OSError) as error:
            return refused(as_error(error, ctx.paths.shared_mount))
        if found is None:
            return elsewhere("the storage is not the one from before")
        if not found:
            return satisfied("everything is root's")
        told = f"{found[0]}{f', and {len(found) - 1} more' if found[1:] else ''}"
        if any(one.is_foreign for one in found) and not ctx.may_destroy:
            return blocked(told, *(f"ls -ld {one.path}" for one in found[:SHOWN]), YES)
        return change(told, *(_remedy(one) for one in found[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for one in _found(ctx) or ():
            if one.is_foreign and not ctx.may_destroy:
                continue
            if one.is_foreign and ctx.paths.state in Path(one.path).parents and not Path(one.path).is_dir():
                # A record decides what root does: one that was somebody else's is not believed, and written anew.
                aside = Path(one.path).replace(f"{one.path}.foreign")
                _take_back(replace(one, path=str(aside)))
            else:
                _take_back(one)


def _found(ctx: Context) -> list[Loose] | None:
    """What is loose, from the top down; None where the storage is another one than this node has used."""
    top = ctx.paths.shared
    return list(_loose(top)) if top.is_dir() and is_ours(ctx) else None


def _loose(top: Path) -> Iterator[Loose]:
    """Root's directories that others can write to are looked into as well: what is in them may be anybody's."""
    first = _judge(str(top), os.lstat(top))
    if first:
        yield first
    left = [str(top)]
    while left:
        with os.scandir(left.pop()) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                found = _judge(entry.path, info)
                if found:
                    yield found
                if stat.S_ISDIR(info.st_mode):
                    left.append(entry.path)


def _judge(path: str, info: os.stat_result) -> Loose | None:
    is_link = stat.S_ISLNK(info.st_mode)
    found = Loose(path, info.st_uid, stat.S_IMODE(info.st_mode), is_link)
    return found if found.is_foreign or (not is_link and info.st_mode & LOOSE) else None


def _remedy(one: Loose) -> str:
    return f"chown -h root:root {one.path}" if one.is_foreign else f"chmod go-w {one.path}"


def _take_back(one: Loose) -> None:
    """By a descriptor: whoever could write there may put a link in its place between look and deed."""
    if one.is_link:
        os.lchown(one.path, 0, 0)
        return
    descriptor = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if one.is_foreign:
            os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, one.mode & ~LOOSE & 0o777)  # no setuid of a file that was somebody else's
    finally:
        os.close(descriptor)
