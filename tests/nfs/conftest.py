"""One machine for the session; the tests are skipped if no machine can be started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.lab.engine import TOP, LabError

from . import image
from .machine import Machine
from .software import configure, publish

ARCHIVE = TOP / "dist" / "petal-node"


@pytest.fixture(scope="session")
def nfs() -> Iterator[Machine]:
    """The booted head node and clients; the clients have mounted the head node's storage."""
    reason = image.unavailable()
    try:
        if not reason:
            image.ensure()
    except LabError as error:
        reason = str(error)
    if reason:
        pytest.skip(reason)
    if not ARCHIVE.is_file():
        pytest.skip("dist/petal-node is missing (make dist)")
    with Machine(ARCHIVE) as machine:
        yield machine


@pytest.fixture(scope="session")
def releases(nfs: Machine) -> tuple[str, str]:
    """The ids of two releases of the head node; both clients are configured to use them."""
    for version in ("1.0", "2.0"):
        configure(nfs.head, version)
    made = publish(nfs, "2.0"), publish(nfs, "1.0")
    at_once = [nfs.client(number).begin("/lab/petal-node", "bootstrap", seconds=120) for number in (1, 2)]
    for running in at_once:
        running.result().ok()
    return made[1], made[0]
