"""What ``repair`` mends beside the steps of a bootstrap: the same shape, and their probes are checks too.

They are no part of a bootstrap, since they look at everything (each file of each package), or take away what somebody
may still want. Order is that of causes: a mount before what is on it, trust before what is trusted.
"""

from __future__ import annotations

from ..steps.base import Step
from ..steps.registry import STEPS
from .documents import Documents
from .hidden_mounts import HiddenMounts
from .killed_run import KilledRun
from .permissions import Ownership, Permissions
from .scratch import BuildStage
from .store import ChangedFiles, MissingFiles, PartialInstalls

NOT_REPAIRS = frozenset({"cache", "proof"})  # a build cache and a job are no fault of a node
BEFORE: dict[str, tuple[Step, ...]] = {
    "tool": (BuildStage(), KilledRun()),
    "mount": (HiddenMounts(),),
    "storage": (Permissions(), Ownership(), Documents()),
    "spack": (PartialInstalls(), MissingFiles(), ChangedFiles()),
}

REPAIRS: tuple[Step, ...] = tuple(
    one for step in STEPS if step.name not in NOT_REPAIRS for one in (*BEFORE.get(step.name, ()), step)
)

__all__ = ["REPAIRS"]
