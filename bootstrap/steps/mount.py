"""Mounts ``storage.source`` of the configuration, and finds mounts that hide shared storage or the root.

Without ``storage.source``, ParallelCluster has mounted shared storage. With it, a systemd unit mounts the
storage after a reboot too (systemd.mount(5)); without systemd, mount(8) mounts it once. If the server does not answer,
compute and login nodes stop after seconds, and the service at boot tries again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..config.model import StorageConfig
from ..core.deadlines import PROBE, PROGRAM
from ..core.errors import DeadlineExceeded, PetalError, StorageError
from ..core.facts import Mount
from ..core.model import Finding, Role, blocked, change, elsewhere, satisfied
from ..core.text import quoted
from ..host import systemd
from ..host.files import make_dir
from ..remote.s3 import domain_of
from ..state.context import Context
from ..state.store import ClusterState
from .base import Run, Step
from .self_install import SelfInstall

OTHER_SECONDS = 6.0  # with TOUCH_SECONDS it fits into the 9 s of a login or compute hook (cluster/limits.py)
TOUCH_SECONDS = 3.0
# NFS: hard, as ParallelCluster mounts its own (cookbook: shared/attributes/cluster.rb), since soft gives half reads.
# EFS: AWS' recommended options (EFS user guide, "Recommended NFS mount options"); it has no 4.2. Lustre: as
# ParallelCluster (cookbook: resources/lustre); without flock it has no locks.
NFS = ("nfsvers=4.2", "hard", "noatime")
EFS = ("nfsvers=4.1", "rsize=1048576", "wsize=1048576", "hard", "timeo=600", "retrans=2", "noresvport", "noatime")
LUSTRE = ("flock", "user_xattr", "noatime")
HELPERS = {
    "nfs4": ("mount.nfs4", "apt-get install nfs-common    # Red Hat, Amazon Linux: dnf install nfs-utils"),
    "lustre": ("mount.lustre", "install the Lustre client into the image"),
}
UNIT = """\
# petal-node: shared storage, storage.source of the configuration.
[Unit]
Description=petal-node shared storage
Wants=network-online.target
After=network-online.target

[Mount]
What={what}
Where={where}
Type={kind}
Options={options}
TimeoutSec=60

[Install]
WantedBy=multi-user.target
"""
AUTOMOUNT = "autofs"  # systemd.automount(5) leaves this below a mount, for example of FSx for Lustre


class HiddenMounts(Step):
    """Shared storage is mounted if /etc/fstab has it, and no other mount hides it or the root.

    Other mounts are never unmounted: the finding has the command.
    """

    name = "hidden-mounts"
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    seconds = None

    def probe(self, ctx: Context) -> Finding:
        mount = ctx.paths.mount
        if not ctx.paths.live:
            return elsewhere("nothing is mounted under --root")
        if ctx.mounted is None:
            if ctx.config.storage.source is not None or not _fstab_has_storage(ctx):
                return elsewhere(f"/etc/fstab has no line for {mount}")
            return change(f"{mount} is not mounted, and /etc/fstab has it", f"mount {quoted(mount)}")
        hidden = _hidden(ctx)
        if hidden is None:
            return satisfied(f"no other mount hides {mount} or {ctx.paths.root}")
        top = [mount for mount in ctx.system.mounts() if mount.point == hidden][-1]
        return blocked(
            f"{hidden} is hidden by another mount: {top.kind} from {top.source}",
            f"findmnt {quoted(hidden)}",
            f"umount --lazy {quoted(hidden)}    # programs that use the upper mount lose their files",
        )

    def apply(self, ctx: Context) -> None:
        if ctx.mounted is None:
            ctx.system.run(["mount", ctx.followed(ctx.paths.mount)], timeout=PROGRAM)


def _hidden(ctx: Context) -> str | None:
    """The mount point whose upper mount is not petal-node's; shared storage first, because the root depends on it."""
    points = [mount.point for mount in ctx.system.mounts() if mount.kind != AUTOMOUNT]
    root, storage = ctx.paths.root, ctx.followed(ctx.paths.mount)
    shared = ClusterState(ctx.paths, trusting=True)
    if points.count(storage) > 1 and not ctx.system.try_storage(shared.is_known_storage, storage, PROBE):
        return storage
    if points.count(ctx.followed(root)) > 1:
        is_same = ctx.system.try_storage(lambda: root.samefile(ctx.paths.shared_root), root, PROBE)
        return None if is_same else str(root)
    return None


