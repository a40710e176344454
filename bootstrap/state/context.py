"""The input of every step and check: options, services, the node's facts, and the state that it should reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from ..cluster import targets
from ..cluster.targets import BuildTargets
from ..config.model import Config, Origin
from ..core.deadlines import LOOK
from ..core.errors import PetalError
from ..core.facts import External, Facts, Mount, followed
from ..core.model import Mode, NodeReport, Role, StepReport, Tool
from ..core.options import Options
from ..core.paths import Paths
from ..host.system import System
from ..remote.fetch import Source, local_path
from .desired import DesiredState
from .release import Manifest, build_targets_of, tree_name


@dataclass(frozen=True)
class Services:
    """What a command works with besides its options.

    Args:
        tool: this petal-node.
        system: the machine.
        run_id: the id of this run.
        listen: called with each step when it starts, waits and ends.
        note: called with each line of progress.
        answer: called with the report of each node when it comes.
    """

    tool: Tool
    system: System
    run_id: str
    listen: Callable[[StepReport], None]
    note: Callable[[str], None]
    answer: Callable[[NodeReport], None] = lambda _: None


class ObservedRelease(NamedTuple):
    """The current release; None if it or its manifest is missing."""

    id: str | None
    manifest: Manifest | None


@dataclass
class Observed:
    """Documents on shared storage that the checks of one node have read, so that each is read once."""

    release: ObservedRelease | None = None


@dataclass(frozen=True)
class Context:
    """One run on one node.

    Args:
        release: the id of the release that this cluster should have, None if it is not known.
        environment: the stack's own spack.yaml as a mapping, empty without a stack.
        build_targets: the CPU targets that were chosen for the cluster, None if none were chosen yet.
        externals: packages of the image that Spack uses, known if a stack is built.
        sets_desired_state: this run decides what the cluster should have; other runs follow the desired state.
        resumes_pending: the decision is one that an earlier hook did not record before it was killed.
        progress: called with the progress of a long step; it goes into the run's record, for ``status`` on every node.
        warn: called with a problem in spite of which a step continues; it is shown at once.
        confirm: called by cluster steps right before they publish; raises LockLost if the lock is no longer held.
        builders: a descriptor for processes that build: no other run begins while a process has it open
            (``locks.builders_ended``).
        observed: empty at the start of the checks of a node, and not kept afterwards.
    """

    options: Options
    services: Services
    paths: Paths
    facts: Facts
    role: Role
    config: Config
    release: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    build_targets: BuildTargets | None = None
    externals: tuple[External, ...] = ()
    sets_desired_state: bool = False
    resumes_pending: bool = False
    progress: Callable[[str], None] = lambda _: None
    warn: Callable[[PetalError], None] = lambda _: None
    confirm: Callable[[], None] = lambda: None
    builders: int | None = None
    observed: Observed = field(default_factory=Observed, compare=False)

    @property
    def system(self) -> System:
        return self.services.system

    @property
    def tool(self) -> Tool:
        return self.services.tool

    @property
    def run_id(self) -> str:
        return self.services.run_id

    @property
    def note(self) -> Callable[[str], None]:
        return self.services.note

    @property
    def mode(self) -> Mode:
        """The kind of machine that this run works on."""
        if self.options.layout is not None:
            return Mode.IMAGE
        return Mode.NODE if self.paths.live else Mode.TREE

    @property
    def publishes_to_cluster(self) -> bool:
        """True if shared storage records which releases are current; a machine image has its own release."""
        return self.config.root_is_shared and self.mode is not Mode.IMAGE

    @property
    def desired_state(self) -> DesiredState:
        """The desired state of the cluster after this run."""
        cuda = self.build_targets.cuda if self.build_targets else ()
        environment, config = dict(self.environment), self.config.to_dict()
        return DesiredState(
            self.tool.version, self.tool.sha256, config, environment, self.desired_release, self.targets, cuda
        )

    @property
    def targets(self) -> tuple[str, ...]:
        """The CPU targets of the desired release."""
        return (self.build_targets or build_targets_of(self.config, (), self.facts.host.machine)).targets

    @property
    def tree(self) -> str:
        """The module tree of the desired release for this node: the best that it can run, else the first."""
        host = self.facts.host
        return tree_name(host, targets.best(host.target, self.targets) or self.targets[0])

    @property
    def trees(self) -> tuple[str, ...]:
        """The module trees that this node could use in any release, best first.

        With them, a shell finds its tree in the previous release and in the next one too.
        """
        host = self.facts.host
        mine = (tree_name(host, name) for name in targets.runnable(host.target))
        return tuple(dict.fromkeys((*mine, self.tree)))

    @property
    def build_queue(self) -> str | None:
        """The Slurm queue whose nodes build the stack, None if this machine builds it: only clusters have Slurm."""
        install = self.config.install
        in_job = install.where == "slurm" and self.config.uses_spack and self.mode is Mode.NODE
        return install.queue if in_job else None

    @property
    def cluster_lock(self) -> Path:
        """The lock of the cluster; an image build has no cluster and uses a lock of its own."""
        lock = self.paths.cluster_lock
        return self.paths.var / lock.name if self.mode is Mode.IMAGE else lock

    @property
    def mounted(self) -> Mount | None:
        """The mount of shared storage at this moment; ``facts`` are from the start of the run."""
        return self.mount_at(self.paths.mount)

    def followed(self, path: Path | str) -> str:
        """A mount point with its symbolic links followed: systemd mounts nothing at a link."""
        return followed(str(path), {mount.point for mount in self.system.mounts()})

    def mount_at(self, path: Path | str) -> Mount | None:
        """The mount at a path, or at the target of a link, at this moment."""
        return replace(self.facts, mounts=self.system.mounts()).mount_of(str(path))

    def is_mounted_later(self, uri: str) -> bool:
        """True for a local path on shared storage that a run mounts first."""
        path = local_path(uri)
        return path is not None and self.paths.live and self.mounted is None and self.paths.shared_mount in path.parents

    def source_of(self, origin: Origin) -> Source:
        """An input of the configuration, for a plan that looks at it."""
        return Source(origin.source, origin.sha256, self.facts.cluster.region, LOOK)

    @property
    def desired_release(self) -> str:
        """The release to make. Only steps that need a configuration read it."""
        if self.release is None:
            raise RuntimeError("the release id is not known in this run")
        return self.release
