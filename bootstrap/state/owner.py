"""Which cluster a shared storage serves: the name that its head node writes there.

A storage outlives its cluster as a snapshot, a retained volume, or an EFS or FSx file system that the next cluster
mounts. CloudFormation keeps the name of a stack unique in an account and region, so that a name names one cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..core.decode import NAME, Name
from ..core.facts import Cluster


@dataclass(frozen=True)
class Owner:
    """A cluster, as it writes its name on the storage that serves it. ``region`` is empty if the node has none."""

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
