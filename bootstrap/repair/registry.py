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
from .reports import Reports
from .room import SpackCache, Stage
from .store import Damaged, Intact, Leftovers
from .worker import DeadWorker

NOT_REPAIRS = frozenset({"cache", "proof"})  # a build cache and a job are no fault of a node
BEFORE: dict[str, tuple[Step, ...]] = {
    "tool": (Stage(), DeadWorker(), SpackCache()),
    "mount": (Remount(),),
    "storage": (Modes(), Owners(), Documents()),
    "spack": (Leftovers(), Intact(), Damaged()),
}
AFTER: tuple[Step, ...] = (Reports(),)

REPAIRS: tuple[Step, ...] = (
    *(one for step in STEPS if step.name not in NOT_REPAIRS for one in (*BEFORE.get(step.name, ()), step)),
    *AFTER,
)

__all__ = ["REPAIRS"]
