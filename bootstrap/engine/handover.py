"""Another version of petal-node goes on with this run, where the cluster wants another one than the one that runs.

Args of head and login hooks cannot be changed by an update, so they only pin the first version; after that
``wanted.json`` says which one counts. Its archive is taken from shared storage, copied and checked before it runs.
The command line goes on as it is: ``worker --event E --run-id ID`` and ``converge`` are an interface between versions.
"""

from __future__ import annotations

import os
import sys

from ..core.model import Tool
from ..core.paths import Paths
from ..host.atomic import install_executable
from ..host.files import sha256_of
from ..host.log import LOG
from ..host.system import System
from ..state.desired import Wanted

MARK = "PETAL_HANDED_OVER"
LOOK_SECONDS = 4.0
COPY_SECONDS = 30.0


def hand_over(wanted: Wanted | None, own: Tool, paths: Paths, system: System) -> None:
    """Replaces this process by the wanted petal-node; returns where this one is wanted already or none can be had.

    Raises:
        FetchError: ``fetch-checksum``, the archive on shared storage does not have the checksum in wanted.json.
    """
    if wanted is None or not wanted.sha256 or own.sha256 is None or wanted.sha256 == own.sha256:
        return
    if os.environ.get(MARK) == wanted.sha256:
        LOG.warning("version %s was wanted and handed over to, and is not what runs", wanted.version)
        return
    kept = paths.home / wanted.version / "petal-node"
    if not kept.is_file() or sha256_of(kept) != wanted.sha256:
        source = paths.archives / wanted.sha256
        if not system.on_storage(source.is_file, source, LOOK_SECONDS):
            LOG.warning("version %s is wanted and not at %s: going on with %s", wanted.version, source, own.version)
            return
        sha256 = wanted.sha256
        system.on_storage(lambda: install_executable(source, kept, sha256), source, COPY_SECONDS)
    LOG.info("handing over to version %s", wanted.version)
    os.environ[MARK] = wanted.sha256
    os.execv(kept, [str(kept), *sys.argv[1:]])  # noqa: S606 - checked by its checksum just now
