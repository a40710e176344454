"""How shared storage is mounted, how fast it answers, what time it has, and what is left on it and on local disks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from ..core.facts import NETWORK_KINDS, Mount
from ..core.model import Finding, Role
from ..host.clocks import ahead, skew_finding
from ..state.context import Context
from .base import fail, ok, warn

LOOKS = 10
SLOW_SECONDS = 0.05  # of opening and reading a small file; EFS takes 1 to 5 ms, EBS over NFS less than 1
LOW_SHARE = 0.05
LOW_BYTES = 1 << 30
LOCAL = ("/", "/tmp", "/var")  # noqa: S108 - looked at, not written
# Options that cost users something, by what they begin with.
HARMFUL = {
    "soft": "a program reads half a file while the server is slow, and is told that it was the whole (nfs(5))",
    "softerr": "a program gets errors while the server is slow (nfs(5))",
    "sync": "every write waits for the server",
    "noac": "nothing is cached: every start of a program asks the server for each file again (nfs(5))",
    "acregmin=0": "nothing is cached: every start of a program asks the server for each file again (nfs(5))",
    "lookupcache=none": "every search along PATH asks the server for each directory again (nfs(5))",
    "vers=3": "locks are another service's, and are lost when it restarts (nfs(5))",
}
# What /proc/mounts shows as it was asked for; other options it leaves out, or a server changes them (nfs(5)).
SHOWN = ("noatime", "nodiratime", "relatime", "hard", "nconnect=", "noresvport", "flock", "user_xattr")


def options(ctx: Context, _seconds: float) -> Iterator[Finding]:
    """Whether shared storage and the root are mounted so that programs run from them, and as the configuration says."""
    mount = ctx.mounted
    if not ctx.paths.live or mount is None:
        return
    root = next((found for found in reversed(ctx.system.mounts()) if found.point == str(ctx.paths.root)), mount)
    stopping = [found.point for found in (mount, root) if "noexec" in found.options]
    if stopping:
        remedy = f"mount -o remount,exec {stopping[0]}"
        yield fail("options", f"{stopping[0]} is mounted noexec", "no program can be run from it", remedy)
        return
    harm = [(option, why) for option in mount.options if (why := HARMFUL.get(option)) and _is_network(mount)]
    lacking = [option for option in ctx.config.storage.options if not _is_shown(option, mount)]
    if harm:
        option, why = harm[0]
        told = f"{mount.point} is mounted with {', '.join(option for option, _ in harm)}"
        yield warn("options", told, f"{option}: {why}", f"findmnt {mount.point}", _where_options_are(ctx))
    elif lacking:
        told = f"{mount.point} is mounted without {', '.join(lacking)}"
        why = "the configuration has that in storage.options, and a mount in use keeps what it was mounted with"
        yield warn("options", told, why, "reboot this node, or mount it anew while nobody uses it")
    else:
        yield ok("options", f"{mount.kind}: {_told(mount)}")


def _where_options_are(ctx: Context) -> str:
    if ctx.config.storage.source is not None:
        return "correct storage.options in the configuration"
    return f"correct the options of {ctx.paths.mount} in the cluster's configuration (SharedStorage) or in /etc/fstab"


def _is_network(mount: Mount) -> bool:
    return mount.kind in NETWORK_KINDS


def _is_shown(option: str, mount: Mount) -> bool:
    return not option.startswith(SHOWN) or option in mount.options


def _told(mount: Mount) -> str:
    telling = ("rw", "ro", "vers=", "hard", "nconnect=", "noatime", "relatime", "flock", "local_lock=")
    return ",".join(option for option in mount.options if option.startswith(telling)) or "no option that matters"


def latency(ctx: Context, seconds: float) -> Iterator[Finding]:
    """How long shared storage takes to open and read a small file."""
    file = ctx.paths.state / "token.json"
    took = ctx.system.guarded(lambda: _reading_takes(file), timeout=seconds, what=str(ctx.paths.shared_mount))
    message = f"a small file of {ctx.paths.mount} is read in {took * 1000:.1f} ms"
    if took < SLOW_SECONDS:
        yield ok("latency", message)
        return
    why = "a program opens hundreds of files when it starts"
    yield warn("latency", message, why, f"nfsiostat 1 3 {ctx.paths.mount}", "look at the load of the server")


def _reading_takes(file: Path) -> float:
    """The median of a few; each opens it anew, so NFS asks the server (close-to-open, nfs(5))."""
    taken = []
    for _ in range(LOOKS):
        started = time.monotonic()
        file.read_bytes()
        taken.append(time.monotonic() - started)
    return median(taken)


def clock(ctx: Context, seconds: float) -> Iterator[Finding]:
    """Whether this node and the server of shared storage have the same time; needs a file of our own there."""
    if ctx.role is Role.HEAD or not ctx.system.is_root() or not ctx.paths.live:
        return
    directory = ctx.paths.state / "nodes"
    try:
        skew = ctx.system.guarded(
            lambda: _skew_by(directory, ctx.facts.host.name), timeout=seconds, what=str(directory)
        )
    except OSError:  # read-only, or root is nobody there: the head node compares when it asks this node
        return
    yield skew_finding(skew)


def _skew_by(directory: Path, host: str) -> float:
    """How far this node's clock is ahead of what the server writes into a new file, as near as can be told."""
    before = time.time()
    file = directory / f".clock.{host}"  # one that a killed look left is taken again
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, b"now")
        os.fsync(descriptor)
        theirs = os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        file.unlink(missing_ok=True)
    return ahead(before, time.time(), theirs)


