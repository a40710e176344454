"""Mount options of shared storage, free space of it and of local disks, and a Spack tree at /opt/spack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.deadlines import PROBE
from ..core.facts import NETWORK_KINDS
from ..core.model import Finding
from ..core.paths import Paths
from ..core.text import human, quoted
from ..spack.program import version_of
from ..state.context import Context
from ..steps.base import Check
from ..steps.mount import HiddenMounts, MountStorage
from ..steps.storage import Storage

LOW_SHARE = 0.05
LOW_BYTES = 1 << 30
FULL_BYTES = 1 << 20  # less is used up and freed again by each record
LOCAL = ("/", "/tmp", "/var", "/var/lib/petal-node", "/var/log")  # noqa: S108 - looked at, not written
# Options that harm users.
HARMFUL = {
    "soft": "while the server is slow, a program may read half a file without an error (nfs(5))",
    "softerr": "a program gets errors while the server is slow (nfs(5))",
    "sync": "every write waits for the server",
    "noac": "nothing is cached: every start of a program asks the server for each file again (nfs(5))",
    "acregmin=0": "nothing is cached: every start of a program asks the server for each file again (nfs(5))",
    "lookupcache=none": "every search along PATH asks the server for each directory again (nfs(5))",
    "vers=3": "another service keeps the locks, and loses them when it restarts (nfs(5))",
}
# Options that /proc/mounts shows as they were requested; others are omitted, or changed by the server (nfs(5)).
SHOWN = ("noatime", "nodiratime", "relatime", "hard", "nconnect=", "noresvport", "flock", "user_xattr")
TELLING = ("rw", "ro", "vers=", "hard", "nconnect=", "noatime", "relatime", "flock", "local_lock=")


class MountOptions(Check):
    """Whether shared storage and the root are mounted without harmful options, and with those of the configuration."""

    name = "mount-options"
    seconds = PROBE
    after = (HiddenMounts, MountStorage, Storage)

    def findings(self, ctx: Context) -> Iterator[Finding]:
        mount = ctx.mounted
        if not ctx.paths.live or mount is None:
            return
        root = ctx.mount_at(ctx.paths.root) or mount
        noexec = [one.point for one in (mount, root) if "noexec" in one.options]
        harmful = [option for option in mount.options if option in HARMFUL and mount.kind in NETWORK_KINDS]
        missing = [
            option for option in ctx.config.storage.options if option.startswith(SHOWN) and option not in mount.options
        ]
        if noexec:
            remedy = f"mount -o remount,exec {quoted(noexec[0])}"
            yield self.fail(f"{noexec[0]} is mounted noexec", "no program can be run from it", remedy)
        elif harmful:
            setting = "storage.options in the configuration"
            if ctx.config.storage.source is None:
                setting = "its options in the cluster's configuration (SharedStorage) or in /etc/fstab"
            message, why = f"{mount.point} is mounted with {', '.join(harmful)}", f"{harmful[0]}: {HARMFUL[harmful[0]]}"
            yield self.warn(message, why, f"findmnt {quoted(mount.point)}", f"correct {setting}")
        elif missing:
            message = f"{mount.point} is mounted without {', '.join(missing)}"
            why = "storage.options in the configuration has it, and a mount keeps its options until it is mounted again"
            yield self.warn(message, why, "reboot this node, or unmount and mount it while it is not in use")
        else:
            shown = ",".join(option for option in mount.options if option.startswith(TELLING))
            yield self.ok(f"{mount.kind}: {shown or 'no relevant option'}")


@dataclass(frozen=True)
class DiskUsage:
    """Free space of a file system: ``share`` and ``inodes`` are free shares from 0 to 1, ``free`` is in bytes."""

    place: str
    free: int
    share: float
    inodes: float
    device: int

    @property
    def is_full(self) -> bool:
        return self.free < FULL_BYTES or self.inodes == 0

    @property
    def is_low(self) -> bool:
        return (self.share < LOW_SHARE and self.free < LOW_BYTES) or self.inodes < LOW_SHARE

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands that show the directories with the most files or bytes."""
        if self.inodes < LOW_SHARE:
            return (f"df -i {quoted(self.place)}", f"du -x --inodes -d 2 {quoted(self.place)} | sort -n | tail")
        return (f"df -h {quoted(self.place)}", f"du -xah -d 2 {quoted(self.place)} | sort -h | tail")

    def __str__(self) -> str:
        if self.inodes < LOW_SHARE and self.free:
            return f"{self.place} has {self.inodes:.0%} of its inodes left"
        return f"{self.place} has {self.free / (1 << 20):.0f} MiB left"

    @classmethod
    def of(cls, place: Path, shown: str) -> DiskUsage:
        found = os.statvfs(place)
        share = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
        inodes = found.f_favail / found.f_files if found.f_files else 1.0  # some file systems do not count them
        return cls(shown, found.f_bavail * found.f_frsize, share, inodes, place.stat().st_dev)


def local_disks(paths: Paths) -> list[DiskUsage]:
    """The file systems of this machine that petal-node and its users write to; one may have several entries."""
    return [DiskUsage.of(path, place) for place in LOCAL if (path := paths.at(place)).is_dir()]


class DiskSpace(Check):
    """Whether local disks and shared storage have free space and inodes."""

    name = "disk-space"
    seconds = PROBE
    after = (HiddenMounts, MountStorage, Storage)

    def findings(self, ctx: Context) -> Iterator[Finding]:
        disks = local_disks(ctx.paths)
        shared = ctx.paths.shared_mount
        if ctx.mounted is not None or not ctx.paths.live:
            disks.append(ctx.system.on_storage(lambda: DiskUsage.of(shared, ctx.paths.mount), shared, self.seconds))
        distinct = list({disk.device: disk for disk in reversed(disks)}.values())
        full = next((disk for disk in distinct if disk.is_full), None)
        low = next((disk for disk in distinct if disk.is_low), None)
        if full:
            yield self.fail(str(full), "nothing can be written there", *full.commands)
        elif low:
            yield self.warn(str(low), "", *low.commands)
        else:
            least = min(distinct, key=lambda disk: disk.free)
            fullest = f", the fullest of {len(distinct)} file systems" if len(distinct) > 1 else ""
            yield self.ok(f"{human(least.free)} free on {least.place}{fullest}")


class OptSpack(Check):
    """Whether a Spack tree is at /opt/spack, where petal's images and many guides have it. It may be a mount."""

    name = "opt-spack"
    seconds = PROBE

    def findings(self, ctx: Context) -> Iterator[Finding]:
        tree = ctx.paths.at("/opt/spack")
        version = ctx.system.on_storage(lambda: version_of(tree), tree, self.seconds)
        if version is not None:
            yield self.ok(f"Spack {version} is at /opt/spack on this node; petal-node does not use it")
