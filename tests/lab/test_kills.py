"""Ten kills with fixed seeds; ``make torture`` runs 200 (docs/dev/reliability.md)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.lab import stack
from tests.lab.cluster import Lab
from tests.lab.kills import Torture

Looks = Callable[[], tuple[int, str]]


@pytest.fixture(scope="module")
def torture(lab: Lab) -> Torture:
    reason = stack.no_spack()
    if reason:
        pytest.skip(f"no real Spack: {reason}")
    return Torture(lab)


@pytest.fixture(scope="module")
def looks(torture: Torture) -> Iterator[Looks]:
    with torture.watched() as seen:
        yield seen


# Each target twice at least: the hook, the worker, Spack, the node; asked for by the hook and by hand.
@pytest.mark.parametrize("seed", [1, 2, 7, 11, 14, 15, 16, 20, 24, 30])
def test_after_a_kill_it_goes_on_and_no_user_could_tell(torture: Torture, looks: Looks, seed: int) -> None:
    result = torture.kill(seed, looks)
    assert not result.troubles
    assert result.killed, "its moment came too late three times"
    assert result.looks > 0
