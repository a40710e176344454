"""``bootstrap``: makes this node what the configuration says. ``plan``: the same probes, and nothing else."""

from __future__ import annotations

from dataclasses import replace

from ..core.errors import ExitCode, UsageError
from ..core.model import Result, Status, plain
from ..engine import converge as engine
from ..engine.prepare import prepare
from ..engine.run import exit_of, run
from ..state.request import BOOT
from ..steps.registry import STEPS
from .common import Asked, require_root, result_of_run


def bootstrap(asked: Asked, lock_wait: float, *, accept_storage: bool, image: str | None) -> Result:
    """Converges this node in the foreground. With ``image``, a layout, it becomes a machine image for that."""
    require_root(asked)
    waits = engine.Waits(node=min(120.0, lock_wait), cluster=lock_wait)
    request = replace(asked.request(), accept_storage=accept_storage, image=image)
    record = run(request, asked.system, asked.command, asked.listen, asked.note, waits, background=False)
    return result_of_run(asked.command, record)


def converge(asked: Asked) -> Result:
    """What the service at boot runs: this node becomes what the cluster wants; the timer tries again if it cannot.

    Raises:
        UsageError: with ``--config``, which would not count.
    """
    require_root(asked)
    if asked.config is not None:
        why, remedy = "it makes this node what the cluster wants", f"petal-node bootstrap --config {asked.config}"
        raise UsageError("converge takes no --config", why=why, remedy=remedy)
    record = run(asked.request(BOOT), asked.system, asked.command, asked.listen, asked.note)
    return result_of_run(asked.command, record)


def plan(asked: Asked, *, exit_code: bool) -> Result:
    """What ``bootstrap`` would do now. With ``exit_code`` pending changes end with 3."""
    ctx = prepare(asked.request(), asked.system, asked.note)
    steps = engine.plan(STEPS, ctx)
    status = engine.status_of(steps)
    pending = status is Status.CHANGED
    data = {
        "node": ctx.facts.host.name,
        "role": ctx.role.value,
        "release": ctx.release,
        "layout": ctx.config.layout,
        "config": ctx.config.to_dict(),
        "steps": [plain(step) for step in steps],
    }
    code = 3 if exit_code and pending else None
    wrong = exit_of(steps, status) == ExitCode.CONFIG
    return Result("plan", "plan", status, data, run_id=asked.run_id, exit=int(ExitCode.CONFIG) if wrong else code)
