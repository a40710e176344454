"""The services without which no job runs on this node: munged, and Slurm's own."""

from __future__ import annotations

from ..core.model import Probe, Role, Scope, change, elsewhere, satisfied
from ..state.context import Context
from ..steps.base import EVERYWHERE

UNITS = {
    Role.HEAD: ("munge.service", "slurmctld.service"),
    Role.COMPUTE: ("munge.service", "slurmd.service"),
    Role.LOGIN: ("munge.service",),
}
DOWN = ("inactive", "failed")
SECONDS = 60.0


class Services:
    """What systemd has of them runs."""

    name = "services"
    title = "munged and Slurm run"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ()
    local = False
    background = False

    def probe(self, ctx: Context) -> Probe:
        if not ctx.paths.live or not ctx.system.has_systemd():
            return elsewhere("no systemd runs here")
        down = _down(ctx)
        if down:
            return change(f"{', '.join(down)} {'does' if len(down) == 1 else 'do'} not run", f"start {', '.join(down)}")
        return satisfied("munged and Slurm run, as far as systemd has them")

    def apply(self, ctx: Context) -> None:
        for unit in _down(ctx):
            ctx.system.run(["systemctl", "restart", unit], timeout=SECONDS)


def _down(ctx: Context) -> list[str]:
    """Units that are installed and do not run, in the order in which they need each other."""
    return [unit for unit in UNITS[ctx.role] if _state(ctx, unit) in DOWN]


def _state(ctx: Context, unit: str) -> str:
    """``active``, ``inactive`` and so on (systemctl(1)); empty for a unit that is not there."""
    shown = ctx.system.run(["systemctl", "show", "--property=LoadState,ActiveState", unit], timeout=SECONDS).stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return values.get("ActiveState", "") if values.get("LoadState") == "loaded" else ""
