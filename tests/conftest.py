"""Which tests stay together where two processes share them out (``make test``): those with one thing for a session.

pytest-xdist's own groups (``--dist loadgroup``) do not work with pytest 9.2: it renames tests through an attribute that
is no more.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDERS = ("archive", "nfs")
FILES = ("lab", "real", "spack")  # each process has a lab of its own; what waits runs beside what works


class ByFolder(LoadScopeScheduling):
    """Tests of a folder, or of a file, run in one process, one after the other, the most first; others anywhere."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        if folder in FOLDERS:
            return folder
        return nodeid.partition("::")[0] if folder in FILES else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFolder:
    return ByFolder(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests are shared out, a file of one long test is not left for the end, when the others are idle."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.nodeid.split("/")[1] not in (*FOLDERS, *FILES))
