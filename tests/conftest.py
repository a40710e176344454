"""The distribution of tests over processes (``make test``): tests with a session resource run in one process.

pytest-xdist's own groups (``--dist loadgroup``) do not work with pytest 9.2: it renames tests through an attribute that
no longer exists.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import zip_longest

import pytest
from xdist.scheduler import LoadScopeScheduling

WAITING = ("lab", "nfs")  # these tests wait for boots and deadlines most of their time
COMPUTING = ("spack", "real", "archive")
WHOLE = ("archive", "nfs")  # one process runs the folder; of "lab", "real" and "spack" a file; of other folders a test


def folder_of(name: str) -> str:
    return name.split("/")[1]


def group_of(nodeid: str) -> str:
    """The tests of a group run in one process."""
    folder = folder_of(nodeid)
    if folder in WHOLE:
        return f"tests/{folder}"
    return nodeid.partition("::")[0] if folder in (*WAITING, *COMPUTING) else nodeid


def mixed(groups: Iterable[str]) -> list[str]:
    """The groups in the order in which they start: one that waits, one that computes, so that the processors are busy.

    Single tests are the last, so that no process is idle at the end.
    """
    groups = list(dict.fromkeys(groups))
    waiting, computing = (
        [group for folder in folders for group in groups if folder_of(group) == folder]
        for folders in (WAITING, COMPUTING)
    )
    large = [group for pair in zip_longest(waiting, computing) for group in pair if group is not None]
    return list(dict.fromkeys([*large, *groups]))


class ByGroup(LoadScopeScheduling):
    """Gives the next group to the process that is free."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByGroup:
    config.option.loadscopereorder = False  # the order is that of ``mixed``
    return ByGroup(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        order = {group: number for number, group in enumerate(mixed(group_of(item.nodeid) for item in items))}
        items.sort(key=lambda item: order[group_of(item.nodeid)])
