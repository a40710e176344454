#!/usr/bin/env python3
"""A file system that misbehaves, without any library: the kernel's FUSE protocol on /dev/fuse (linux/fuse.h, 7.31).

badfs.py deaf MOUNT            never answers, callers can be killed: a hard NFS mount whose server is gone
badfs.py dead MOUNT            accepts requests and never answers: SIGKILL does not end the callers
badfs.py squash MOUNT BACKING  shows BACKING, and maps root to user 65534, like an export with root_squash
badfs.py nolock MOUNT BACKING  shows BACKING without locks, like Lustre without flock
badfs.py slow MOUNT BACKING    shows BACKING, and takes 1 ms for each operation, 16 at a time; the kernel
                               caches nothing; a file that begins with EIO cannot be read

BADFS_USER in the environment is the user who has mounted it (default: 0, root).

It runs in the foreground. When it ends, all waiting callers get an error; unmount the mount point then.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable

IN_HEADER = struct.Struct("<IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, two unused
OUT_HEADER = struct.Struct("<IiQ")  # length, error, unique
NOBODY = 65534
NO_ANSWER = (2, 36, 42)  # FORGET, INTERRUPT, BATCH_FORGET
ROOT = 1
POSIX_LOCKS = 1 << 1


def mount(kind: str, target: str) -> int:
    """Mount and return the descriptor of the request queue."""
    device = os.open("/dev/fuse", os.O_RDWR)
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.environ.get("BADFS_USER", "0")
    options = f"fd={device},rootmode=40000,user_id={user},group_id={user},allow_other".encode()
    if libc.mount(b"badfs", target.encode(), f"fuse.{kind}".encode(), 0, options):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
    return device


def init_answer(flags: int = 0) -> bytes:
    """Without an option the kernel handles locks; with POSIX_LOCKS this server gets the requests."""
    return struct.pack("<IIIIHHIIHHII24x", 7, 31, 1 << 16, flags, 12, 9, 1 << 16, 1, 16, 0, 0, 0)


def attributes(info: os.stat_result) -> bytes:
    """A fuse_attr."""
    times = [divmod(value, 10**9) for value in (info.st_atime_ns, info.st_mtime_ns, info.st_ctime_ns)]
    return struct.pack(
        "<QQQQQQIIIIIIIIII", info.st_ino, info.st_size, info.st_blocks, *(second for second, _ in times),
        *(nano for _, nano in times), info.st_mode, info.st_nlink, info.st_uid, info.st_gid, info.st_rdev, 4096, 0,
    )  # fmt: skip


class Tree:
    """A directory of a server without locks: one method per operation, by path."""

    flags = POSIX_LOCKS
    threads = 1

    def __init__(self, backing: str) -> None:
        """Start with the root of the tree."""
        self._paths = {ROOT: backing}
        self._numbers = {backing: ROOT}
        self._operations: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup, 3: self._getattr, 4: self._setattr, 5: self._readlink, 6: self._symlink, 9: self._mkdir,
            10: self._unlink, 11: self._rmdir, 12: self._rename, 14: self._open, 15: self._read, 16: self._write,
            17: self._statfs, 18: self._release, 20: self._fsync, 27: self._opendir, 28: self._readdir,
            29: self._opendir, 35: self._create, 45: self._rename2,
        }  # fmt: skip

    def answer(self, opcode: int, node: int, uid: int, gid: int, body: bytes) -> bytes:
        """The answer to a request, with the rights of the caller."""
        operation = self._operations.get(opcode)
        if operation is None:
            raise OSError(errno.ENOSYS, "not implemented")
        os.setegid(gid)
        os.seteuid(uid)
        try:
            return operation(node, body)
        finally:
            os.seteuid(0)
            os.setegid(0)

    def _below(self, node: int, name: bytes) -> str:
        return os.path.join(self._paths[node], name.rstrip(b"\0").decode())

    def _entry(self, path: str) -> bytes:
        info = os.lstat(path)
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return struct.pack("<QQQQII", number, 0, 0, 0, 0, 0) + attributes(info)

    def _lookup(self, node: int, body: bytes) -> bytes:
        return self._entry(self._below(node, body))

    def _getattr(self, node: int, _: bytes) -> bytes:
        return struct.pack("<QII", 0, 0, 0) + attributes(os.lstat(self._paths[node]))

    def _setattr(self, node: int, body: bytes) -> bytes:
        valid, _, _, size = struct.unpack_from("<IIQQ", body)
        mode, _, uid, gid = struct.unpack_from("<IIII", body, 68)
        path = self._paths[node]
        if valid & 1:
            os.chmod(path, stat.S_IMODE(mode))
        if valid & 6:
            os.chown(path, uid if valid & 2 else -1, gid if valid & 4 else -1)
        if valid & 8:
            os.truncate(path, size)
        return self._getattr(node, b"")

    def _readlink(self, node: int, _: bytes) -> bytes:
        return os.readlink(self._paths[node]).encode()

    def _symlink(self, node: int, body: bytes) -> bytes:
        name, target = body.rstrip(b"\0").split(b"\0")
        path = self._below(node, name)
        os.symlink(target.decode(), path)
        return self._entry(path)

    def _mkdir(self, node: int, body: bytes) -> bytes:
        path = self._below(node, body[8:])
        os.mkdir(path, stat.S_IMODE(struct.unpack_from("<I", body)[0]))
        return self._entry(path)

    def _unlink(self, node: int, body: bytes) -> bytes:
        os.unlink(self._below(node, body))
        return b""

    def _rmdir(self, node: int, body: bytes) -> bytes:
        path = self._below(node, body)
        os.rmdir(path)
        self._paths.pop(self._numbers.pop(path, 0), None)
        return b""

    def _rename(self, node: int, body: bytes, header: int = 8) -> bytes:
        old, new = body[header:].rstrip(b"\0").split(b"\0")
        target = self._below(struct.unpack_from("<Q", body)[0], new)
        os.rename(self._below(node, old), target)
        return b""

    def _rename2(self, node: int, body: bytes) -> bytes:
        return self._rename(node, body, 16)

    def _open(self, node: int, body: bytes) -> bytes:
        flags = struct.unpack_from("<I", body)[0] & ~(os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW)
        return struct.pack("<QII", os.open(self._paths[node], flags), 0, 0)

    def _create(self, node: int, body: bytes) -> bytes:
        flags, mode = struct.unpack_from("<II", body)
        path = self._below(node, body[16:])
        handle = os.open(path, flags | os.O_CREAT, stat.S_IMODE(mode))
        return self._entry(path) + struct.pack("<QII", handle, 0, 0)

    def _read(self, _: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return os.pread(handle, size, offset)

    def _write(self, _: int, body: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("<QQI", body)
        return struct.pack("<II", os.pwrite(handle, body[40 : 40 + size], offset), 0)

    def _statfs(self, node: int, _: bytes) -> bytes:
        info = os.statvfs(self._paths[node])
        counts = (info.f_blocks, info.f_bfree, info.f_bavail, info.f_files, info.f_ffree)
        return struct.pack("<QQQQQIIII24x", *counts, info.f_bsize, info.f_namemax, info.f_frsize, 0)

    def _release(self, _: int, body: bytes) -> bytes:
        os.close(struct.unpack_from("<Q", body)[0])
        return b""

    def _fsync(self, _: int, body: bytes) -> bytes:
        os.fsync(struct.unpack_from("<Q", body)[0])
        return b""

    def _opendir(self, _node: int, _body: bytes) -> bytes:
        return bytes(16)

    def _readdir(self, node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        data = b""
        for number, name in enumerate(sorted(os.listdir(self._paths[node]))[offset:], offset + 1):
            raw = name.encode()
            entry = struct.pack("<QQII", number, number, len(raw), 0) + raw + bytes(-len(raw) % 8)
            if len(data) + len(entry) > size:
                break
            data += entry
        return data


class Squash(Tree):
    """A server that squashes root."""

    flags = 0

    def answer(self, opcode: int, node: int, uid: int, gid: int, body: bytes) -> bytes:
        """Answer with the rights of the user to whom the server maps the caller."""
        return super().answer(opcode, node, uid or NOBODY, gid if uid else NOBODY, body)


class Slow(Tree):
    """A server with a delay of 1 ms, for which requests do not wait for each other."""

    threads = 16
    _lock = threading.Lock()

    def answer(self, opcode: int, node: int, uid: int, gid: int, body: bytes) -> bytes:  # noqa: ARG002
        """Return the answer after the delay; the rights of callers do not count."""
        operation = self._operations.get(opcode)
        time.sleep(0.001)
        if operation is None:
            raise OSError(errno.ENOSYS, "not implemented")
        with self._lock:
            return operation(node, body)

    def _read(self, node: int, body: bytes) -> bytes:
        data = super()._read(node, body)
        if data.startswith(b"EIO"):
            raise OSError(errno.EIO, "a bad block")
        return data


def serve(device: int, tree: Tree | None) -> None:
    """Answer until the mount is gone; without a tree answer only the initial request."""
    while True:
        try:
            request = os.read(device, 1 << 18)
        except OSError as error:
            if error.errno == errno.ENODEV:  # unmounted
                return
            continue
        _, opcode, unique, node, uid, gid, *_ = IN_HEADER.unpack_from(request)
        code, data = 0, b""
        if opcode == 26:
            data = init_answer(tree.flags if tree else 0)
        elif tree is None or opcode in NO_ANSWER:
            continue
        else:
            try:
                data = tree.answer(opcode, node, uid, gid, request[IN_HEADER.size :])
            except (OSError, KeyError) as error:
                code = -(getattr(error, "errno", None) or errno.ESTALE)
        with contextlib.suppress(OSError):  # the caller has ended
            os.write(device, OUT_HEADER.pack(OUT_HEADER.size + len(data), code, unique) + data)


def main(kind: str, target: str, backing: str = "") -> None:
    """Mount the file system and serve it."""
    os.umask(0)
    device = mount(kind, target)
    if kind == "deaf":
        signal.pause()
    trees = {"squash": Squash, "nolock": Tree, "slow": Slow}
    tree = trees[kind](backing) if kind in trees else None
    for _ in range(tree.threads - 1 if tree else 0):
        threading.Thread(target=serve, args=(device, tree)).start()
    serve(device, tree)


if __name__ == "__main__":
    main(*sys.argv[1:])
