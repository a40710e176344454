"""ROUNDS times: take the lock, be alone in it or say so.

    lock_rounds.py DIRECTORY ROUNDS [flock]

Who is inside makes a witness file with O_EXCL and removes it; whoever finds one there is a double holder. It also adds
a line to a file that nothing else protects: what two write at once is lost there (open(2), O_APPEND on NFS). The lock
is petal-node's own, out of its archive; ``flock`` takes flock(2) in its place, the control that must go wrong.
"""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
sys.path.insert(0, "/lab/petal-node/tree")

from bootstrap.lock import Holder, Lock  # noqa: E402


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def inside(witness: Path, turns: Path, host: str) -> int:
    """Returns 1 for a double holder."""
    try:
        os.close(os.open(witness, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return 1
    with turns.open("a") as stream:
        stream.write(host + "\n")
    witness.unlink()
    return 0


def main() -> None:
    host = socket.gethostname()
    holder = Holder(host, os.getpid(), "boot", 0.0, "now", f"run-{host}-{os.getpid()}")
    doubles = 0
    for _ in range(rounds):
        if "flock" in sys.argv[3:]:
            lock: AbstractContextManager[object] = flocked(directory / "flock")
        else:
            lock = Lock(directory / "stack.lock", holder, timeout=600, waiting=lambda _: None)
        with lock:
            doubles += inside(directory / "witness", directory / "turns", host)
    print(doubles)


main()
