"""Facts about a node and its cluster, detected once, at the start of a run."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .model import Role

# The file systems that several nodes can mount at once.
NETWORK_KINDS = frozenset({"nfs", "nfs4", "lustre", "efs", "cifs", "ceph", "beegfs", "gpfs"})
# EFS by its name, or at the local end of its helper's encrypted connection (aws/efs-utils: mount_efs).
EFS = re.compile(r"fs-[0-9a-f]+\.efs\.|127\.0\.0\.1:/")


@dataclass(frozen=True)
class SharedDir:
    """A shared directory of the cluster: its mount point and its kind (ebs, efs, fsx, raid)."""

    mount: str
    kind: str


@dataclass(frozen=True)
class Queue:
    """One Slurm queue, and the instance types of its compute resources."""

    name: str
    instances: tuple[str, ...]


@dataclass(frozen=True)
class Cluster:
    """The node's cluster; ``sources`` names the file or service that each group of facts comes from.

    ``queues`` are read only if a decision depends on them (``facts.with_queues``), on the head node.
    """

    role: Role | None
    name: str | None = None
    region: str | None = None
    user: str | None = None
    queue: str | None = None
    head_ip: str | None = None
    shared: tuple[SharedDir, ...] = ()
    sources: tuple[str, ...] = ()
    queues: tuple[Queue, ...] = ()


@dataclass(frozen=True)
class Host:
    """The machine itself. ``os`` is id and major version joined, as Spack names it; memory is in bytes."""

    name: str
    os: str
    glibc: str
    machine: str
    target: str
    cpus: int
    memory: int
    boot_id: str


@dataclass(frozen=True)
class External:
    """Software of the image that Spack uses as an external.

    Args:
        name: Spack's name of the package.
        spec: with its version and its known variants.
        place: its prefix on a node.
        prefix: its prefix here, which is another one under ``--root``.
        buildable: Spack may build the package if another version or variant is requested.
    """

    name: str
    spec: str
    place: str
    prefix: Path
    buildable: bool = True


@dataclass(frozen=True)
class Mount:
    """One line of /proc/mounts (proc_mounts(5))."""

    source: str
    point: str
    kind: str
    options: tuple[str, ...]

    @property
    def user(self) -> str:
        """The user who mounted it (fusermount3(1)), empty for root: the mount shows any owner that this user likes."""
        ids = (option.removeprefix("user_id=") for option in self.options if option.startswith("user_id="))
        return next((number for number in ids if re.fullmatch(r"0*[1-9]\d*", number)), "")


def followed(path: str, points: Collection[str]) -> str:
    """``path`` with its symbolic links followed, but not below one of the mount points, which may not answer."""
    for _ in range(40):  # the kernel's limit (path_resolution(7))
        for part in [*reversed(Path(path).parents), Path(path)][1:]:
            if str(part) in points:
                return path
            if part.is_symlink():
                path = os.path.normpath(part.parent / os.readlink(part) / Path(path).relative_to(part))  # noqa: PTH115
                break
        else:
            return path
    return path


@dataclass(frozen=True)
class Facts:
    """All facts, detected once at the start of a run."""

    cluster: Cluster
    host: Host
    mounts: tuple[Mount, ...]

    def mount_of(self, path: str) -> Mount | None:
        """The mount that ``path`` itself is the mount point of, or a link to; the last one wins, as in the kernel."""
        point = followed(path, {mount.point for mount in self.mounts})
        return next((mount for mount in reversed(self.mounts) if mount.point == point), None)

    def is_efs(self, path: str) -> bool:
        """True if EFS is mounted at ``path``, by the mount's source or the cluster's configuration."""
        mount = self.mount_of(path)
        has_efs_source = mount is not None and mount.kind in NETWORK_KINDS and bool(EFS.match(mount.source))
        return has_efs_source or SharedDir(path, "efs") in self.cluster.shared
