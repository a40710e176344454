"""Which tests stay together where two processes share them out (``make test``): those with one thing for a session."""

from __future__ import annotations

from pathlib import Path

import pytest

TOGETHER = ("archive", "spack", "nfs", "lab")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in TOGETHER:
            item.add_marker(pytest.mark.xdist_group(folder))
