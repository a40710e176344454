"""The steps of ``repair``: those of a bootstrap, and steps that only a repair has. Their probes are checks too.

A bootstrap does not have the latter because they read each file of each package, or remove something. The order is that
of causes: a mount before the files on it, permissions before the records that they protect.
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

NOT_REPAIRS = frozenset({"cache", "proof"})  # no fault of a node: a build cache, and a job
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
