"""Locks that exclude on ParallelCluster's default storage: POSIX record locks, never flock.

Measured on NFSv4.2: ``flock`` on the exporting head node and ``flock`` on a client both succeed at once, record locks
(fcntl(2), F_SETLK) exclude in every direction. They vanish when *any* descriptor of the file is closed in the
process, so the lock file is opened here and nowhere else, once, and the holder is described in a file beside it.
The kernel or the lease releases the lock of a dead holder; the files are never deleted.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..core import decode
from ..core.errors import DISK_ERRORS, LockLost, LockTimeout, StateError, StorageError
from ..core.model import plain
from ..host.atomic import write_json
from ..host.file_locks import lock_open_file
from ..host.files import make_dir, read_json
from ..host.processes import own_start
from ..host.times import timestamp

if TYPE_CHECKING:
    from typing_extensions import Self

_held: set[Path] = set()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock: enough to find the process, and to know whether it still runs."""

    host: str
    pid: int
    boot_id: str
    process_start: float
    since: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}, run {self.run_id}"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Holder:
        return cls(
            host=decode.text(raw["host"]),
            pid=decode.whole(raw["pid"]),
            boot_id=decode.text(raw["boot_id"]),
            process_start=decode.number(raw["process_start"]),
            since=decode.text(raw["since"]),
            run_id=decode.text(raw["run_id"]),
        )


def holder_of(path: Path) -> Holder | None:
    """Who last took the lock at ``path``; it may have ended since."""
    try:
        raw = read_json(path.with_suffix(".holder"))
        return None if raw is None else Holder.from_dict(raw)
    except (StateError, KeyError, TypeError, ValueError):
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:  # it changes hands faster than it can be read over NFS
            raise
        return None


def own_holder(host: str, boot_id: str, run_id: str) -> Holder:
    """This process as the holder of a lock."""
    return Holder(host, os.getpid(), boot_id, own_start(), timestamp(), run_id)


class Lock:
    """An exclusive lock over all nodes that see ``path``, as a context manager.

    Args:
        path: the lock file, in a directory that only root can write.
        holder: this process.
        timeout: seconds to wait for another holder.
        waiting: called once with the holder's description when there is somebody to wait for.
        inherit: called with the holder before this one, once the lock is ours: it may have left something behind.
        nameless: the holder's name is for people only; on a full disk, which the run may make room on, none is left.

    Raises (on entry):
        LockTimeout: somebody else still held it at the deadline.
        StorageError: the file system has no working record locks (``storage-no-locks``).
    """

    def __init__(
        self,
        path: Path,
        holder: Holder,
        *,
        timeout: float,
        waiting: Callable[[str], None],
        inherit: Callable[[Holder], None] | None = None,
        nameless: bool = False,
    ) -> None:
        self._path = path
        self._nameless = nameless
        self._holder = holder
        self._timeout = timeout
        self._waiting = waiting
        self._inherit = inherit
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self._path in _held:
            raise RuntimeError(f"{self._path} is held by this process already")
        make_dir(self._path.parent)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o600)
        try:
            self._acquire(time.monotonic() + self._timeout)
            before = holder_of(self._path)
            if before is not None and self._inherit is not None:
                self._inherit(before)
            self._leave_name()
        except BaseException:
            os.close(self._descriptor)
            raise
        _held.add(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _held.discard(self._path)
        os.close(self._descriptor)

    def confirm(self) -> None:
        """Makes sure that the lock is held, and was held by nobody else since it was taken.

        A client of NFS that was cut off for longer than its lease loses its locks without a word (RFC 8881, 8.4.3). To
        ask again goes to the server; whoever held it meanwhile has left its name. On a local disk nothing is lost.

        Raises:
            LockLost: somebody else holds it, or did.
        """
        try:
            ours = _lock(self._descriptor) and holder_of(self._path) == self._holder
            why = "" if ours else f"it was taken by {self._who()}"
        except OSError as error:
            ours, why = False, os.strerror(error.errno or 0)
        if not ours:
            raise LockLost(
                f"{self._path.name} was lost while this run worked",
                why=f"this node was cut off from shared storage for longer than its lease: {why}",
                remedy=("petal-node status", "petal-node bootstrap"),
            )

    def _leave_name(self) -> None:
        try:
            write_json(self._path.with_suffix(".holder"), plain(self._holder))
        except OSError as error:
            if not (self._nameless and error.errno in DISK_ERRORS):
                raise

    def _acquire(self, deadline: float) -> None:
        if not _wait(self._try, deadline, lambda: self._waiting(self._who())):
            raise LockTimeout(
                f"{self._path.name} was not free within {self._timeout:.0f} s",
                why=f"held by {self._who()}",
                remedy=("petal-node status", "run it again when the holder has ended"),
            )

    def _try(self) -> bool:
        try:
            return _lock(self._descriptor)
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be locked",
                why=f"{os.strerror(error.errno or 0)}: the file system has no working POSIX record locks",
                remedy="FSx for Lustre: mount with flock; NFS: use version 4",
                code="storage-no-locks",
            ) from error

    def _who(self) -> str:
        holder = holder_of(self._path)
        return str(holder) if holder else "a process that did not leave its name"


@contextmanager
def builders_ended(path: Path, before: Holder | None, timeout: float, waiting: Callable[[str], None]) -> Iterator[int]:
    """Waits until no builder of an earlier run is left, on any node; yields the descriptor that ours must be given.

    The lock of a run ends with its process, and builders live on: on another node nobody can end them, and two of them
    in one prefix spoil it. This lock belongs to the open file, and so to whoever has its descriptor, to the last one.

    Args:
        path: a file beside the lock, which the caller holds.
        before: who held that before.

    Raises:
        LockTimeout: some were still at work after ``timeout`` seconds.
    """
    who = f"the builders that {before} left" if before else "builders of an earlier run"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not _wait(lambda: lock_open_file(descriptor), time.monotonic() + timeout, lambda: waiting(who)):
            raise LockTimeout(
                f"builders of an earlier run were still at work after {timeout:.0f} s",
                why=f"{who} may still write into the store",
                remedy=(
                    f"on {before.host if before else 'their node'}: petal-node bootstrap    (ends them)",
                    "or reboot it",
                ),
            )
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(taken: Callable[[], bool], deadline: float, waiting: Callable[[], None]) -> bool:
    """Tries until it is taken; False at the deadline."""
    tries = 0
    while not taken():
        tries += 1
        if tries == 2:  # not at once: who has just taken it has yet to write its name
            waiting()
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, random.uniform(0.1, 0.4)))  # noqa: S311 - spreads the waiters, no secret
    return True


def _lock(descriptor: int) -> bool:
    """False where somebody else holds it."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
