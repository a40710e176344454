"""Locks that exclude on every node: POSIX record locks, never flock(2).

Measured on NFSv4.2: ``flock`` on the exporting head node and ``flock`` on a client succeed at the same time; record
locks (fcntl(2), F_SETLK) exclude in every direction. A process loses its record locks if it closes *any* descriptor of
the file, so only ``Lock`` opens the lock file, and a second file describes the holder. The kernel, or the end of the
lease, releases the lock of a dead holder; the files are never deleted.

Spack locks every package with record locks too, even with ``config:locks: false`` (0.23 and 1.1).
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from ..core import decode
from ..core.errors import NO_SPACE, LockLost, LockTimeout, StateError, StorageError
from ..core.facts import Mount
from ..core.model import plain
from ..core.text import quoted
from .atomic import write_atomic, write_json
from .files import make_dir, read_json
from .lock_owners import owners
from .processes import own_start
from .times import timestamp

if TYPE_CHECKING:
    from typing_extensions import Self

OPEN_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
# Spack locks one byte per package, at an offset of up to 63 bits of its hash (lib/spack/spack/database.py).
FAR = 1 << 62
FLOCK = struct.Struct("hhqqi4x")  # struct flock with an off_t of 64 bits
# Their locks exclude on one node only (fuse(4): without support of the file system, the kernel keeps the locks).
NODE_LOCAL = ("s3fs", "mountpoint-s3", "goofys", "rclone", "sshfs")
_held: set[Path] = set()


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock."""

    host: str
    pid: int
    boot_id: str
    process_start: float
    since: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.host}, process {self.pid}, since {self.since}, run {self.run_id}"


def holder_of(path: Path) -> Holder | None:
    """The last holder of the lock at ``path``, which may have ended; None if it is unknown."""
    try:
        raw = read_json(path.with_suffix(".holder"))
        return None if raw is None else decode.build(Holder, raw)
    except (StateError, KeyError, TypeError, ValueError):
        return None
    except OSError as error:
        if error.errno != errno.ESTALE:  # over NFS, a file that is replaced more often than it can be read
            raise
        return None


def open_private(path: Path) -> int:
    """Opens a lock file that only root can open: others could block it with a lock for reading."""
    descriptor = os.open(path, OPEN_FLAGS, 0o600)
    if os.fstat(descriptor).st_mode & 0o077:
        os.fchmod(descriptor, 0o600)
    return descriptor


def make_private(path: Path) -> None:
    """Makes a lock file that only root can open; one that users could open is replaced, as they may have locked it.

    The caller knows that no process of its own uses the file.
    """
    try:
        is_private = not path.stat().st_mode & 0o077
    except FileNotFoundError:
        os.close(open_private(path))
        return
    if not is_private:
        write_atomic(path, b"", mode=0o600)


def own_holder(host: str, boot_id: str, run_id: str) -> Holder:
    """This process as the holder of a lock."""
    return Holder(host, os.getpid(), boot_id, own_start(), timestamp(), run_id)


