"""Ten kills with fixed seeds; ``make kills`` runs 200 (docs/dev/reliability.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab import stack
from tests.lab.cluster import Lab
from tests.lab.kills import KilledInstalls

Looks = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def installs(lab: Lab) -> KilledInstalls:
    reason = stack.no_spack()
    if reason:
        pytest.skip(reason)
    return KilledInstalls(lab)


@pytest.fixture(scope="module")
def looks(installs: KilledInstalls) -> Iterator[Looks]:
    with installs.watched() as seen:
        yield seen


# Each target at least twice (hook, worker, Spack, node), requested by the hook and by a command.
@pytest.mark.parametrize("seed", [1, 2, 7, 11, 14, 15, 16, 20, 24, 30])
def test_an_install_continues_after_a_kill_unnoticed_by_users(
    installs: KilledInstalls, looks: Looks, seed: int
) -> None:
    result = installs.kill(seed, looks)
    assert not result.troubles
    assert result.killed, "the install had ended before the kill in three attempts"
    assert result.looks > 0
