"""One thing that must hold, one file: a probe (does it?) and an apply (make it so)."""

from __future__ import annotations

from ..state.context import Context
from .base import Step
from .cache import BuildCache
from .converge import Converge
from .image import Image
from .lmod import NodeLmod
from .lmod_pack import LmodPack
from .modules import ModuleTree
from .mount import MountStorage
from .owner import StorageOwner
from .packages import Packages
from .program import SpackProgram
from .proof import Proof
from .release import Release
from .root import Root
from .shell import Shell
from .spack import SpackStack
from .storage import Storage
from .tool import ToolInPlace
from .wanted import WantedState

STEPS: tuple[Step, ...] = (
    ToolInPlace(),
    Converge(),
    MountStorage(),
    Storage(),
    StorageOwner(),
    Image(),
    Root(),
    WantedState(),
    Packages(),
    SpackStack(),
    LmodPack(),
    NodeLmod(),
    ModuleTree(),
    Release(),
    Shell(),
    BuildCache(),
    Proof(),
)

# What needs neither shared storage nor a configuration: a node that has neither can still be asked, and tries again.
LOCAL = tuple(step for step in STEPS if step.local)
# What is done before anybody knows what the cluster wants, where that stands on storage that is to be mounted first.
MOUNTING = tuple(step for step in STEPS if step.local or step.name == "mount")


# What a machine image gets for its layout. The hooks of its nodes add the convergence: before them nothing is wanted.
# What is in CARRIED is the image's in the layout ``ami``: a node that made it anew would have it alone.
CARRIED = frozenset(
    {
        "packages",
        "spack",
        "lmod-pack",
        "modules",
        "release",
        "cache",
        "partial-installs",
        "package-files-missing",
        "package-files-changed",
    }
)
IMAGE: dict[str, tuple[Step, ...]] = {
    "hybrid": (ToolInPlace(), SpackProgram(), NodeLmod(), Shell()),
    "ami": tuple(step for step in STEPS if step.name in CARRIED | {"tool", "root", "lmod", "shell"}),
}


def steps_for(ctx: Context) -> tuple[Step, ...]:
    """All that this machine should become."""
    return IMAGE[ctx.config.layout] if ctx.bakes else STEPS


def awaits_mount(ctx: Context) -> bool:
    """True where this node has to mount shared storage before it can read wanted.json."""
    needed = ctx.config.storage.source is not None and ctx.event != "start" and not ctx.bakes
    return needed and ctx.paths.live and ctx.facts.mount_of(ctx.paths.mount) is None


__all__ = ["CARRIED", "LOCAL", "MOUNTING", "STEPS", "Step", "awaits_mount", "steps_for"]