class Lock:
    """An exclusive lock over all nodes that see ``path``, as a context manager.

    Args:
        path: the lock file, in a directory that only root can write.
        holder: this process.
        timeout: seconds to wait for another holder.
        waiting: called once with the description of another holder.
        inherit: called with the previous holder when the lock is taken; that process may have left unfinished work.

    Raises (on entry):
        LockTimeout: another process still held it at the deadline.
        StorageError: ``storage-no-locks``, the file system has no working record locks.
    """

    def __init__(
        self,
        path: Path,
        holder: Holder,
        *,
        timeout: float,
        waiting: Callable[[str], None],
        inherit: Callable[[Holder], None] | None = None,
    ) -> None:
        self._path = path
        self._holder = holder
        self._recorded: Holder | None = None
        self._timeout = timeout
        self._waiting = waiting
        self._inherit = inherit
        self._descriptor = -1

    def __enter__(self) -> Self:
        if self._path in _held:
            raise RuntimeError(f"{self._path} is held by this process already")
        make_dir(self._path.parent)
        self._descriptor = open_private(self._path)
        try:
            self._acquire()
            previous = holder_of(self._path)
            if previous is not None and self._inherit is not None:
                self._inherit(previous)
            self._recorded = self._record()
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
        """Makes sure that this process held the lock without interruption.

        An NFS client that was cut off for longer than its lease loses its locks silently (RFC 8881, 8.4.3). Locking
        again asks the server, and another process that held the lock in between has recorded itself as the holder.

        Raises:
            LockLost: another process holds it, or held it.
        """
        try:
            is_ours = _lock_file(self._descriptor) and holder_of(self._path) == self._recorded
            why = "" if is_ours else f"it was taken by {self._holder_name()}"
        except OSError as error:
            is_ours, why = False, os.strerror(error.errno or 0)
        if not is_ours:
            raise LockLost(
                f"{self._path.name} was lost while this run worked",
                why=f"this node was cut off from shared storage for longer than its lease: {why}",
                remedy=("petal-node status", "petal-node bootstrap"),
            )

    def _acquire(self) -> None:
        try:
            acquired = _wait(
                lambda: _lock_file(self._descriptor), self._timeout, lambda: self._waiting(self._holder_name())
            )
        except OSError as error:
            raise StorageError(
                f"{self._path} cannot be locked",
                why=f"{os.strerror(error.errno or 0)}: the file system has no working POSIX record locks",
                remedy="FSx for Lustre: mount with flock; NFS: use version 4",
                code="storage-no-locks",
            ) from error
        if not acquired:
            raise LockTimeout(
                f"{self._path.name} was not free within {self._timeout:.0f} s",
                why=f"held by {self._holder_name()}",
                remedy=("petal-node status", "run it again when the holder has ended"),
            )

    def _record(self) -> Holder | None:
        """Records this process as the holder; on a full disk the record is removed, because the run may free space."""
        path = self._path.with_suffix(".holder")
        try:
            write_json(path, plain(self._holder))
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            path.unlink(missing_ok=True)
            return None
        return self._holder

    def _holder_name(self) -> str:
        """The run that recorded itself, and other processes that the kernel knows: a user's lock has no record."""
        recorded, known = holder_of(self._path), owners(self._path)
        others = [name for name in known if recorded is None or not name.startswith(f"process {recorded.pid} ")]
        has_ended = recorded is not None and recorded.host == self._holder.host and known and len(others) == len(known)
        named = [str(recorded)] if recorded is not None and not has_ended else []
        return " and ".join((*named, *others)) or "a process that did not record its name"


@contextmanager
def builders_ended(
    path: Path, previous: Holder | None, timeout: float, waiting: Callable[[str], None]
) -> Iterator[int]:
    """Waits until the builders of earlier runs have ended on all nodes; yields the descriptor for this run's builders.

    The lock of a run ends with its process, but builders outlive it. A builder on another node cannot be killed, and
    two builders in one prefix damage it. This lock belongs to the open file: each builder has its descriptor.

    Args:
        path: a file next to the lock, which the caller holds.
        previous: the previous holder of that lock.

    Raises:
        LockTimeout: a builder was still at work after ``timeout`` seconds.
    """
    builders = f"the builders that {previous} left" if previous else "builders of an earlier run"
    descriptor = open_private(path)
    try:
        if not _wait(lambda: lock_open_file(descriptor), timeout, lambda: waiting(builders)):
            node = previous.host if previous else "their node"
            raise LockTimeout(
                f"builders of an earlier run were still at work after {timeout:.0f} s",
                why=f"{builders} may still write into the store: {' and '.join(owners(path)) or node}",
                remedy=(f"on {node}: petal-node bootstrap    # ends them", "or reboot it"),
            )
        yield descriptor
    finally:
        os.close(descriptor)


