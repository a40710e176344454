"""The documents on shared storage as dataclasses: desired state, owner, published releases, proof."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..core import decode
from ..core.decode import NAME, Name, Sha256
from ..core.facts import Cluster
from ..core.model import Finding, NodeReport, Severity
from ..core.text import at_most

SHOWN = 8  # nodes


@dataclass(frozen=True)
class DesiredState:
    """The petal-node version, the configuration and the release that this cluster should have.

    ``environment`` is the content of the stack's spack.yaml, so its URI is not read again. ``targets`` (CPUs) and
    ``cuda`` (compute capabilities of the GPUs) are the choice of the head node, which all other nodes use.
    """

    version: Name
    sha256: Sha256 | None
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    release: Name
    targets: tuple[Name, ...] = ()
    cuda: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        """Checks what is used before the configuration is parsed."""
        decode.text(decode.mapping(self.config.get("storage", {})).get("mount", "/shared"))
        decode.items(self.environment.get("specs", ()), decode.text)


@dataclass(frozen=True)
class Published:
    """A release became current at ``time``."""

    release: Name
    time: str
    run_id: str


@dataclass(frozen=True)
class History:
    """The releases that were current, newest last."""

    published: tuple[Published, ...]


@dataclass(frozen=True)
class Owner:
    """The cluster that a shared storage serves: the name that its head node writes there.

    A storage outlives its cluster as a snapshot, a retained volume, or an EFS or FSx file system that the next cluster
    mounts. CloudFormation keeps the name of a stack unique in an account and region. ``region`` is empty if the node
    has none.
    """

    name: Name
    region: str = ""

    def __str__(self) -> str:
        return f"{self.name} in {self.region}" if self.region else self.name

    @classmethod
    def of(cls, cluster: Cluster) -> Owner | None:
        """This node's cluster; None if its name is unknown, or cannot be the name of a stack."""
        if cluster.name is None or not NAME.match(cluster.name):
            return None
        return cls(cluster.name, cluster.region or "")


def is_foreign(owner: Owner | None, cluster: Cluster) -> bool:
    """True for a storage that serves another cluster than this node's; unknown names and regions do not count."""
    own = Owner.of(cluster)
    if owner is None or own is None:
        return False
    return owner.name != own.name or (bool(owner.region and own.region) and owner.region != own.region)


@dataclass(frozen=True)
class Token:
    """Identifies a shared file system. The head node writes it once.

    ``host`` is the head node that wrote it, ``owner`` the cluster that uses the storage.
    """

    token: str
    host: str
    owner: Owner | None = None


@dataclass(frozen=True)
class Proof:
    """The results of jobs on compute nodes for one release.

    Args:
        between: findings about pairs of nodes.
        check: the section ``check`` of the configuration.
    """

    release: str
    time: str
    nodes: tuple[NodeReport, ...]
    between: tuple[Finding, ...] = ()
    check: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """True if at least one node was checked, all checked nodes passed, and so did all pairs."""
        return 0 < self.checked == self.proved and not self.failed_between

    @property
    def failed_between(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.between if finding.severity is Severity.FAIL)

    @property
    def proved(self) -> int:
        """The number of nodes that passed with this release."""
        return sum(node.passed and node.release == self.release for node in self.nodes)

    @property
    def checked(self) -> int:
        """The number of nodes that were checked."""
        return sum(node.was_checked for node in self.nodes)

    def __str__(self) -> str:
        unchecked = [node.node for node in self.nodes if not node.was_checked]
        more = f", not checked: {', '.join(at_most(SHOWN, unchecked))}" if unchecked else ""
        apart = "".join(f"; {finding.check}: {finding.message}" for finding in self.failed_between[:1])
        return f"proved on {self.proved} of {self.checked} nodes at {self.time}{more}{apart}"
