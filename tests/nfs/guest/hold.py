"""Takes the lock and prints how long that took; with GO, keeps the lock until that file exists, and confirms it.

    hold.py DIRECTORY RUN SECONDS [GO]

Prints one line of JSON: the seconds waited, and the final error or null.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, "/lab/tree")

from bootstrap.core.errors import PetalError
from bootstrap.host.locks import Holder, Lock

path, run, seconds, *go = Path(sys.argv[1]) / "stack.lock", sys.argv[2], float(sys.argv[3]), *map(Path, sys.argv[4:])
started = time.monotonic()
answer: dict[str, object] = {"waited": None, "error": None}
try:
    holder = Holder(socket.gethostname(), os.getpid(), "boot", 0.0, "now", run)
    with Lock(path, holder, timeout=seconds, waiting=lambda _: None) as lock:
        answer["waited"] = time.monotonic() - started
        while not all(mark.exists() for mark in go):
            time.sleep(0.1)
        if go:
            lock.confirm()
except PetalError as error:
    answer["error"] = error.to_dict()
print(json.dumps(answer))
