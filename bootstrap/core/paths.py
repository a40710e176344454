"""The paths that petal-node reads and writes.

With a prefix (``--root DIR``) the whole table moves below that directory: image builds and tests act on a tree
instead of on this machine. Installed files then contain paths below the prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The paths of one node.

    Args:
        prefix: ``/`` on a node, a directory under ``--root``.
        mount: the mount point of shared storage as the configuration names it, for example ``/shared``.
    """

    prefix: Path
    mount: str = "/shared"

    def at(self, path: str) -> Path:
        """An absolute path of the node, below the prefix."""
        return self.prefix / path.lstrip("/")

    @property
    def live(self) -> bool:
        """True on a running node, False under ``--root``: no mounts, no units, no Slurm there."""
        return self.prefix == Path("/")

    # the root: one path on every node and in every layout

    @property
    def root(self) -> Path:
        return self.at("/opt/petal")

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def current(self) -> Path:
        return self.root / "current"

    def release(self, release: str) -> Path:
        return self.releases / release

    @property
    def pins(self) -> Path:
        """Modulefiles ``petal/<release>``: a job that loads one stays on that release."""
        return self.root / "modulefiles"

    def manifest(self, release: str) -> Path:
        return self.release(release) / "manifest.json"

    def lmod_packs(self, release: str) -> Path:
        """The Lmod that the release has built, one archive for each module tree."""
        return self.release(release) / "lmod"

    # shared storage

    @property
    def shared_mount(self) -> Path:
        return self.at(self.mount)

    @property
    def shared(self) -> Path:
        return self.shared_mount / "petal"

    @property
    def shared_root(self) -> Path:
        return self.shared / "root"

    @property
    def state(self) -> Path:
        return self.shared / "state"

    @property
    def archives(self) -> Path:
        return self.shared / "archive"

    @property
    def locks(self) -> Path:
        return self.shared / "lock"

    @property
    def cluster_lock(self) -> Path:
        """The process that holds it may change files on shared storage."""
        return self.locks / "stack.lock"

    @property
    def builds(self) -> Path:
        """A directory for each run with a build job: files that the worker and the job exchange."""
        return self.shared / "build"

    @property
    def build_logs(self) -> Path:
        """The logs of build jobs: a directory for each run."""
        return self.shared / "build-logs"

    # this node

    @property
    def home(self) -> Path:
        return self.at("/opt/petal-node")

    @property
    def init(self) -> Path:
        return self.home / "init"

    @property
    def lmods(self) -> Path:
        """Copies of the stack's own Lmod, for nodes whose image has none."""
        return self.home / "lmod"

    @property
    def lmod_in_use(self) -> Path:
        """The link to the copy that new shells use."""
        return self.lmods / "in-use"

    @property
    def link(self) -> Path:
        return self.at("/usr/local/bin/petal-node")

    @property
    def var(self) -> Path:
        return self.at("/var/lib/petal-node")

    @property
    def runs(self) -> Path:
        return self.var / "runs"

    def work(self, release: str) -> Path:
        """Spack's configuration and environment for a release, and records about its install."""
        return self.var / "spack" / release

    @property
    def seen_storage(self) -> Path:
        return self.var / "storage.json"

    @property
    def scratch(self) -> Path:
        """A directory on local disk for downloads, Spack's stage and its caches."""
        return self.at("/var/cache/petal-node/scratch")

    @property
    def log(self) -> Path:
        return self.at("/var/log/petal-node.log")

    @property
    def logs(self) -> Path:
        """The output of Spack and of failed packages, by run."""
        return self.log.parent / "petal-node"

    def run_logs(self, run_id: str) -> Path:
        """Logs of packages that failed in a run."""
        return self.logs / run_id

    def spack_log(self, run_id: str) -> Path:
        """The output of Spack in a run."""
        return self.logs / f"spack-{run_id}.log"

    @property
    def units(self) -> Path:
        return self.at("/etc/systemd/system")
