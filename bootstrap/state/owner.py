"""Which cluster a shared storage serves: the name that its head node writes there, and who else may be alive.

A storage outlives its cluster: as a snapshot, as a retained volume, as an EFS or FSx file system that the next cluster
mounts. CloudFormation keeps the name of a stack unique in an account and region and frees it when the stack is deleted,
its instances with it. So another life of the same name is over for certain; a cluster of another name may be alive.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..core import decode as shapes
from ..core.facts import Cluster, Mount
from ..core.model import Role

# File systems on a block device, and in memory: while they are mounted here no other machine has them.
OF_ONE_MACHINE = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "tmpfs"})


@dataclass(frozen=True)
class Owner:
    """A cluster, as it writes its name on the storage that serves it.

    ``account`` and ``life`` are of the ARN of its CloudFormation stack, ``arn:...:REGION:ACCOUNT:stack/NAME/ID``, and
    empty where nobody told it. ``life`` is known to the head node alone: dna.json of other nodes has a nested stack's.
    """

    name: str
    region: str = ""
    account: str = ""
    life: str = ""

    def __str__(self) -> str:
        return f"{self.name} in {self.region}" if self.region else self.name

    @classmethod
    def of(cls, cluster: Cluster) -> Owner | None:
        """This node's cluster; None where the node does not know its name, or has one that is no name of a stack."""
        if cluster.name is None or not shapes.NAME.match(cluster.name):
            return None
        parts = (cluster.stack or "").split(":")
        account, resource = (parts[4], parts[5]) if len(parts) == 6 else ("", "")
        life = resource.rpartition("/")[2] if cluster.role is Role.HEAD else ""
        return cls(cluster.name, cluster.region or "", account, life)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Owner:
        rest = (shapes.text(raw.get(key, "")) for key in ("region", "account", "life"))
        return cls(shapes.name(raw["name"]), *rest)

    def is_namesake(self, other: Owner) -> bool:
        """The same cluster, or another life of its name: never are both of them alive."""
        places = ((self.region, other.region), (self.account, other.account))
        return self.name == other.name and all(mine == theirs or not (mine and theirs) for mine, theirs in places)

    def is_same(self, other: Owner) -> bool:
        """The same cluster in the same life, as far as both are told."""
        return self.is_namesake(other) and (self.life == other.life or not (self.life and other.life))


@dataclass(frozen=True)
class Adoption:
    """What a cluster found when it took a storage over: whose it was, and its current release."""

    owner: Owner
    release: str | None
    time: str

    def __str__(self) -> str:
        what = f"release {self.release}" if self.release else "no release"
        return f"{what} of cluster {self.owner}"

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Adoption:
        owner, release = Owner.from_dict(shapes.mapping(raw["owner"])), shapes.maybe(raw["release"], shapes.name)
        return cls(owner, release, shapes.text(raw["time"]))


def is_foreign(owner: Owner | None, cluster: Cluster) -> bool:
    """True for a storage that serves another cluster, or served another life of this one; unknown names are not."""
    own = Owner.of(cluster)
    return owner is not None and own is not None and not own.is_same(owner)


def is_of_one_machine(mount: Mount | None) -> bool:
    """True where no other cluster can have the same file system mounted; None is a directory under ``--root``."""
    return mount is None or mount.kind in OF_ONE_MACHINE
