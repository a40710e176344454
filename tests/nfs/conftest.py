"""One machine for the session; skipped, by name, where no machine can be had."""

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
    """Head and clients, booted, the clients with the head's storage mounted."""
    reason = image.unavailable()
    try:
        if not reason:
            image.ensure()
    except LabError as error:
        reason = str(error)
    if reason:
        pytest.skip(f"no real NFS: {reason}")
    if not ARCHIVE.is_file():
        pytest.skip("no real NFS: dist/petal-node is not built (make dist)")
    with Machine(ARCHIVE) as machine:
        yield machine


@pytest.fixture(scope="session")
def releases(nfs: Machine) -> tuple[str, str]:
    """The ids of two releases that the head node has made; both clients have what they need of them."""
    for version in ("1.0", "2.0"):
        configure(nfs.head, version)
    made = publish(nfs, "2.0"), publish(nfs, "1.0")
    at_once = [nfs.client(number).begin("/lab/petal-node", "bootstrap", seconds=120) for number in (1, 2)]
    for running in at_once:
        running.result().ok()
    return made[1], made[0]
