"""The timer that repeats the convergence: it runs while a node is not ready, and never on one that is."""

from __future__ import annotations

from .errors import PetalError
from .log import LOG
from .model import RunRecord, Status
from .paths import Paths
from .system import System

SERVICE = "petal-node-converge.service"
TIMER = "petal-node-converge.timer"
READY = (Status.OK, Status.CHANGED)


def arrange(record: RunRecord, paths: Paths, system: System) -> None:
    """Stops the timer where the run ended ready, and starts it where it did not.

    A timer that cannot be set costs the repetition, never the run.
    """
    if not paths.live or not system.has_systemd() or not (paths.units / TIMER).is_file():
        return
    verb = "stop" if record.status in READY else "start"
    try:
        system.run(["systemctl", "--no-block", verb, TIMER], timeout=30)
    except PetalError as error:
        LOG.warning("the timer: %s", error)
