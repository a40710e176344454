"""Asks one node every check, in the order of causes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from ..core.deadlines import PROBE
from ..core.errors import PetalError, from_error
from ..core.model import Finding, NodeReport, Severity, StepReport, refused
from ..host.times import timestamp
from ..state.context import Context, Observed
from ..state.release import current_release
from ..steps.base import Check, Step
from ..steps.root import WAY_TO_STORAGE


def check_node(ctx: Context, checks: Sequence[Check], reports: Sequence[StepReport] = ()) -> NodeReport:
    """The findings of all checks that apply to this node.

    A check is left out if a check that it comes after has failed: it would fail for the same cause. A check that
    raises or does not finish in time is a finding too.

    Args:
        reports: the steps of this run; probes that it has made are not repeated.
    """
    ctx = replace(ctx, observed=Observed())
    probed = {report.name: report for report in reports if not report.was_left_out}
    findings: list[Finding] = []
    for check in checks:
        if ctx.role in check.roles and not failed_checks(findings) & {earlier.name for earlier in check.after}:
            try:
                if isinstance(check, Step) and check.name in probed:
                    findings += check.findings_of(probed[check.name], ctx)
                else:
                    findings += check.findings(ctx)
            except (PetalError, OSError) as trouble:
                findings.append(replace(refused(from_error(trouble, ctx.paths.shared_mount)), check=check.name))
    release = None
    if ctx.observed.release is not None:
        release = ctx.observed.release.id
    elif reaches_storage(findings):
        release = ctx.system.try_storage(lambda: current_release(ctx.paths), ctx.paths.root, PROBE)
    return NodeReport(ctx.facts.host.name, ctx.role.value, timestamp(), release, tuple(findings))


def failed_checks(findings: Iterable[Finding]) -> set[str]:
    """The names of the checks that failed."""
    return {finding.check for finding in findings if finding.severity is Severity.FAIL}


def reaches_storage(findings: Iterable[Finding]) -> bool:
    """True if no finding keeps this node from the files on shared storage."""
    return not failed_checks(findings) & {check.name for check in WAY_TO_STORAGE}
