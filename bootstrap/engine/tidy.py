"""Removes what earlier runs and versions left on this node; ``gc`` does the same on shared storage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..core.deadlines import EXPIRY
from ..core.paths import Paths
from ..host.atomic import ABANDONED_SECONDS, abandoned, set_aside
from ..host.files import remove_tree
from ..host.log import LOG, prune_logs
from ..host.system import System
from ..state.runs import Runs
from ..steps.self_install import INCOMING

KEPT = 3  # of petal-node and of Lmod, in addition to the version in use


def tidy(paths: Paths, system: System, run_id: str) -> None:
    """Keeps the newest records, logs and versions. A file that cannot be removed does not fail a run."""
    with suppress(OSError):
        Runs(paths).prune()
    prune_logs(paths.logs)
    with suppress(OSError):  # another process removes the same files
        unused = tuple(_unused(paths))
        stages = tuple(
            (paths.scratch / "spack" / "stage").glob("*")
        )  # an install removes those of packages that failed
        if (unused or stages) and not system.other_runs(run_id):  # another run may use an older version, or build
            # A build that begins now would use the same names, and a removal can take minutes.
            for path in [*unused, *map(_renamed, stages)]:
                _remove(path)


def _renamed(path: Path) -> Path:
    try:
        return path if path.name.startswith(".") else set_aside(path)
    except OSError:  # something is mounted on it
        return path


def _remove(path: Path) -> None:
    try:
        remove_tree(path)
        LOG.info("removed %s", path)
    except OSError as error:
        LOG.warning("%s cannot be removed: %s", path, error)


def _unused(paths: Paths) -> Iterator[Path]:
    """Old versions of petal-node and Lmod, archives that never ran, downloads and writes that were cut off."""
    versions = [path.parent for path in paths.home.glob("*/petal-node")]
    copies = [path for path in paths.lmods.glob("[0-9]*") if path.is_dir()]
    for places, in_use in ((versions, paths.link.resolve().parent), (copies, paths.lmod_in_use.resolve())):
        others = sorted((path for path in places if path != in_use), key=lambda path: path.stat().st_mtime)
        yield from others[:-KEPT]
    for files, age in (
        ((paths.home / INCOMING).glob("[!.]*"), EXPIRY),
        (paths.scratch.glob("*.part"), ABANDONED_SECONDS),
    ):
        yield from (path for path in files if time.time() - path.lstat().st_mtime > age)
    for directory in (paths.scratch, paths.var, paths.runs):
        yield from abandoned(directory)
