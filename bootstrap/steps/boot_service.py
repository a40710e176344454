"""The service and the timer that converge this node after a reboot, because custom actions do not run again then.

The service runs ``petal-node converge`` at boot; the timer repeats it until the node is ready, and then stops, because
HPC nodes must not have background jitter. The longer a node is not ready, the longer the pause between two runs: a run
of the timer that is not due ends at once. Another time in the unit would need ``systemctl daemon-reload``, which looks
at all mounts, and blocks systemd while shared storage hangs. The service is ``simple``: boot does not wait for it
(systemd.service(5)).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import takewhile

from ..core.errors import PetalError
from ..core.model import Finding, RunRecord, Severity, change, elsewhere, satisfied
from ..core.paths import Paths
from ..host import systemd
from ..host.log import LOG
from ..host.system import System
from ..host.systemd import Unit
from ..host.times import seconds_of
from ..state.context import Context
from ..state.runs import KEEP_RUNS, Runs
from .base import Step
from .self_install import SelfInstall

PAUSES = (600, 300, 120, 60, 30)  # seconds between two runs
SHARE = 10  # a node that becomes ready late has lost at most this part of the time by waiting for its timer
RESTART = "\n".join((*systemd.SERVICE, *systemd.NEWER))
SERVICE = Unit(
    "petal-node-converge.service",
    f"""\
[Unit]
Description=petal-node: converge this node
Wants=network-online.target
After=network-online.target remote-fs.target
StartLimitIntervalSec=1h
StartLimitBurst=200
ConditionPathExists=/usr/local/bin/petal-node

[Service]
Type=simple
EnvironmentFile=-{systemd.ENVIRONMENT}
ExecStart=/usr/local/bin/petal-node converge --if-due --quiet
Nice=5
{RESTART}

[Install]
WantedBy=multi-user.target
""",
)
TIMER = Unit(
    "petal-node-converge.timer",
    """\
[Unit]
Description=petal-node: converge again until this node is ready

[Timer]
OnActiveSec=10s
OnUnitInactiveSec=30s
AccuracySec=1s
""",
)


class BootService(Step):
    """The service and its timer are written, and the service is enabled."""

    name = "boot-service"
    needs = (SelfInstall,)
    local = True

    def probe(self, ctx: Context) -> Finding:
        if not ctx.paths.live or not ctx.system.has_systemd():
            return elsewhere("systemd does not run on this machine")
        stale = [unit.name for unit in (SERVICE, TIMER) if unit.needs_write(ctx.paths.units)]
        if stale:
            reason = f"{len(stale)} units are missing or differ"
            return change(reason, *(f"write {ctx.paths.units / name}" for name in stale))
        if not SERVICE.is_enabled(ctx.paths.units):
            return change(f"{SERVICE.name} is not enabled", f"enable {SERVICE.name}")
        return satisfied(f"{SERVICE.name} runs at boot")

    def apply(self, ctx: Context) -> None:
        systemd.install([SERVICE, TIMER], ctx.paths.units, ctx.system)


def is_ready(record: RunRecord) -> bool:
    """True if every step of this node holds. A missing or failed proof does not repeat the other steps."""
    others = [step for step in record.steps if not step.background]
    failed = any(finding.severity is Severity.FAIL for finding in record.findings)
    return bool(others) and all(step.outcome.holds for step in others) and not failed and not record.errors


def arrange_timer(record: RunRecord, paths: Paths, system: System) -> None:
    """Stops the timer if the run ended ready, starts it if not; a failure of systemd is only logged.

    A run that waited for its proof may end after a newer run, which knows the node as it is now: both must be ready.
    """
    if not paths.live or not system.has_systemd() or not (paths.units / TIMER.name).is_file():
        return
    newest = Runs(paths).latest(1).records
    ready = all(map(is_ready, (record, *(run for run in newest if run.run_id != record.run_id))))
    try:
        systemd.request("stop" if ready else "start", TIMER.name, system)
    except (PetalError, OSError) as error:
        LOG.warning("the timer: %s", error)


def is_due(paths: Paths, boot_id: str) -> bool:
    """False if the last run of this boot did not end ready, and the pause after it is not over."""
    runs, now = Runs(paths).latest(KEEP_RUNS).records, time.time()
    if not runs or runs[0].boot_id != boot_id or is_ready(runs[0]):
        return True
    waited, pause = now - (seconds_of(runs[0].finished or runs[0].started) or 0.0), pause_after(runs, now)
    return pause == PAUSES[-1] or not 0 <= waited < pause - PAUSES[-1] / 2  # the timer itself waits 30 s


def pause_after(runs: Sequence[RunRecord], now: float) -> int:
    """How many seconds to wait after these runs, newest first: a tenth of the time of this boot without a ready one."""
    failed = takewhile(lambda run: run.boot_id == runs[0].boot_id and not is_ready(run), runs)
    waiting = [seconds_of(run.started) or now for run in failed]
    share = (now - min(waiting, default=now)) / SHARE
    return next((pause for pause in PAUSES if pause <= share), PAUSES[-1])