def lock_open_file(descriptor: int, start: int = 0) -> bool:
    """Locks one byte for an open file: the lock ends when the last process closes that descriptor (fcntl(2)).

    Returns:
        False if another process holds it.
    """
    return _succeeds(fcntl.fcntl, descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))


def lock_problem(path: Path) -> str:
    """The reason why locks on ``path`` do not exclude, found by a trial; an empty string if they do. It may hang.

    One lock belongs to an open file description and the other to this process, so that they exclude each other as the
    locks of two processes do (fcntl(2), "Open file description locks"). A missing file is made.
    """
    try:
        descriptor = open_private(path)
    except PermissionError:
        return ""  # without write access this process does not install either
    try:
        if not lock_open_file(descriptor, FAR):
            return ""  # another run makes the same trial at this moment, and this process was excluded
        other = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            both = _succeeds(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, FAR)
            return "two got the same lock at once" if both else ""
        finally:
            os.close(other)
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(descriptor)


def no_locks_error(where: Path, why: str) -> StorageError:
    """The error for a file system on which ``lock_problem`` found a reason."""
    return StorageError(
        f"the locks of {where} do not work, so that nothing is installed there",
        why=why,
        remedy=(
            f"findmnt {quoted(where)}",
            "FSx for Lustre: mount it with flock; NFS: with version 4 and without local_lock",
            "or name another storage in the configuration: storage.mount",
        ),
        code="storage-no-locks",
    )


def mount_lock_problem(mount: Mount) -> StorageError | None:
    """The error if the locks of a mount do not exclude other nodes, as far as its type and options tell."""
    options = {name: value for name, _, value in (option.partition("=") for option in mount.options)}
    why = remedy = ""
    if mount.kind in ("nfs", "nfs4"):
        if options.get("vers", "4").startswith(("2", "3")):
            why = "of NFS version 3: a node that is terminated never gives back its locks (rpc.statd(8))"
            remedy = "mount it with vers=4.2 (EFS: 4.1)"
        elif "nolock" in options or options.get("local_lock") in ("all", "posix"):
            why, remedy = "nolock and local_lock keep locks on each node (nfs(5))", "mount it without them"
    elif mount.kind == "lustre":
        if "localflock" in options:
            why = "localflock keeps locks on each node (mount.lustre(8))"
            remedy = "mount it with flock instead"
        elif "flock" not in options:
            why, remedy = "without flock Lustre has no locks (mount.lustre(8))", "mount it with flock"
    elif mount.kind == "cifs" and "nobrl" in options:
        why, remedy = "nobrl keeps locks on each node", "remount without it"
    elif mount.kind.startswith("fuse") and any(name in (mount.source, mount.kind[5:]) for name in NODE_LOCAL):
        why = "each node would keep its locks for itself"
        remedy = "name an EBS, EFS or FSx directory in the configuration: storage.mount"
    if not why:
        return None
    what = f"the locks of {mount.point} ({mount.kind} from {mount.source}) do not keep nodes apart"
    return StorageError(what, why=why, remedy=(f"findmnt {quoted(mount.point)}", remedy), code="storage-no-locks")


def _wait(acquire: Callable[[], bool], timeout: float, waiting: Callable[[], None]) -> bool:
    """Tries ``acquire`` until it succeeds; False at the deadline."""
    deadline = time.monotonic() + timeout
    tries = 0
    while not acquire():
        tries += 1
        if tries == 2:  # a new holder needs a moment to record its name
            waiting()
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, random.uniform(0.1, 0.4)))  # noqa: S311 - spreads the waiters, no secret
    return True


def _lock_file(descriptor: int) -> bool:
    """Takes the lock of a whole file for this process; False if another process holds it."""
    return _succeeds(fcntl.lockf, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _succeeds(lock: Callable[..., object], *arguments: object) -> bool:
    try:
        lock(*arguments)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
