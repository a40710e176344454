"""Every check and step of petal-node, in one order: causes before effects. All else is a filter of it.

A step is in ``STEPS`` if a bootstrap applies it, in ``REPAIRS`` if ``repair`` does, in ``CHECKS`` if ``check`` asks it.
"""

from __future__ import annotations

from ..checks.daemons import Munge, Slurm
from ..checks.release import CpuFits, CurrentRelease, ModulesUsable, SpackDatabase
from ..checks.storage import DiskSpace, MountOptions, OptSpack
from ..core.model import Mode
from ..repair.documents import Documents
from ..repair.killed_run import KilledRun
from ..repair.permissions import Ownership, Permissions
from ..repair.scratch import BuildStage
from ..repair.store import ChangedFiles, MissingFiles, PartialInstalls
from ..state.context import Context
from ..steps.base import Check, Step
from ..steps.cache import BuildCache
from ..steps.converge import Converge
from ..steps.hidden_mounts import HiddenMounts
from ..steps.image import Image
from ..steps.lmod import NodeLmod
from ..steps.lmod_pack import LmodPack
from ..steps.modules import ModuleTree
from ..steps.mount import MountStorage
from ..steps.owner import StorageOwner
from ..steps.packages import Packages
from ..steps.program import SpackProgram
from ..steps.proof import Proof
from ..steps.release import Release
from ..steps.root import Root
from ..steps.shell import Shell
from ..steps.spack import SpackStack
from ..steps.storage import Storage
from ..steps.tool import ToolInPlace
from ..steps.wanted import WantedState

ALL: tuple[Check, ...] = (
    Munge(),
    Slurm(),
    BuildStage(),
    KilledRun(),
    ToolInPlace(),
    Converge(),
    HiddenMounts(),
    MountStorage(),
    Permissions(),
    Ownership(),
    Documents(),
    Storage(),
    StorageOwner(),
    MountOptions(),
    DiskSpace(),
    Image(),
    Root(),
    WantedState(),
    Packages(),
    SpackProgram(),
    PartialInstalls(),
    MissingFiles(),
    ChangedFiles(),
    SpackStack(),
    LmodPack(),
    NodeLmod(),
    ModuleTree(),
    Release(),
    Shell(),
    BuildCache(),
    Proof(),
    OptSpack(),
    CurrentRelease(),
    SpackDatabase(),
    CpuFits(),
    ModulesUsable(),
)

_STEPS = tuple(check for check in ALL if isinstance(check, Step))
STEPS = tuple(step for step in _STEPS if not step.repair_only and Mode.NODE in step.modes)
REPAIRS = tuple(step for step in _STEPS if step.in_repair and Mode.NODE in step.modes)
CHECKS = tuple(check for check in ALL if not isinstance(check, Step) or check.is_check)
# Needs neither shared storage nor a configuration, so a node without both is still installed and tries again.
LOCAL = tuple(step for step in STEPS if step.local)
BEFORE_DESIRED = tuple(step for step in STEPS if step.local or step.before_desired)


def steps_for(ctx: Context) -> tuple[Step, ...]:
    """The steps that a bootstrap applies to this machine."""
    if ctx.mode is Mode.IMAGE:
        return tuple(step for step in _STEPS if ctx.config.layout in step.image_layouts)
    return STEPS


def awaits_mount(ctx: Context) -> bool:
    """True if this node has to mount shared storage before it can read the desired state."""
    needed = ctx.config.storage.source is not None and ctx.options.event != "start"
    return needed and ctx.mode is Mode.NODE and ctx.facts.mount_of(ctx.paths.mount) is None
