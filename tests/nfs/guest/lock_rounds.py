"""ROUNDS times: take the lock, stay a moment, let go. Prints when that was, as JSON: [[in, out], ...].

    lock_rounds.py DIRECTORY ROUNDS [flock]

All nodes of the machine share one kernel and so one monotonic clock: two who were inside at once are seen for certain.
The lock is petal-node's own, out of its archive; ``flock`` takes flock(2) in its place, the control that must go wrong.
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
OUTSIDE_SECONDS = 0.02  # who comes back at once gets it again, since the others only look now and then


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
