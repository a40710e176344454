"""What ``repair`` mends beside the steps of a bootstrap: the same shape, and their probes are checks too.

They are no part of a bootstrap, since they look at everything (each file of each package), or take away what somebody
may still want. Order is that of causes: a mount before what is on it, trust before what is trusted.
"""

from __future__ import annotations

from ..steps.base import Step
from ..steps.registry import STEPS
from .documents import Documents
from .mounts import Remount
from .permissions import Modes, Owners
from .scratch import BuildStage
from .store import ChangedFiles, Leftovers, MissingFiles
from .worker import DeadWorker

NOT_REPAIRS = frozenset({"cache", "proof"})  # a build cache and a job are no fault of a node
BEFORE: dict[str, tuple[Step, ...]] = {
    "tool": (BuildStage(), DeadWorker()),
    "mount": (Remount(),),
    "storage": (Modes(), Owners(), Documents()),
    "spack": (Leftovers(), MissingFiles(), ChangedFiles()),
}

REPAIRS: tuple[Step, ...] = tuple(
    one for step in STEPS if step.name not in NOT_REPAIRS for one in (*BEFORE.get(step.name, ()), step)
)

__all__ = ["REPAIRS"]
