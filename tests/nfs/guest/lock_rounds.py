"""ROUNDS times: take the lock, hold it briefly, release it. Prints the times as JSON: [[taken, released], ...].

    lock_rounds.py DIRECTORY ROUNDS [flock]

All nodes of the machine share one kernel and one monotonic clock, so two simultaneous holders are always detected.
The lock is petal-node's, from its archive; ``flock`` uses flock(2) instead, a control that must fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

sys.path.insert(0, "/lab/tree")

from bootstrap.host.locks import Holder, Lock

INSIDE_SECONDS = 0.002
OUTSIDE_SECONDS = 0.02  # a process that returns at once gets the lock again, because the others poll


@contextmanager
def flocked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def main() -> None:
    directory, rounds = Path(sys.argv[1]), int(sys.argv[2])
    host = socket.gethostname()
    holder = Holder(host, os.getpid(), "boot", 0.0, "now", f"run-{host}-{os.getpid()}")
    stays = []
    for _ in range(rounds):
        if "flock" in sys.argv[3:]:
            lock: AbstractContextManager[object] = flocked(directory / "flock")
        else:
            lock = Lock(directory / "stack.lock", holder, timeout=600, waiting=lambda _: None)
        with lock:
            entered = time.monotonic()
            time.sleep(INSIDE_SECONDS)
            stays.append((entered, time.monotonic()))
        time.sleep(OUTSIDE_SECONDS)
    print(json.dumps({"stays": stays}))


main()
