"""Whether the locks of a file system keep nodes apart: petal-node's own lock needs that, and Spack's on every package.

``config:locks: false`` does not help on a file system without them: Spack 0.23 and 1.1 lock all the same.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Callable
from pathlib import Path

from ..core.errors import StorageError
from ..core.facts import Mount

# Spack locks one byte for each package, as far out as the first 63 bits of its hash (lib/spack/spack/database.py).
FAR = 1 << 62
FLOCK = struct.Struct("hhqqi4x")  # struct flock, where off_t has 64 bits
# Each node keeps their locks for itself (fuse(4): where the file system takes none, the kernel does).
LONELY = ("s3fs", "mountpoint-s3", "goofys", "rclone", "sshfs")


def unfit(mount: Mount) -> StorageError | None:
    """Why the locks of a mount cannot be relied on, as far as its type and options tell."""
    options = {name: value for name, _, value in (option.partition("=") for option in mount.options)}
    if mount.kind in ("nfs", "nfs4"):
        return _unfit_nfs(mount, options)
    if mount.kind == "lustre":
        return _unfit_lustre(mount, options)
    if mount.kind == "cifs" and "nobrl" in options:
        return _error(mount, "nobrl keeps locks on each node", "remount without it")
    if mount.kind.startswith("fuse") and any(name in (mount.source, mount.kind[5:]) for name in LONELY):
        why = "each node would keep its locks for itself"
        return _error(mount, why, "name an EBS, EFS or FSx directory in the configuration: storage.mount")
    return None


def broken(path: Path) -> str:
    """Tries it: why two are not kept apart by a lock on the file ``path``, or an empty string.

    One lock belongs to an open file description, the other to this process, so that they exclude each other as those
    of two processes do (fcntl(2), "Open file description locks"). It may hang, as the file system may. The file is made
    where it is missing.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except PermissionError:
        return ""  # who may not open it does not install either
    try:
        if not lock_open_file(descriptor, FAR):
            return ""  # another run tries it at this moment, and we are kept out
        other = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            taken = _tried(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, FAR)
            return "two got the same lock at once" if taken else ""
        finally:
            os.close(other)
    except OSError as error:
        return os.strerror(error.errno or 0)
    finally:
        os.close(descriptor)


def lock_open_file(descriptor: int, start: int = 0) -> bool:
    """Locks one byte for an open file, and so for every process that has this descriptor, until the last one has ended.

    Returns:
        False where somebody else holds it.
    """
    return _tried(fcntl.fcntl, descriptor, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, 1, 0))


def no_locks(where: Path, why: str) -> StorageError:
    """What is said of a file system whose locks were tried and do not work."""
    return StorageError(
        f"the locks of {where} do not work, so that nothing is installed there",
        why=why,
        remedy=(
            f"findmnt {where}",
            "FSx for Lustre: mount it with flock; NFS: with version 4 and without local_lock",
            "or name another storage in the configuration: storage.mount",
        ),
        code="storage-no-locks",
    )


def _unfit_nfs(mount: Mount, options: dict[str, str]) -> StorageError | None:
    if options.get("vers", "4").startswith(("2", "3")):
        why = "of NFS version 3: a node that is terminated never gives back its locks (rpc.statd(8))"
        return _error(mount, why, "mount it with vers=4.2 (EFS: 4.1)")
    if "nolock" in options or options.get("local_lock") in ("all", "posix"):
        return _error(mount, "nolock and local_lock keep locks on each node (nfs(5))", "mount it without them")
    return None


def _unfit_lustre(mount: Mount, options: dict[str, str]) -> StorageError | None:
    if "localflock" in options:
        return _error(mount, "localflock keeps locks on each node (mount.lustre(8))", "mount it with flock instead")
    if "flock" not in options:
        return _error(mount, "without flock Lustre has no locks (mount.lustre(8))", "mount it with flock")
    return None


def _error(mount: Mount, why: str, remedy: str) -> StorageError:
    what = f"the locks of {mount.point} ({mount.kind} from {mount.source}) do not keep nodes apart"
    return StorageError(what, why=why, remedy=(f"findmnt {mount.point}", remedy), code="storage-no-locks")


def _tried(lock: Callable[..., object], *arguments: object) -> bool:
    """False where somebody else holds it."""
    try:
        lock(*arguments)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True
