"""The timer that repeats the convergence: it runs while a node is not ready, and never on one that is."""

from __future__ import annotations

from ..core.errors import PetalError
from ..core.model import Mark, RunRecord
from ..core.paths import Paths
from ..host.log import LOG
from ..host.system import System

SERVICE = "petal-node-converge.service"
TIMER = "petal-node-converge.timer"


def is_ready(record: RunRecord) -> bool:
    """What this node itself can do is done. A proof that failed or is to come is no reason to repeat it all."""
    others = [step for step in record.steps if step.name != "proof"]
    failed = any(finding.mark is Mark.FAIL for finding in record.findings)
    return bool(others) and all(step.outcome.holds for step in others) and not failed and not record.errors


def arrange(record: RunRecord, paths: Paths, system: System) -> None:
    """Stops the timer where the run ended ready, and starts it where it did not.

    A timer that cannot be set costs the repetition, never the run.
    """
    if not paths.live or not system.has_systemd() or not (paths.units / TIMER).is_file():
        return
    verb = "stop" if is_ready(record) else "start"
    try:
        system.run(["systemctl", "--no-block", verb, TIMER], timeout=30)
    except PetalError as error:
        LOG.warning("the timer: %s", error)
