"""This petal-node itself: its version, and the archive that it runs from."""

from __future__ import annotations

from pathlib import Path

from ..core.model import Tool
from .files import sha256_of


def own_tool(version: str, archive: str | None) -> Tool:
    """This petal-node as it runs; ``archive`` is what the archive's loader put into PETAL_ARCHIVE."""
    path = Path(archive) if archive else None
    if path is None or not path.is_file():
        return Tool(version)
    return Tool(version, path, sha256_of(path))
