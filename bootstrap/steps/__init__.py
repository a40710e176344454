"""One thing that must hold, one file: a probe (does it?) and an apply (make it so)."""

from __future__ import annotations

from .base import Step
from .converge import Converge
from .modules import ModuleTree
from .packages import Packages
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
    Storage(),
    Root(),
    WantedState(),
    Packages(),
    SpackStack(),
    ModuleTree(),
    Release(),
    Shell(),
    Proof(),
)

__all__ = ["STEPS", "Step"]
