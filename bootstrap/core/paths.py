"""The paths that petal-node reads and writes.

With a prefix (``--root DIR``) the whole table moves below that directory: image builds and tests act on a tree
instead of on this machine. Installed files then contain paths below the prefix.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final


class Paths:
    """The paths of one node.

    Args:
        prefix: ``/`` on a node, a directory under ``--root``.
        mount: the mount point of shared storage as the configuration names it, for example ``/shared``.
    """

    def __init__(self, prefix: Path, mount: str = "/shared") -> None:
        self.prefix: Final = prefix
        self.mount: Final = mount

        # One path on every node and in every layout.
        self.root: Final = self.at("/opt/petal")
        self.store: Final = self.root / "store"
        self.releases: Final = self.root / "releases"
        self.current: Final = self.root / "current"
        self.pins: Final = self.root / "modulefiles"  # petal/<release>: a job that loads one stays on that release

        # Shared storage.
        self.shared_mount: Final = self.at(self.mount)
        self.shared: Final = self.shared_mount / "petal"
        self.shared_root: Final = self.shared / "root"
        self.state: Final = self.shared / "state"
        self.reserve: Final = self.state / "reserve"  # removed if a rollback or ``gc`` needs its space
        self.archives: Final = self.shared / "archive"
        self.locks: Final = self.shared / "lock"
        self.cluster_lock: Final = self.locks / "stack.lock"  # its holder may change files on shared storage
        self.builds: Final = self.shared / "build"  # the files that the worker and the build job of a run exchange
        self.build_logs: Final = self.shared / "build-logs"  # the logs of build jobs, by run

        # This node.
        self.home: Final = self.at("/opt/petal-node")
        self.init: Final = self.home / "init"
        self.lmods: Final = self.home / "lmod"  # copies of the stack's own Lmod, for nodes whose image has none
        self.lmod_in_use: Final = self.lmods / "in-use"  # a link to the copy that new shells use
        self.link: Final = self.at("/usr/local/bin/petal-node")
        self.var: Final = self.at("/var/lib/petal-node")
        self.runs: Final = self.var / "runs"
        self.seen_storage: Final = self.var / "storage.json"
        self.scratch: Final = self.at("/var/cache/petal-node/scratch")  # local: downloads, Spack's stage and its caches
        self.log: Final = self.at("/var/log/petal-node.log")
        self.logs: Final = self.at("/var/log/petal-node")  # the output of Spack and of failed packages, by run
        self.units: Final = self.at("/etc/systemd/system")

    def at(self, path: str) -> Path:
        """An absolute path of the node, below the prefix."""
        return self.prefix / path.lstrip("/")

    @property
    def live(self) -> bool:
        """True on a running node, False under ``--root``: no mounts, no units, no Slurm there."""
        return self.prefix == Path("/")

    def program(self, version: str) -> Path:
        """Where a version of petal-node is kept: ParallelCluster deletes the file that a hook was started from."""
        return self.home / version / "petal-node"

    def release(self, release: str) -> Path:
        return self.releases / release

    def manifest(self, release: str) -> Path:
        return self.release(release) / "manifest.json"

    def lmod_packs(self, release: str) -> Path:
        """The Lmod that the release has built, one archive for each module tree."""
        return self.release(release) / "lmod"

    def work(self, release: str) -> Path:
        """Spack's configuration and environment for a release, and records about its install."""
        return self.var / "spack" / release

    def spack_log(self, run_id: str) -> Path:
        """The output of Spack in a run."""
        return self.logs / f"spack-{run_id}.log"
