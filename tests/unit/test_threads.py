"""Waiting for threads."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bootstrap.host.threads import ended, results


class Ended(Exception):
    """Raised by the handler of a signal."""


@pytest.fixture
def signalled() -> Iterator[None]:
    def end(_: int, __: object) -> None:
        raise Ended

    before = signal.signal(signal.SIGUSR1, end)
    yield
    signal.signal(signal.SIGUSR1, before)


def is_waiting(thread: threading.Thread) -> bool:
    """True if ``thread`` sleeps in a wait of the module ``threading``."""
    assert thread.ident is not None
    state = Path(f"/proc/self/task/{thread.native_id}/stat").read_text("ascii").rpartition(") ")[2][0]
    return state == "S" and sys._current_frames()[thread.ident].f_code.co_filename == threading.__file__


@pytest.mark.usefixtures("signalled")
@pytest.mark.parametrize("is_ordered", [True, False])
def test_a_signal_that_does_not_wake_the_main_thread_ends_the_wait(*, is_ordered: bool) -> None:
    """The kernel may give the signal to any thread, and the main thread's wait for a lock then goes on."""
    main, released = threading.main_thread(), threading.Event()
    was_released: list[bool] = []

    def call(_: int) -> None:
        while not is_waiting(main):
            time.sleep(0.01)
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        was_released.append(released.wait(20))

    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(Ended):
            list(results(pool, call, [1]) if is_ordered else ended([pool.submit(call, 1)]))
        released.set()
    assert was_released == [True]  # before the thread ended by itself


def test_results_have_the_order_of_the_items_and_a_failure_drops_the_rest() -> None:
    begun: list[int] = []
    first_may_end, has_failed = threading.Event(), threading.Event()

    def call(item: int) -> int:
        begun.append(item)
        if item == 0:
            assert first_may_end.wait(60)
        if item == 1:
            first_may_end.set()
        if item == 2:
            raise ValueError
        if item > 2:
            assert has_failed.wait(60)
        return item

    with ThreadPoolExecutor(2) as pool:
        assert list(results(pool, call, [0, 1])) == [0, 1]
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(ValueError):
            list(results(pool, call, [2, *range(3, 1000)]))
        has_failed.set()
    assert begun in ([0, 1, 2], [1, 0, 2], [0, 1, 2, 3], [1, 0, 2, 3])
