"""The service and the timer that converge this node after a reboot, because custom actions do not run again then.

The service runs ``petal-node converge`` at boot; the timer repeats it until the node is ready, and then stops, because
HPC nodes must not have background jitter. The service is ``simple``: boot does not wait for it (systemd.service(5)).
"""

from __future__ import annotations

from ..core.model import Finding, change, elsewhere, satisfied
from ..host import systemd
from ..state.context import Context
from .base import Step
from .converge_timer import SERVICE, TIMER
from .self_install import SelfInstall


class BootService(Step):
    """The units of the convergence after boot."""

    name = "boot-service"
    title = "a reboot ends ready too"
    needs = (SelfInstall,)
    local = True

    def probe(self, ctx: Context) -> Finding:
        if not ctx.paths.live or not ctx.system.has_systemd():
            return elsewhere("systemd does not run here")
        stale = [unit.name for unit in (SERVICE, TIMER) if unit.needs_write(ctx.paths.units)]
        if stale:
            reason = f"{len(stale)} units are missing or differ"
            return change(reason, *(f"write {ctx.paths.units / name}" for name in stale))
        if not SERVICE.is_enabled(ctx.paths.units):
            return change(f"{SERVICE.name} is not enabled", f"enable {SERVICE.name}")
        return satisfied(f"{SERVICE.name} runs at boot")

    def apply(self, ctx: Context) -> None:
        systemd.install([SERVICE, TIMER], ctx.paths.units, ctx.system)
