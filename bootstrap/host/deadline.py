"""Calls with a deadline, for actions that may hang in the kernel: a look at shared storage, a name lookup, a long scan.

The action runs in a child process, because a system call on a dead mount cannot be interrupted and a process that
waits in one may survive SIGKILL. ParallelCluster's ``computemgtd`` reads its shared file in the same way.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import struct
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from ..core.errors import Bug, DeadlineExceeded, PetalError, ProcessFailed, StorageError
from .log import LOG

T = TypeVar("T")

_HEADER = struct.Struct(">cI")
_ARM, _DISARM, _RESULT = b"A", b"D", b"R"
# In a child of `with_deadline`: the descriptor to its parent. Calls inside run in the same child.
_parent: int | None = None
# Children that had not ended when their call returned; each later call reaps those that have.
_children: set[int] = set()


def with_deadline(action: Callable[[], T], seconds: float, error: PetalError | None = None) -> T:
    """Calls ``action`` in a child process and stops waiting for it after ``seconds``.

    The child is killed at the deadline and not waited for. A call inside another call runs in the same child; the
    earlier deadline of the two ends that child, and the outer call raises the error of that deadline.

    Args:
        action: its result must be picklable, and it must not rely on changes to this process.
        seconds: the deadline, counted from now.
        error: raised at the deadline; the caller knows what was touched and words it.

    Raises:
        DeadlineExceeded: no result in time, if ``error`` is not given.
        PetalError, OSError: raised by ``action``.
        Bug: ``action`` raised another exception; ``why`` is its traceback.
        ProcessFailed: the child died without a result (``process-failed``).
    """
    late = error or DeadlineExceeded(f"an operation did not finish within {seconds:.0f} s")
    if _parent is not None:
        _send(_parent, _ARM, pickle.dumps((time.monotonic() + seconds, late)))
        try:
            return action()
        finally:
            _send(_parent, _DISARM, b"")
    _reap()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        _run_child(action, sender)
    os.close(sender)
    _children.add(child)
    try:
        result = _receive(receiver, time.monotonic() + seconds, late)
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(receiver)
        _reap()  # does not wait: a thread of the child may hang in the kernel, also after the result
    if result is None:
        raise ProcessFailed("the process that ran a guarded operation was killed", remedy="dmesg | tail")
    succeeded, value = pickle.loads(result)  # noqa: S301 - written by the child of this process
    if not succeeded:
        raise value
    answer: T = value
    return answer


def on_storage(action: Callable[[], T], where: Path | str, seconds: float) -> T:
    """Calls ``action``, which touches the mount or directory ``where``, with a deadline.

    Raises:
        StorageError: ``storage-hangs``, no answer within ``seconds``.
        PetalError, OSError: raised by ``action``.
    """
    error = StorageError(
        f"{where} did not answer within {seconds:.0f} s",
        remedy=("check the server of the mount (EBS: the head node), then: petal-node bootstrap",),
        code="storage-hangs",
    )
    return with_deadline(action, seconds, error)


def _reap() -> None:
    for child in tuple(_children):
        try:
            ended = os.waitpid(child, os.WNOHANG) != (0, 0)
        except ChildProcessError:  # other code of this process has waited for it
            ended = True
        if ended:
            _children.discard(child)


def _run_child(action: Callable[[], Any], sender: int) -> None:
    """Runs ``action``, sends (True, result) or (False, error), and ends the process without any clean-up."""
    global _parent  # noqa: PLW0603 - this process serves one call only
    LOG.disabled = True  # its file is closed below, and another file may get the descriptor
    _release_descriptors(sender)
    _parent = sender
    try:
        try:
            data = pickle.dumps((True, action()))
        except (PetalError, OSError) as error:
            data = pickle.dumps((False, error))
        except Exception as bug:  # noqa: BLE001 - without this its traceback would be lost
            what = f"petal-node has a bug: {type(bug).__name__}: {bug}"
            data = pickle.dumps((False, Bug(what, why=traceback.format_exc(), remedy="please report it")))
        _send(sender, _RESULT, data)
    except BaseException:  # noqa: BLE001 - the parent sees a closed pipe and raises ProcessFailed
        os._exit(1)
    os._exit(0)


def _release_descriptors(sender: int) -> None:
    """A child that hangs in the kernel must not keep the output, or any other descriptor, of its parent open."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.closerange(3, sender)
    os.closerange(sender + 1, 1024)


def _send(descriptor: int, kind: bytes, data: bytes) -> None:
    view = memoryview(_HEADER.pack(kind, len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def _receive(receiver: int, deadline: float, error: PetalError) -> bytes | None:
    """The pickled result of the child, None if it died; raises the error of the deadline that passes first."""
    deadlines = [(deadline, error)]
    buffer = b""
    while True:
        earliest, late = min(deadlines, key=lambda entry: entry[0])
        ready, _, _ = select.select([receiver], [], [], max(0.0, earliest - time.monotonic()))
        if not ready:
            raise late
        block = os.read(receiver, 65536)
        if not block:
            return None
        buffer += block
        while len(buffer) >= _HEADER.size:
            kind, size = _HEADER.unpack_from(buffer)
            end = _HEADER.size + size
            if len(buffer) < end:
                break
            data, buffer = buffer[_HEADER.size : end], buffer[end:]
            if kind == _RESULT:
                return data
            if kind == _ARM:
                deadlines.append(pickle.loads(data))  # noqa: S301 - written by the child of this process
            else:
                deadlines.pop()
