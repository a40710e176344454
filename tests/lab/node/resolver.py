#!/usr/bin/env python3
"""A lab node's resolver: it forwards to the engine's, but returns NXDOMAIN for an unknown name at once, as in a VPC.

The engine's resolver (127.0.0.11) does not answer questions about names outside an internal network,
which delays each client by 10 to 20 s: Slurm's daemons look up such a name when they start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
from pathlib import Path

LAB: str = json.loads(Path("/etc/lab/node.json").read_text(encoding="utf-8"))["lab"]
ENGINE = ("127.0.0.11", 53)
OWN = ("127.0.0.1", 53)
PATIENCE = 4.0  # s; the engine answers for its own containers in 1 ms, a busy machine takes longer
PRIVATE = re.compile(r"(?:\d+\.){3}10|(?:\d+\.){2}(?:1[6-9]|2\d|3[01])\.172|(?:\d+\.){2}168\.192")


def name_asked(question: bytes) -> str:
    """Return the name in a question: length-prefixed labels from byte 12 on, up to an empty one."""
    labels, at = [], 12
    while question[at]:
        labels.append(question[at + 1 : at + 1 + question[at]].decode("ascii", "replace"))
        at += 1 + question[at]
    return ".".join(labels).lower()


def is_ours(name: str) -> bool:
    """Return whether the engine may know the name: without a dot, in the lab's network, or a private address."""
    if name.endswith(".in-addr.arpa"):
        return PRIVATE.fullmatch(name[: -len(".in-addr.arpa")]) is not None
    return "." not in name or name.endswith("." + LAB)


def answer(question: bytes) -> bytes:
    """Return the engine's answer, or NXDOMAIN: the question with the response, recursion and error bits set."""
    if is_ours(name_asked(question)):
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
    """Answer one question; ignore other packets."""
    with contextlib.suppress(ValueError, IndexError, OSError):
        own.sendto(answer(question), asker)


def main() -> None:
    """Answer questions forever."""
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
