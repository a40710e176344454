"""Slurm and munge, as this node reaches them."""

from __future__ import annotations

import os
from collections.abc import Iterator

from ..cluster.slurm import ping
from ..core.errors import PetalError, ProcessTimeout
from ..core.model import Finding, Role
from ..host import systemd
from ..state.context import Context
from ..steps.base import Check

UNITS = {Role.HEAD: "slurmctld", Role.COMPUTE: "slurmd"}
DOWN = ("inactive", "failed")
SILENT, ON_HEAD = "slurmctld does not answer", "systemctl status slurmctld    # on the head node"
# munge(7): the node's own munged encodes and decodes a credential. The command contains no external input.
ROUND_TRIP = "set -o pipefail; munge -n | unmunge -n"


class Munge(Check):
    """Whether munged encodes and decodes a credential; without it no command of Slurm works on this node."""

    name = "munge"
    seconds = 10

    def findings(self, ctx: Context) -> Iterator[Finding]:
        if not ctx.paths.live or not (ctx.system.which("munge") and ctx.system.which("unmunge")):
            return
        done = ctx.system.run(["bash", "-c", ROUND_TRIP], timeout=self.seconds, ok=None)
        if done.returncode == 0:
            yield self.ok("munged encodes and decodes a credential")
            return
        yield self.fail("munged does not answer", done.tail(2), "systemctl restart munge", "journalctl -u munge -n 20")


class Slurm(Check):
    """Whether Slurm's daemon of this node runs, and slurmctld answers.

    On a compute node slurmctld is asked in a job only. A hook may run before the daemons start, so it has no
    finding about them.
    """

    name = "slurm"
    seconds = 20
    after = (Munge,)

    def findings(self, ctx: Context) -> Iterator[Finding]:
        share = self.seconds / 2  # two commands may hang
        unit = UNITS.get(ctx.role)
        if unit and ctx.paths.live and not ctx.options.event and not _in_job() and ctx.system.has_systemd():
            state = systemd.state(unit, ctx.system, timeout=share)
            if state in DOWN:
                remedy = (f"systemctl restart {unit}", f"journalctl -u {unit} -n 20")
                yield self.fail(f"{unit} does not run on this node", f"systemctl shows it as {state}", *remedy)
                return
        if not _in_job() and (not ctx.paths.live or ctx.role is Role.COMPUTE):
            return
        try:
            done = ping(ctx.system, share)
        except ProcessTimeout as error:
            yield self.fail(SILENT, str(error), ON_HEAD)
            return
        except PetalError as error:
            yield self.warn("Slurm's commands are missing on this node", str(error))
            return
        if done.returncode == 0 and "UP" in done.stdout:
            yield self.ok("slurmctld answers")
            return
        yield self.fail(SILENT, done.tail(2), ON_HEAD)


def _in_job() -> bool:
    """True if slurmd has started this process, so slurmd runs on this node, whatever the state of its unit."""
    return "SLURM_JOB_ID" in os.environ
