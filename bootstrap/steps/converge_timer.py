"""The units that repeat the convergence. The timer runs only while the node is not ready."""

from __future__ import annotations

from ..core.errors import PetalError
from ..core.model import RunRecord, Severity
from ..core.paths import Paths
from ..host import systemd
from ..host.log import LOG
from ..host.system import System
from ..host.systemd import Unit

SERVICE = Unit(
    "petal-node-converge.service",
    "\n".join(
        (
            "[Unit]",
            "Description=petal-node: converge this node",
            "Wants=network-online.target",
            "After=network-online.target remote-fs.target",
            "StartLimitIntervalSec=1h",
            "StartLimitBurst=200",
            "ConditionPathExists=/usr/local/bin/petal-node",
            "",
            "[Service]",
            "Type=simple",
            f"EnvironmentFile=-{systemd.ENVIRONMENT}",
            "ExecStart=/usr/local/bin/petal-node converge --quiet",
            "Nice=5",
            *systemd.SERVICE,
            *systemd.NEWER,
            "",
            "[Install]",
            "WantedBy=multi-user.target",
            "",
        )
    ),
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


def is_ready(record: RunRecord) -> bool:
    """True if every step of this node holds. A missing or failed proof is no reason to repeat the other steps."""
    others = [step for step in record.steps if not step.background]
    failed = any(finding.severity is Severity.FAIL for finding in record.findings)
    return bool(others) and all(step.outcome.holds for step in others) and not failed and not record.errors


def arrange(record: RunRecord, paths: Paths, system: System) -> None:
    """Stops the timer if the run ended ready, starts it if not; a failure of systemd is only logged."""
    if not paths.live or not system.has_systemd() or not (paths.units / TIMER.name).is_file():
        return
    try:
        systemd.request("stop" if is_ready(record) else "start", TIMER.name, system)
    except PetalError as error:
        LOG.warning("the timer: %s", error)
