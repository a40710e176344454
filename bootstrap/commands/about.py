"""``facts`` and ``version``: what petal-node sees, and what it is."""

from __future__ import annotations

from ..cluster.detect import gather, with_queues
from ..core.model import Result, Role, Status, plain
from ..core.options import Options
from ..spack.externals import find_externals
from .common import Services


def facts(options: Options, services: Services) -> Result:
    """Everything that is observed at the start of a run, and what of the image Spack can use."""
    known = gather(options.paths, services.system, options.role)
    if known.cluster.role is Role.HEAD:
        known = with_queues(known, options.paths)
    externals = [plain(external) for external in find_externals(options.paths, services.system)]
    return Result("facts", "facts", Status.OK, {**known.to_dict(), "externals": externals})


def version(_: Options, services: Services) -> Result:
    """The version, and the checksum of the archive that runs."""
    data = {
        "version": services.tool.version,
        "archive": str(services.tool.archive or ""),
        "sha256": services.tool.sha256,
    }
    return Result("version", "version", Status.OK, data)
