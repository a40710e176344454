"""The base classes of checks and steps: data about where each belongs, and the functions that probe and change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import Enum
from typing import ClassVar

from ..core.deadlines import PROBE
from ..core.errors import DeadlineExceeded, PetalError, from_error
from ..core.model import Finding, Outcome, Role, Scope, Severity, StepReport, refused
from ..core.options import IMAGES
from ..state.context import Context

# Returns an input in a few words, or an empty string; raises PetalError or OSError if it cannot be used. It runs in a
# thread, and may hang.
Question = Callable[[], str]


class Run(Enum):
    """The runs that select checks and steps: a verb on a node, or the build of an image for a layout."""

    BOOTSTRAP = "bootstrap"
    REPAIR = "repair"
    CHECK = "check"
    HYBRID_IMAGE = "hybrid"
    AMI_IMAGE = "ami"


EVERYWHERE = frozenset(Role)
HEAD = frozenset({Role.HEAD})
ON_NODES = frozenset({Run.BOOTSTRAP, Run.REPAIR, Run.CHECK})
IMAGE_BUILDS = frozenset(Run(layout) for layout in IMAGES)


class Check(ABC):
    """One question about a node. A check leaves nothing changed.

    Attributes:
        name: the name of its findings, or their beginning (``load`` for ``load:gcc``).
        roles: the nodes that it applies to.
        part_of: the runs that select it.
        after: if one of these failed, this check is left out, because it would fail for the same cause.
        seconds: the deadline of the whole check; None if all its accesses to storage have deadlines, and it has a
            result even if one of them times out. An inner deadline would end the child of an outer one.
        more_names: names of further findings of the same check.
    """

    name: ClassVar[str]
    roles: ClassVar[frozenset[Role]] = EVERYWHERE
    part_of: ClassVar[frozenset[Run]] = frozenset({Run.CHECK})
    after: ClassVar[tuple[type[Check], ...]] = ()
    seconds: ClassVar[float | None] = 3 * PROBE
    more_names: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def findings(self, ctx: Context) -> Iterable[Finding]:
        """The answers; none if the question does not apply to this node.

        Raises:
            PetalError, OSError: the caller turns it into a finding.
        """

    def ok(self, message: str) -> Finding:
        """Nothing is wrong."""
        return Finding(self.name, Severity.OK, message)

    def warn(self, message: str, why: str, *remedy: str) -> Finding:
        """Users can work, and an administrator should look at it."""
        return Finding(self.name, Severity.WARN, message, why, remedy)

    def fail(self, message: str, why: str, *remedy: str) -> Finding:
        """Users cannot use the software, or soon will not."""
        return Finding(self.name, Severity.FAIL, message, why, remedy)


class Step(Check):
    """One thing that must hold on a node or in the cluster. As a check, it is its probe.

    Attributes:
        scope: steps of the cluster are applied under the cluster lock only.
        needs: steps that must hold before this one is applied.
        in_image: in the layout ``ami`` the machine image contains the result, and nodes do not change it.
        local: it holds without shared storage, so it is also applied at OnNodeStart and without a configuration.
        background: a hook returns before it has ended, and its failure leaves the node ready.
        claims_storage: it makes this cluster the owner of shared storage; all other cluster steps come after it.
        severity: the mark of its finding as a check, if it does not hold.
    """

    scope: ClassVar[Scope] = Scope.NODE
    needs: ClassVar[tuple[type[Step], ...]] = ()
    part_of: ClassVar[frozenset[Run]] = ON_NODES
    in_image: ClassVar[bool] = False
    local: ClassVar[bool] = False
    background: ClassVar[bool] = False
    claims_storage: ClassVar[bool] = False
    severity: ClassVar[Severity] = Severity.FAIL

    @abstractmethod
    def probe(self, ctx: Context) -> Finding:
        """Whether it holds. Reads only.

        Raises:
            PetalError, OSError: it does not hold, or that cannot be found out now: the step is blocked.
        """

    def probe_or_error(self, ctx: Context) -> Finding:
        """Its probe; an error of the probe is a finding too."""
        try:
            return self.probe(ctx)
        except (PetalError, OSError) as error:
            return refused(from_error(error, ctx.paths.shared_mount))

    def inputs(self, ctx: Context) -> Mapping[str, Question]:  # noqa: ARG002
        """What the apply reads, by the key of the configuration. Asked by a plan, if the step is not satisfied.

        Raises:
            PetalError, OSError: that is not known; nothing is asked.
        """
        return {}

    @abstractmethod
    def apply(self, ctx: Context) -> None:
        """Makes it hold. It can be run again after a kill at any moment.

        Raises:
            PetalError: it could not; no half-made result is visible.
        """

    def lets_hook_return(self, ctx: Context) -> bool:  # noqa: ARG002
        """True if a hook does not wait for the end of its apply."""
        return self.background

    def on_held(self, ctx: Context) -> None:
        """Called at the end of its turn in a run if it holds."""

    def severity_on(self, ctx: Context) -> Severity:  # noqa: ARG002
        """The mark of its finding as a check on this node, if it does not hold."""
        return self.severity

    def findings(self, ctx: Context) -> Iterable[Finding]:
        """Its probe as a finding of a check, with a deadline."""
        if self.in_image and not ctx.config.root_is_shared:
            return ()
        if self.seconds is None:
            return self._as_check(self.probe_or_error(ctx), ctx)
        late = DeadlineExceeded(f"the check {self.name} did not finish within {self.seconds:.0f} s")
        return self._as_check(ctx.system.with_deadline(lambda: self.probe_or_error(ctx), self.seconds, late), ctx)

    def findings_of(self, report: StepReport, ctx: Context) -> Iterable[Finding]:
        """The findings of a probe that this run has made already."""
        if report.outcome is Outcome.SKIPPED:
            return ()
        mark = Severity.OK if report.outcome.holds else Severity.FAIL
        code = str((report.error or {}).get("code", ""))
        finding = Finding(self.name, mark, report.reason, remedy=report.remedy, changes=report.changes, code=code)
        return self._as_check(finding, ctx)

    def _as_check(self, finding: Finding, ctx: Context) -> Iterable[Finding]:
        if finding.skipped:
            return ()
        remedy = finding.remedy or (("petal-node repair",) if finding.pending else ())
        mark = self.severity_on(ctx) if finding.severity is Severity.FAIL else finding.severity
        return (replace(finding, check=self.name, severity=mark, remedy=remedy),)


class ClusterStep(Step):
    """A step that changes files of the cluster: the head node does it, under the cluster lock."""

    roles = HEAD
    scope = Scope.CLUSTER
