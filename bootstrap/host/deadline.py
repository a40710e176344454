"""Shared storage is assumed to hang: what touches it runs in a child that can be left behind.

ParallelCluster's own ``computemgtd`` reads its shared file in the same way.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
from collections.abc import Callable
from typing import Any, TypeVar

from ..core.errors import PetalError, StorageError
from .log import LOG

T = TypeVar("T")


def guarded(action: Callable[[], T], *, timeout: float, what: str) -> T:
    """Calls ``action`` in a child process and gives up on it after ``timeout`` seconds.

    The child may hang in the kernel on a dead mount; it is killed and not waited for. Its result must be picklable.

    Raises:
        StorageError: no answer in time (code ``storage-hangs``).
        PetalError, OSError: whatever ``action`` raised.
    """
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        LOG.disabled = True  # its file is closed in here, and another may get the number
        _let_go_of_streams(sender)
        _answer(action, sender)
    os.close(sender)
    data = None
    try:
        data = _read_until(receiver, time.monotonic() + timeout)
    finally:
        os.close(receiver)
        if data is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, os.WNOHANG)
    if data is None:
        remedy = ("check the server of the mount (EBS: the head node), then: petal-node bootstrap",)
        raise StorageError(f"{what} did not answer within {timeout:.0f} s", remedy=remedy, code="storage-hangs")
    os.waitpid(child, 0)
    if not data:
        raise StorageError(f"{what}: the reader died", code="storage-unusable")
    answer: tuple[bool, Any] = pickle.loads(data)  # noqa: S301 - written by our own child
    if not answer[0]:
        raise answer[1]
    value: T = answer[1]
    return value


def _let_go_of_streams(sender: int) -> None:
    """A child that hangs in the kernel must not keep what others wait for: our output, or any other descriptor."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, sender)
    os.closerange(sender + 1, 1024)


def _answer(action: Callable[[], Any], sender: int) -> None:
    """The child's side of ``guarded``: sends (True, result) or (False, error) and ends without any clean-up."""
    try:
        try:
            data = pickle.dumps((True, action()))
        except (PetalError, OSError) as error:
            data = pickle.dumps((False, error))
        with os.fdopen(sender, "wb") as stream:
            stream.write(data)
    except BaseException:  # noqa: BLE001 - the parent sees a closed pipe and says that the reader died
        os._exit(1)
    os._exit(0)


def _read_until(receiver: int, deadline: float) -> bytes | None:
    data = b""
    while True:
        ready, _, _ = select.select([receiver], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        block = os.read(receiver, 65536)
        if not block:
            return data
        data += block
