"""The distribution of tests over processes (``make test``): tests with a session resource run in one process.

pytest-xdist's own groups (``--dist loadgroup``) do not work with pytest 9.2: it renames tests through an attribute that
no longer exists.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

FOLDERS = ("archive", "nfs")
FILES = ("lab", "real", "spack")  # each process has its own lab; tests that wait run next to tests that compute


class ByFolder(LoadScopeScheduling):
    """The tests of a folder or of a file run in one process, largest group first; other tests run in any process."""

    def _split_scope(self, nodeid: str) -> str:
        folder = nodeid.split("/")[1]
        if folder in FOLDERS:
            return folder
        return nodeid.partition("::")[0] if folder in FILES else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFolder:
    return ByFolder(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes, start long files first, so that no process is idle at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.nodeid.split("/")[1] not in (*FOLDERS, *FILES))
