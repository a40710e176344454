"""``version``: the version, and the archive that runs."""

from __future__ import annotations

from ..core.model import Result, Status, Tool
from ..core.options import Options
from ..state.context import Services


def version(_: Options, services: Services) -> Result[Tool]:
    """The version, and the checksum of the archive that runs."""
    return Result("version", Status.OK, services.tool)
