"""Owners and modes of everything below <mount>/petal: what others could have written, root is asked about first."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ..core.errors import PetalError, as_error
from ..core.model import Probe, Scope, blocked, change, elsewhere, refused, satisfied
from ..host.log import LOG
from ..state.context import Context
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
    kind: int

    @property
    def is_open_directory(self) -> bool:
        """Root's, and open: who wrote into it left files of their own, which are found by themselves."""
        return stat.S_ISDIR(self.kind) and not self.is_foreign

    @property
    def is_foreign(self) -> bool:
        return self.owner not in (0, os.geteuid())

    def __str__(self) -> str:
        return f"{self.path} {f'belongs to user {self.owner}' if self.is_foreign else f'has mode {self.mode:04o}'}"


class Modes:
    """Nobody but root can put anything into the directories of the cluster's software."""

    name = "modes"
    title = "only root can write to the software's directories"
    roles = HEAD
    scope = Scope.NODE
    needs = ("remount", "mount")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        found = _look(ctx)
        if isinstance(found, Probe):
            return found
        open_ones = [one for one in found if one.is_open_directory]
        if not open_ones:
            return satisfied("only root can write to them")
        return change(_told(open_ones), *(_remedy(one) for one in open_ones[:SHOWN]))

    def apply(self, ctx: Context) -> None:
        for one in _found(ctx) or ():
            if one.is_open_directory:
                _take_back(one)


class Owners:
    """Nothing there is anybody else's, or could have been changed by anybody else."""

    name = "owners"
    title = "the software is root's, and root's alone"
    roles = HEAD
    scope = Scope.NODE
    needs = ("remount", "mount", "modes")
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        found = _look(ctx)
        if isinstance(found, Probe):
            return found
        doubtful = [one for one in found if not one.is_open_directory]
        if not doubtful:
            return satisfied("everything is root's")
        if ctx.may_destroy:
            return change(_told(doubtful), *(_remedy(one) for one in doubtful[:SHOWN]))
        return blocked(_told(doubtful), *(f"ls -ld {one.path}" for one in doubtful[:SHOWN]), YES)

    def apply(self, ctx: Context) -> None:
        for one in _found(ctx) or () if ctx.may_destroy else ():
            if one.is_open_directory:
                continue
            if ctx.paths.state in Path(one.path).parents and not Path(one.path).is_dir():
                # A record decides what root does: one that others could write is not believed, and written anew.
                _put_aside(one)
            else:
                _take_back(one)


def _look(ctx: Context) -> list[Loose] | Probe:
    """What is loose, or why nobody looks."""
    if ctx.paths.live and ctx.mounted is None:
        return elsewhere(f"{ctx.paths.mount} is not mounted")
    try:
        found = ctx.system.on_storage(lambda: _found(ctx), ctx.paths.shared, SECONDS)
    except (PetalError, OSError) as error:
        return refused(as_error(error, ctx.paths.shared_mount))
    return elsewhere("the storage is not the one from before") if found is None else found


def _told(found: list[Loose]) -> str:
    return f"{found[0]}{f', and {len(found) - 1} more' if found[1:] else ''}"


def _found(ctx: Context) -> list[Loose] | None:
    """What is loose, from the top down; None where the storage is another one than this node has used."""
    top = ctx.paths.shared
    return list(_loose(top)) if top.is_dir() and is_ours(ctx) else None


def _loose(top: Path) -> Iterator[Loose]:
    """From the top down. What goes away meanwhile is nobody's trouble: nodes write their reports all the time."""
    left = [str(top)]
    first = _judge(str(top), os.lstat(top))
    if first:
        yield first
    while left:
        for path, info in _entries(left.pop()):
            found = _judge(path, info)
            if found:
                yield found
            if stat.S_ISDIR(info.st_mode):
                left.append(path)


def _entries(directory: str) -> Iterator[tuple[str, os.stat_result]]:
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    yield entry.path, entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
    except FileNotFoundError:
        return


def _judge(path: str, info: os.stat_result) -> Loose | None:
    """A link has no mode of its own."""
    kind = stat.S_IFMT(info.st_mode)
    found = Loose(path, info.st_uid, stat.S_IMODE(info.st_mode), kind)
    return found if found.is_foreign or (not stat.S_ISLNK(kind) and info.st_mode & LOOSE) else None


def _remedy(one: Loose) -> str:
    return f"chown -h root:root {one.path}" if one.is_foreign else f"chmod go-w {one.path}"


def _put_aside(one: Loose) -> None:
    try:
        aside = Path(one.path).replace(f"{one.path}.foreign")
    except FileNotFoundError:  # a node has just replaced its report
        return
    _take_back(replace(one, path=str(aside)))


def _take_back(one: Loose) -> None:
    """By a descriptor: whoever could write there may put a link in its place between look and deed.

    A link is given to root as it is; pipes, sockets and devices are none of ours and go.
    """
    try:
        if stat.S_ISLNK(one.kind):
            os.lchown(one.path, 0, 0)
            return
        if not stat.S_ISREG(one.kind) and not stat.S_ISDIR(one.kind):
            Path(one.path).unlink()
            return
        descriptor = os.open(one.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        LOG.warning("%s stays as it is: %s", one.path, error)
        return
    try:
        if one.is_foreign:
            os.fchown(descriptor, 0, 0)
        os.fchmod(descriptor, one.mode & ~LOOSE & 0o777)  # no setuid of a file that was somebody else's
    finally:
        os.close(descriptor)