@dataclass(frozen=True)
class Device:
    """Source, type and options, as mount(8) takes them."""

    what: str
    kind: str
    options: str


class MountStorage(Step):
    """``storage.source`` is mounted at ``storage.mount``, also after a reboot."""

    name = "mount"
    needs = (SelfInstall,)
    after = (HiddenMounts,)

    def probe(self, ctx: Context) -> Finding:
        if ctx.config.storage.source is None:
            return elsewhere("the configuration has no storage.source")
        if not ctx.paths.live:
            return elsewhere("nothing is mounted under --root")
        device = device_of(ctx.config.storage, ctx.facts.cluster.region)
        mounted = ctx.mounted
        return _unmounted(ctx, device) if mounted is None else _mounted(ctx, device, mounted)

    def apply(self, ctx: Context) -> None:
        device = device_of(ctx.config.storage, ctx.facts.cluster.region)
        make_dir(ctx.paths.shared_mount)
        if _unit_changes(ctx, device):
            systemd.install([_unit(ctx, device)], ctx.paths.units, ctx.system)
        if ctx.mounted is None:
            _mount(ctx, device)


def device_of(storage: StorageConfig, region: str | None) -> Device:
    """Source, type and options for mount(8).

    Raises:
        StorageError: ``storage-not-mounted``, the name of an EFS file system needs the region.
    """
    source = str(storage.source)
    if storage.mount_type == "lustre":
        return Device(source, "lustre", _merged(LUSTRE, storage.options))
    if ":" in source:
        return Device(source, "nfs4", _merged(NFS, storage.options))
    if region is None:
        raise StorageError(
            f"the address of {source} is not known",
            why="this node does not know its region",
            remedy=f"write the full name: storage.source: {source}.efs.REGION.SUFFIX:/",
            code="storage-not-mounted",
        )
    return Device(f"{source}.efs.{domain_of(region)}:/", "nfs4", _merged(EFS, storage.options))


def _merged(defaults: tuple[str, ...], own: tuple[str, ...]) -> str:
    """The defaults with the configuration's own options, which replace the defaults of the same name."""
    replaced = {_option_name(option) for option in own}
    kept = (option for option in defaults if _option_name(option) not in replaced)
    return ",".join(dict.fromkeys([*kept, *own, "_netdev"]))


def _option_name(option: str) -> str:
    """The setting of an option: ``vers`` is ``nfsvers`` (nfs(5)), ``relatime`` replaces ``noatime``."""
    name = option.partition("=")[0]
    return {"vers": "nfsvers", "atime": "noatime", "relatime": "noatime", "resvport": "noresvport"}.get(name, name)


def unit_name(mount: str) -> str:
    r"""The unit of a mount point, as ``systemd-escape --path`` names it: ``/my-fs`` is ``my\x2dfs.mount``."""
    escaped = re.sub(r"^\.|[^A-Za-z0-9:_./]", lambda found: f"\\x{ord(found[0]):02x}", mount.strip("/"))
    return escaped.replace("/", "-") + ".mount"


def _unmounted(ctx: Context, device: Device) -> Finding:
    where = ctx.paths.shared_mount
    helper, remedy = HELPERS[device.kind]
    if ctx.system.which(helper) is None:
        return blocked(f"{device.what} cannot be mounted: this node has no {helper}", remedy)
    if ctx.system.on_storage(lambda: where.is_dir() and any(where.iterdir()), where, TOUCH_SECONDS):
        commands = (f"ls -la {quoted(where)}", f"mv {quoted(where)} {quoted(where)}.before")
        return blocked(f"{where} holds files that the mount would hide", *commands)
    return change(f"{where} is not mounted", f"mount {device.what} at {where}", *_unit_changes(ctx, device))


