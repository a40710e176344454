"""``facts`` and ``version``: what petal-node sees, and what it is."""

from __future__ import annotations

from ..facts import gather
from ..model import Result, Status
from .common import Asked


def facts(asked: Asked) -> Result:
    """Everything that is observed at the start of a run."""
    return Result("facts", "facts", Status.OK, gather(asked.paths(), asked.system, asked.role).to_dict())


def version(asked: Asked) -> Result:
    """The version, and the checksum of the archive that runs."""
    data = {
        "version": asked.tool.version,
        "archive": str(asked.tool.archive or ""),
        "sha256": asked.tool.sha256,
    }
    return Result("version", "version", Status.OK, data)