@dataclass(frozen=True)
class Room:
    """What is left of a file system: shares from 0 to 1, and bytes."""

    place: str
    free: int
    share: float
    inodes: float
    device: int

    @classmethod
    def of(cls, place: Path, shown: str) -> Room:
        found = os.statvfs(place)
        share = found.f_bavail / found.f_blocks if found.f_blocks else 1.0
        inodes = found.f_favail / found.f_files if found.f_files else 1.0  # some file systems do not count them
        return cls(shown, found.f_bavail * found.f_frsize, share, inodes, place.stat().st_dev)


def disk(ctx: Context, seconds: float) -> Iterator[Finding]:
    """Whether local disks and shared storage have room, and inodes."""
    rooms = [Room.of(path, place) for place in LOCAL if (path := ctx.paths.at(place)).is_dir()]
    shared = ctx.paths.shared_mount
    if ctx.mounted is not None or not ctx.paths.live:
        rooms.append(ctx.system.guarded(lambda: Room.of(shared, ctx.paths.mount), timeout=seconds, what=str(shared)))
    distinct = list({room.device: room for room in reversed(rooms)}.values())
    full = [room for room in distinct if room.free == 0 or room.inodes == 0]
    low = [room for room in distinct if (room.share < LOW_SHARE and room.free < LOW_BYTES) or room.inodes < LOW_SHARE]
    if full:
        yield fail("disk", _left(full[0]), "nothing can be written there", *_to_free(full[0]))
    elif low:
        yield warn("disk", _left(low[0]), "", *_to_free(low[0]))
    else:
        least = min(distinct, key=lambda room: room.free)
        yield ok("disk", f"{least.free / (1 << 30):.1f} GiB free on {least.place}, the fullest of {len(distinct)}")


def _left(room: Room) -> str:
    if room.inodes < LOW_SHARE and room.free:
        return f"{room.place} has {room.inodes:.0%} of its inodes left"
    return f"{room.place} has {room.free / (1 << 20):.0f} MiB left"


def _to_free(room: Room) -> tuple[str, ...]:
    if room.inodes < LOW_SHARE:
        return (f"df -i {room.place}", f"du -x --inodes -d 2 {room.place} | sort -n | tail")
    return (f"df -h {room.place}", f"du -xh -d 2 {room.place} | sort -h | tail")
