"""Waits for threads so that a signal ends the wait.

Python runs the handler of a signal in the main thread, between two steps of its code. If the signal comes just before
the main thread waits for a lock, or another thread receives it, the wait goes on until the lock is free. Waits in this
module therefore end every second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WAKE = 1.0  # seconds until a handler runs


def ended(futures: Iterable[Future[R]]) -> Iterator[Future[R]]:
    """The futures in the order in which they end, as ``concurrent.futures.as_completed``."""
    waiting = set(futures)
    while waiting:
        done, waiting = wait(waiting, WAKE, FIRST_COMPLETED)
        yield from done


def results(pool: Executor, call: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """The results of ``call`` for each of ``items``, in their order, as ``Executor.map``.

    Calls that have not begun are dropped if one fails, or if the wait ends by a signal.
    """
    futures = [pool.submit(call, item) for item in items]
    try:
        for future in futures:
            while wait([future], WAKE).not_done:
                pass
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
