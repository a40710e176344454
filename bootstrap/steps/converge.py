"""The node comes to what the cluster wants after a reboot too: custom actions do not run again then.

A service at boot runs ``petal-node converge``; a timer repeats it until the node is ready and is stopped then, since
HPC nodes want no jitter. The service is ``simple``: boot never waits for it (systemd.service(5)).
"""

from __future__ import annotations

from pathlib import Path

from ..core.model import Probe, Scope, change, elsewhere, satisfied
from ..host.atomic import write_atomic
from ..host.files import make_dir, same_content
from ..state.context import Context
from .base import EVERYWHERE
from .converge_timer import SERVICE, TIMER

WANTS = "multi-user.target.wants"
SERVICE_TEXT = """\
[Unit]
Description=petal-node: what this cluster should have
Wants=network-online.target
After=network-online.target remote-fs.target
StartLimitIntervalSec=1h
StartLimitBurst=200
ConditionPathExists=/usr/local/bin/petal-node

[Service]
Type=simple
EnvironmentFile=-/var/lib/petal-node/environment
ExecStart=/usr/local/bin/petal-node converge --quiet
Nice=5
TimeoutStopSec=10s
OOMPolicy=continue
Restart=on-abnormal
RestartSec=2s

[Install]
WantedBy=multi-user.target
"""
TIMER_TEXT = """\
[Unit]
Description=petal-node: again, until this node is ready

[Timer]
OnActiveSec=10s
OnUnitInactiveSec=30s
AccuracySec=1s
"""


class Converge:
    """The units of the convergence after boot."""

    name = "converge"
    title = "a reboot ends ready too"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("tool",)
    local = True
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.paths.live or not ctx.system.has_systemd():
            return elsewhere("no systemd runs here")
        stale = [str(path) for path, text in _files(ctx).items() if not same_content(path, text.encode())]
        if stale:
            return change(f"{len(stale)} units are missing or differ", *(f"write {path}" for path in stale))
        if not (ctx.paths.units / WANTS / SERVICE).is_symlink():
            return change(f"{SERVICE} is not enabled", f"enable {SERVICE}")
        return satisfied(f"{SERVICE} runs at boot")

    def apply(self, ctx: Context) -> None:
        for path, text in _files(ctx).items():
            make_dir(path.parent)
            write_atomic(path, text.encode())
        ctx.system.run(["systemctl", "daemon-reload"], timeout=60)
        ctx.system.run(["systemctl", "--quiet", "enable", SERVICE], timeout=60)


def _files(ctx: Context) -> dict[Path, str]:
    return {ctx.paths.units / SERVICE: SERVICE_TEXT, ctx.paths.units / TIMER: TIMER_TEXT}
