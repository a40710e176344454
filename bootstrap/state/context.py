"""What every step and check works with: who this node is, what it should have, and the doors to the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..cluster import targets
from ..cluster.targets import BuildTargets
from ..config.model import Config
from ..core.facts import External, Facts, Mount
from ..core.model import Mode, Role, Tool
from ..core.paths import Paths
from ..host.system import System
from .desired import Wanted
from .release import build_targets_of, tree_name


def _silent(_: str) -> None:
    """Progress that nobody looks at."""


def _unlocked() -> None:
    """No lock is held that could be lost."""


@dataclass(frozen=True)
class Context:
    """One run on one node.

    Args:
        release: the id of the release that this cluster should have, None while nobody knows it.
        externals: what the image carries and Spack shall use, known where a stack is built.
        environment: the stack's own spack.yaml as a mapping, empty without a stack.
        event: ``start``, ``configured`` or ``updated`` in a hook, else empty.
        accept_storage: shared storage is another file system than before, or served another cluster, and is meant.
        note: told each line of progress of a long step.
        progress: told how far a long step is; kept in the run's record, for ``status`` on every node.
        decides: this run says what the cluster should have; others obey wanted.json.
        takes_up: what it decides is what a hook decided, and did not come to write itself.
        may_destroy: what somebody may still need, or may have done on purpose, is taken away (``repair --yes``).
        every_byte: packages are compared with what they were byte for byte (``repair --deep``).
        bakes: this run builds a machine image: no cluster is around it.
        build_targets: the CPU targets that were chosen for the cluster; None while nobody has told.
        builders: a descriptor for what builds: while any process has it, no other run begins (``lock.builders_ended``).
        confirm: called by cluster steps right before they publish something; raises LockLost where they must not.
    """

    paths: Paths
    system: System
    facts: Facts
    role: Role
    config: Config
    tool: Tool
    run_id: str
    release: str | None = None
    externals: tuple[External, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    event: str = ""
    accept_storage: bool = False
    note: Callable[[str], None] = _silent
    progress: Callable[[str], None] = _silent
    decides: bool = False
    takes_up: bool = False
    may_destroy: bool = False
    every_byte: bool = False
    bakes: bool = False
    build_targets: BuildTargets | None = None
    confirm: Callable[[], None] = _unlocked
    builders: int | None = None

    @property
    def mode(self) -> Mode:
        """What kind of machine this run works on."""
        return Mode.IMAGE if self.bakes else Mode.NODE if self.paths.live else Mode.TREE

    @property
    def wanted(self) -> Wanted:
        """What the cluster has where this run is done."""
        cuda = self.build_targets.cuda if self.build_targets else ()
        return Wanted(
            self.tool.version, self.tool.sha256, self.config.to_dict(), dict(self.environment), self.wanted_release,
            targets=self.targets, cuda=cuda,
        )  # fmt: skip

    @property
    def targets(self) -> tuple[str, ...]:
        """The CPU targets of the wanted release."""
        return (self.build_targets or build_targets_of(self.config, (), self.facts.host.machine)).targets

    @property
    def tree(self) -> str:
        """The module tree of the wanted release that this node takes: its best, else the first for want of another."""
        host = self.facts.host
        return tree_name(host, targets.best(host.target, self.targets) or self.targets[0])

    @property
    def trees(self) -> tuple[str, ...]:
        """The module trees that this node could use in any release, best first.

        A shell finds its tree in the release from before and in the next one too, whatever they were built for.
        """
        host = self.facts.host
        mine = (tree_name(host, name) for name in targets.runnable(host.target))
        return tuple(dict.fromkeys((*mine, self.tree)))

    @property
    def build_queue(self) -> str | None:
        """The Slurm queue whose nodes build the stack, None where this machine does: images and trees have no Slurm."""
        install = self.config.install
        in_job = install.where == "slurm" and self.config.builds and self.paths.live and not self.bakes
        return install.queue if in_job else None

    @property
    def cluster_lock(self) -> Path:
        """The cluster's lock; a machine that becomes an image has no cluster, and has it for itself."""
        lock = self.paths.cluster_lock
        return self.paths.var / lock.name if self.bakes else lock

    @property
    def mounted(self) -> Mount | None:
        """What is mounted as shared storage now; the facts are of the start of this run."""
        return replace(self.facts, mounts=self.system.mounts()).mount_of(self.paths.mount)

    @property
    def kept_archive(self) -> Path:
        """Where this petal-node is kept; the file that it was started from may be gone (ParallelCluster unlinks it)."""
        return self.paths.home / self.tool.version / "petal-node"

    @property
    def wanted_release(self) -> str:
        """The release to make. Steps that call this run only where the configuration is known."""
        if self.release is None:
            raise RuntimeError("the release id is not known in this run")
        return self.release
