#!/usr/bin/env python3
"""A lab node's resolver: the engine's, but a name that nobody knows gets its NXDOMAIN at once, as in a VPC.

The engine's resolver (127.0.0.11) lets every question about a name outside an internal network go unanswered,
which costs each asker 10 to 20 s: Slurm's daemons ask for such an address as they start.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading

ENGINE = ("127.0.0.11", 53)
OWN = ("127.0.0.1", 53)
PATIENCE = 0.2  # s; the engine answers for its own containers in under 1 ms


def answer(question: bytes) -> bytes:
    """Return the engine's answer, or NXDOMAIN: the question with the response, recursion and error bits set."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as engine:
        engine.settimeout(PATIENCE)
        engine.connect(ENGINE)
        with contextlib.suppress(OSError):
            engine.send(question)
            return engine.recv(4096)
    counts = question[4:6] + bytes(6)  # additional records (EDNS) are not echoed
    end = question.index(b"\0", 12) + 5
    return question[:2] + b"\x81\x83" + counts + question[12:end]


def serve(own: socket.socket, question: bytes, asker: tuple[str, int]) -> None:
    """Answer one question; what is no question gets none."""
    with contextlib.suppress(ValueError, OSError):
        own.sendto(answer(question), asker)


def main() -> None:
    """Answer for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind(OWN)
        if "NOTIFY_SOCKET" in os.environ:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
                notify.sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
        while True:
            question, asker = own.recvfrom(4096)
            threading.Thread(target=serve, args=(own, question, asker), daemon=True).start()


if __name__ == "__main__":
    main()
