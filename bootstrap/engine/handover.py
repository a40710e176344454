"""Replaces this process by the version of petal-node in the desired state, if that is another version.

Args of head and login hooks cannot be changed by a cluster update, so they only pin the first version; ``desired.json``
names the version that counts afterwards. Its archive is copied from shared storage and verified before it runs. It gets
the same arguments: ``worker --event E --run-id ID`` and ``converge`` are an interface between versions.
"""

from __future__ import annotations

import os
import sys

from ..core.deadlines import DOCUMENT, PROBE
from ..core.model import Tool
from ..core.paths import Paths
from ..host.atomic import install_executable
from ..host.files import has_sha256
from ..host.log import LOG
from ..host.system import System
from ..state.desired import DesiredState


def hand_over(desired: DesiredState | None, own: Tool, paths: Paths, system: System) -> None:
    """Executes the desired version; returns if this process already is that version, or its archive is missing.

    Raises:
        FetchError: ``fetch-checksum``, the archive on shared storage does not have the checksum in desired.json.
    """
    if desired is None or not desired.sha256 or own.sha256 is None or desired.sha256 == own.sha256:
        return
    archive = paths.program(desired.version)
    if not has_sha256(archive, desired.sha256):
        source = paths.archives / desired.sha256
        if not system.on_storage(source.is_file, source, PROBE):
            LOG.warning(
                "version %s is desired, but %s is missing: continuing with %s", desired.version, source, own.version
            )
            return
        sha256 = desired.sha256
        system.on_storage(lambda: install_executable(source, archive, sha256), source, DOCUMENT)
    LOG.info("executing version %s", desired.version)
    os.execv(archive, [str(archive), *sys.argv[1:]])  # noqa: S606 - its checksum was verified
