"""``facts`` and ``version``: what petal-node sees, and what it is."""

from __future__ import annotations

from ..cluster.detect import gather, with_queues
from ..core.model import Result, Role, Status, plain
from ..spack.externals import find_externals
from .common import Asked


def facts(asked: Asked) -> Result:
    """Everything that is observed at the start of a run, and what of the image Spack can use."""
    known = gather(asked.paths(), asked.system, asked.role)
    if known.cluster.role is Role.HEAD:
        known = with_queues(known, asked.paths())
    externals = [plain(external) for external in find_externals(asked.paths(), asked.system)]
    return Result("facts", "facts", Status.OK, {**known.to_dict(), "externals": externals})


def version(asked: Asked) -> Result:
    """The version, and the checksum of the archive that runs."""
    data = {
        "version": asked.tool.version,
        "archive": str(asked.tool.archive or ""),
        "sha256": asked.tool.sha256,
    }
    return Result("version", "version", Status.OK, data)
