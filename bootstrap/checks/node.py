"""Every check of a node, in the order of causes, and the report of them.

If a step maintains something, its probe is the check, so that ``check``, ``bootstrap`` and ``repair`` cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from ..core.errors import DeadlineExceeded, PetalError
from ..core.model import Finding, Mark, NodeReport, Verdict
from ..host.system import timestamp
from ..lmod.find import find_lmod
from ..repair.registry import REPAIRS
from ..state.context import Context
from ..state.release import current_release
from ..steps.base import Step
from ..steps.registry import CARRIED
from . import daemons, release, storage
from .base import HEAD, TOUCH_SECONDS, WAY_TO_STORAGE, Check
from .use import use

MOUNTED = ("hidden-mounts", "mount", "storage")
USABLE = (*WAY_TO_STORAGE, "release")


def _kept(name: str, after: tuple[str, ...] = (), seconds: float = 3 * TOUCH_SECONDS, worst: Mark = Mark.FAIL) -> Check:
    """The probe of a step as a check. A fault that does not keep users from working is a warning."""
    (step,) = (step for step in REPAIRS if step.name == name)
    return Check(name, seconds, partial(_probed, step, worst), step.roles, after)


def _probed(step: Step, worst: Mark, ctx: Context, seconds: float) -> Iterator[Finding]:
    if step.name in CARRIED and not ctx.config.bound:
        return  # the machine image carries it, and a node does not change it
    late = DeadlineExceeded(f"the check {step.name} did not finish within {seconds:.0f} s")
    probe = ctx.system.with_deadline(lambda: step.probe(ctx), seconds, late)
    if probe.verdict is not Verdict.ELSEWHERE:
        remedy = probe.remedy or (("petal-node repair",) if probe.verdict is Verdict.CHANGE else ())
        mark = Mark.OK if probe.verdict is Verdict.SATISFIED else worst
        yield Finding(step.name, mark, probe.reason, remedy=remedy)


def _lmod(ctx: Context, seconds: float) -> Iterator[Finding]:
    """A warning if the node has an Lmod that works, although the release carries a newer one."""
    (step,) = (step for step in REPAIRS if step.name == "lmod")
    lmod = find_lmod(ctx)
    yield from _probed(step, Mark.FAIL if lmod is None or lmod.problem else Mark.WARN, ctx, seconds)


CHECKS: tuple[Check, ...] = (
    Check("munge", 10, daemons.munge),
    Check("slurm", 20, daemons.slurm, after=("munge",)),
    _kept("tool", worst=Mark.WARN),
    _kept("converge"),
    _kept("killed-run", worst=Mark.WARN),
    _kept("build-stage", worst=Mark.WARN),
    _kept("hidden-mounts"),
    _kept("mount", after=("hidden-mounts",)),
    _kept("permissions", after=("hidden-mounts", "mount"), seconds=120),
    _kept("ownership", after=("hidden-mounts", "mount"), seconds=120),
    _kept("documents", after=("hidden-mounts", "mount", "permissions", "ownership")),
    _kept("storage", after=("hidden-mounts", "mount")),
    Check("options", TOUCH_SECONDS, storage.options, after=MOUNTED),
    Check("disk", TOUCH_SECONDS, storage.disk, after=MOUNTED),
    _kept("root", after=MOUNTED),
    Check("lmod", 20, _lmod),
    _kept("shell"),
    Check("opt-spack", TOUCH_SECONDS, storage.opt_spack),
    Check("release", TOUCH_SECONDS, release.release, after=WAY_TO_STORAGE),
    Check("store", 30, release.store, HEAD, after=WAY_TO_STORAGE),
    _kept("wanted", after=WAY_TO_STORAGE),
    _kept("packages", after=WAY_TO_STORAGE, seconds=30),
    _kept("spack", after=WAY_TO_STORAGE, seconds=30),
    _kept("partial-installs", after=WAY_TO_STORAGE, seconds=300, worst=Mark.WARN),
    _kept("package-files-missing", after=WAY_TO_STORAGE, seconds=300),
    _kept("package-files-changed", after=WAY_TO_STORAGE, seconds=300),
    Check("cpu", TOUCH_SECONDS, release.cpu, after=USABLE),
    Check("modules", 120, use, after=USABLE, others=("load", "libraries", "run")),
)


def check_node(ctx: Context) -> NodeReport:
    """Every check of this node; the first failure is the cause of those after it."""
    findings: list[Finding] = []
    for check in CHECKS:
        if ctx.role in check.roles and not failed(findings) & set(check.after):
            findings += check.findings(ctx)
    release = _current(ctx) if reaches_storage(findings) else None
    return NodeReport(ctx.facts.host.name, ctx.role.value, timestamp(), release, tuple(findings))


def _current(ctx: Context) -> str | None:
    """The release that shells get; None also if shared storage began to hang after its check."""
    try:
        return ctx.system.on_storage(lambda: current_release(ctx.paths), ctx.paths.root, TOUCH_SECONDS)
    except (PetalError, OSError):
        return None


def failed(findings: Iterable[Finding]) -> set[str]:
    """The names of the checks that failed."""
    return {finding.check for finding in findings if finding.mark is Mark.FAIL}


def reaches_storage(findings: Iterable[Finding]) -> bool:
    """True if no finding keeps this node from reading shared storage."""
    return not failed(findings) & set(WAY_TO_STORAGE)