def _mounted(ctx: Context, device: Device, mounted: Mount) -> Finding:
    where = ctx.paths.shared_mount
    if not _is_same(ctx, device, mounted):
        return blocked(
            f"{where} is mounted from {mounted.source}, the configuration has {device.what}",
            f"umount {quoted(where)} && petal-node bootstrap    # umount refuses while a process uses it",
            "or correct the configuration: storage.source",
        )
    changes = _unit_changes(ctx, device)
    if changes:
        return change(f"the systemd unit that mounts {where} is missing or differs", *changes)
    return satisfied(f"{mounted.source} is mounted at {where}")


def _is_same(ctx: Context, device: Device, mounted: Mount) -> bool:
    """True for the same source, and for the same path of the same server under another name."""
    if mounted.source.rstrip("/") == device.what.rstrip("/"):
        return True
    host, _, path = device.what.rpartition(":")
    address = next((option[5:] for option in mounted.options if option.startswith("addr=")), None)
    if address is None or mounted.source.rpartition(":")[2].rstrip("/") != path.rstrip("/"):
        return False
    what = f"the name {host} was not resolved within {TOUCH_SECONDS:.0f} s"
    late = DeadlineExceeded(what, remedy=f"getent ahosts {host}")
    return address in ctx.system.with_deadline(lambda: ctx.system.addresses(host), TOUCH_SECONDS, late)


def _unit(ctx: Context, device: Device) -> systemd.Unit:
    """With ``nofail``, so that neither boot nor a login waits for the server."""
    options = f"{device.options},nofail"
    where = ctx.followed(ctx.paths.mount)
    return systemd.Unit(unit_name(where), UNIT.format(what=device.what, where=where, kind=device.kind, options=options))


def _unit_changes(ctx: Context, device: Device) -> tuple[str, ...]:
    """The change of the unit; empty if it is current, or if /etc/fstab or a unit of the administrator mounts it."""
    unit, folder = _unit(ctx, device), ctx.paths.units
    others_unit = (folder / unit.name).is_file() and not unit.is_ours(folder)
    if not ctx.system.has_systemd() or others_unit or _fstab_has_storage(ctx):
        return ()
    return () if unit.is_current(folder) else (f"write and enable {folder / unit.name}",)


def _fstab_has_storage(ctx: Context) -> bool:
    """True if a line of fstab(5) has the mount point of shared storage, by its name or by that of a link's target."""
    mount = ctx.paths.mount
    try:
        lines = ctx.paths.at("/etc/fstab").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    entries = (line.split() for line in lines if not line.lstrip().startswith("#"))
    return any(len(entry) > 1 and entry[1] in (mount, ctx.followed(mount)) for entry in entries)


def _mount(ctx: Context, device: Device) -> None:
    where = ctx.followed(ctx.paths.mount)
    seconds = PROGRAM if ctx.role is Role.HEAD else OTHER_SECONDS
    try:
        if ctx.system.has_systemd():
            systemd.start(unit_name(where), ctx.system, timeout=seconds)
        else:
            command = ["mount", "-t", device.kind, "-o", device.options, device.what, where]
            ctx.system.run(command, timeout=seconds)
    except PetalError as error:
        host = device.what.partition(":")[0].partition("@")[0]
        raise StorageError(
            f"{device.what} cannot be mounted at {where}",
            why=str(error),
            remedy=(
                f"getent hosts {quoted(host)}    # its security group must let this node in: NFS port 2049, Lustre 988",
                f"journalctl -u '{unit_name(where)}'",
                "petal-node bootstrap    # when the server answers",
            ),
            code="storage-not-mounted",
        ) from error
