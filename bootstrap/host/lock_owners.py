"""The processes that hold locks on a file, as the kernel of this node knows them (proc_locks(5), proc_pid_fdinfo(5)).

On an NFS server a client's lock belongs to a thread of nfsd; /proc/fs/nfsd/clients has the client's address
(Documentation/filesystems/nfs, fs/nfsd/nfs4state.c: nfs4_show_lock). A client does not know the locks of others.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .files import text_or_empty

ADDRESS = re.compile(r'^address: "(.*?)(?::\d+)?"$', re.MULTILINE)


def owners(path: Path, root: Path = Path("/proc")) -> tuple[str, ...]:
    """Other processes, and clients of this NFS server, that hold a lock on a file; empty if none is known.

    Args:
        root: the directory of proc(5).
    """
    try:
        info = path.stat()
    except OSError:
        return ()
    inode = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    lines = (line.split() for line in text_or_empty(root / "locks").splitlines())
    pids = [int(words[4]) for words in lines if words[1] != "->" and words[5:6] == [inode]]
    open_files = _open_files(root, inode) if -1 in pids else ()
    named = [_named(pid) for pid in (*pids, *open_files) if pid > 0]
    return tuple(dict.fromkeys(filter(None, (*named, *_clients(root / "fs" / "nfsd" / "clients", inode)))))


def _named(pid: int) -> str:
    import psutil

    if pid == os.getpid():
        return ""
    try:
        process = psutil.Process(pid)
        name = process.name()
        return "" if name == "nfsd" else f"process {pid} ({name}) of user {process.username()}"
    except psutil.Error:
        return f"process {pid}"


def _open_files(root: Path, inode: str) -> Iterator[int]:
    """The processes with a lock of an open file (F_OFD_SETLK), which /proc/locks shows without its process."""
    for process in root.glob("[0-9]*"):
        with suppress(OSError):  # it has ended
            texts = [text_or_empty(entry) for entry in (process / "fdinfo").iterdir()]
            if any(re.search(rf"^lock:.*\s{inode}\s", text, re.MULTILINE) for text in texts):
                yield int(process.name)


def _clients(directory: Path, inode: str) -> Iterator[str]:
    for states in directory.glob("*/states"):
        if any("type: lock" in line and f'"{inode}"' in line for line in text_or_empty(states).splitlines()):
            address = ADDRESS.search(text_or_empty(states.with_name("info")))
            yield f"NFS client {address[1] if address else states.parent.name}"
