"""Every check and step of petal-node, in one order: causes before effects.

Other lists are selected from it by the attribute ``part_of`` of each check.
"""

from __future__ import annotations

from ..checks.daemons import Munge, Slurm
from ..checks.release import CpuFits, CurrentRelease, ModulesUsable, SpackDatabase
from ..checks.storage import DiskSpace, MountOptions, OptSpack
from ..core.model import Mode, Role
from ..repair.killed_run import KilledRun
from ..repair.module_files import ChangedModules
from ..repair.permissions import Permissions
from ..repair.records import Records
from ..repair.store import PackageFiles, PartialInstalls
from ..spack.job.worker import end_abandoned_jobs
from ..state.context import Context
from ..steps.base import Check, Run, Step
from ..steps.boot_service import BootService
from ..steps.build_cache import BuildCache
from ..steps.desired_state import RecordDesiredState
from ..steps.lmod import LmodPack, NodeLmod
from ..steps.module_tree import ModuleTree
from ..steps.mount import HiddenMounts, MountStorage
from ..steps.packages import Packages
from ..steps.proof import Proof
from ..steps.publish import Publish
from ..steps.root import Root
from ..steps.seed_from_image import SeedFromImage
from ..steps.self_install import SelfInstall
from ..steps.shell import Shell
from ..steps.spack import SpackProgram, SpackStack
from ..steps.storage import Storage, StorageOwner

ALL: tuple[Check, ...] = (
    Munge(),
    Slurm(),
    KilledRun(),
    SelfInstall(),
    BootService(),
    HiddenMounts(),
    MountStorage(),
    Permissions(),
    Records(),
    Storage(),
    StorageOwner(),
    MountOptions(),
    DiskSpace(),
    SeedFromImage(),
    Root(),
    CurrentRelease(),
    SpackDatabase(),
    RecordDesiredState(),
    Packages(),
    SpackProgram(),
    PartialInstalls(),
    PackageFiles(),
    SpackStack(),
    LmodPack(),
    NodeLmod(),
    ChangedModules(),
    ModuleTree(),
    Publish(),
    Shell(),
    BuildCache(),
    Proof(),
    OptSpack(),
    CpuFits(),
    ModulesUsable(),
)
# Called with the paths and the system when a run takes the cluster lock, before any change: killed runs left these.
ON_CLUSTER_LOCK = (end_abandoned_jobs,)


def _steps_of(run: Run) -> tuple[Step, ...]:
    return tuple(check for check in ALL if isinstance(check, Step) and run in check.part_of)


STEPS = _steps_of(Run.BOOTSTRAP)
REPAIRS = _steps_of(Run.REPAIR)
CHECKS = tuple(check for check in ALL if Run.CHECK in check.part_of)
# Needs neither shared storage nor a configuration, so a node without both is still installed and tries again.
LOCAL = tuple(step for step in STEPS if step.local)
# What a node does before it can read the desired state from shared storage.
BEFORE_DESIRED = tuple(step for step in STEPS if step.local or isinstance(step, MountStorage))


def steps_for(ctx: Context) -> tuple[Step, ...]:
    """The steps that this run applies to this machine."""
    if ctx.mode is Mode.IMAGE:
        return _steps_of(Run(ctx.config.layout))
    return REPAIRS if ctx.options.command == "repair" else STEPS


def awaits_mount(ctx: Context) -> bool:
    """True if this node has to mount shared storage before it can read the desired state."""
    needed = ctx.config.storage.source is not None and ctx.options.event != "start"
    return needed and ctx.mode is Mode.NODE and ctx.facts.mount_of(ctx.paths.mount) is None


def names_new_storage(ctx: Context) -> bool:
    """True if the configuration names mounted storage that was not searched: nothing else declares it."""
    known = ("/shared", *(shared.mount for shared in ctx.facts.cluster.shared))
    is_new = ctx.role is not Role.HEAD and ctx.release is None and ctx.paths.mount not in known
    return is_new and ctx.facts.mount_of(ctx.paths.mount) is not None
