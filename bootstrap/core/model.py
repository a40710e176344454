"""The nouns of petal-node as frozen dataclasses. This module uses the standard library only and does no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from .decode import ErrorDict, Name, storable
from .errors import ConfigError, ExitCode, PetalError
from .text import at_most


class Role(str, Enum):
    """The type of a node (ParallelCluster: HeadNode, ComputeFleet, LoginNode)."""

    HEAD = "head"
    COMPUTE = "compute"
    LOGIN = "login"


class Scope(str, Enum):
    """Whether a step changes this node, or files of the cluster; the latter needs the cluster lock."""

    NODE = "node"
    CLUSTER = "cluster"


class Outcome(str, Enum):
    """The result of a step in a run."""

    OK = "ok"
    CHANGED = "changed"
    WOULD_CHANGE = "would-change"
    SKIPPED = "skipped"
    BLOCKED = "blocked"
    FAILED = "failed"
    RUNNING = "running"
    WAITING = "waiting"

    @property
    def is_running(self) -> bool:
        """True until the step has ended."""
        return self in (Outcome.RUNNING, Outcome.WAITING)

    @property
    def holds(self) -> bool:
        """True if the steps that need this one can run."""
        return self in (Outcome.OK, Outcome.CHANGED, Outcome.SKIPPED)


@dataclass(frozen=True)
class StepReport:
    """One step of a plan or a run."""

    name: str
    outcome: Outcome
    reason: str
    changes: tuple[str, ...] = ()
    remedy: tuple[str, ...] = ()
    seconds: float = 0.0
    error: ErrorDict | None = None
    exit: int = 0
    background: bool = False

    @property
    def was_left_out(self) -> bool:
        """True if a step that this one needs does not hold: it was not probed, and the other step has the remedy."""
        return self.outcome is Outcome.BLOCKED and not self.remedy and self.error is None

    @property
    def headline(self) -> str:
        """The first line of the reason."""
        return self.reason.partition("\n")[0]


class Status(str, Enum):
    """The status of a run, a check or a command."""

    OK = "ok"
    CHANGED = "changed"
    RUNNING = "running"
    DEGRADED = "degraded"
    FAILED = "failed"

    @property
    def exit(self) -> ExitCode:
        codes = {Status.DEGRADED: ExitCode.DEGRADED, Status.FAILED: ExitCode.FAILED}
        return codes.get(self, ExitCode.OK)


class Mode(str, Enum):
    """The target of a run: a node of a cluster, a machine image during its build, or a tree under ``--root``."""

    NODE = "node"
    IMAGE = "image"
    TREE = "tree"


class Severity(str, Enum):
    """The severity of a finding. ``SKIP``: the check does not apply to this node."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Finding:
    """The answer of one check, or of a step's probe.

    Args:
        check: the name of the check or step; a detail follows after a colon (``load:gcc``).
        severity: ``fail`` makes the run or the check degraded.
        message: the observation.
        why: the cause, or an empty string if it is unknown.
        remedy: lines to run or follow, commands first.
        changes: the changes that an apply of the step would make; a finding with changes can be repaired.
        code: the stable code of an error, or an empty string.
        exit: the exit code of that error, 0 without one.
        problems: every mistake of a configuration, as the fields of ``Problem``.
    """

    check: str
    severity: Severity
    message: str
    why: str = ""
    remedy: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    code: str = ""
    exit: int = 0
    problems: tuple[Mapping[str, str], ...] = field(default=(), hash=False)

    @property
    def holds(self) -> bool:
        """True if nothing has to change; also for a deviation that the configuration accepts."""
        return self.severity in (Severity.OK, Severity.WARN) and not self.changes

    @property
    def pending(self) -> bool:
        """True if an apply would change something."""
        return bool(self.changes)

    @property
    def blocked(self) -> bool:
        """True if something is wrong that an apply cannot correct."""
        return self.severity is Severity.FAIL and not self.changes

    @property
    def skipped(self) -> bool:
        """True if the step does not apply to this node, event or configuration."""
        return self.severity is Severity.SKIP

    @property
    def reason(self) -> str:
        """The message and its cause in one line."""
        return f"{self.message}: {self.why}" if self.why else self.message

    @property
    def error(self) -> dict[str, Any] | None:
        """The finding as an error of a record; None without an error code."""
        if not self.code:
            return None
        error: dict[str, Any] = {"code": self.code, "what": self.message, "why": self.why, "remedy": list(self.remedy)}
        if self.problems:
            error["problems"] = list(self.problems)
        return error

    @property
    def topic(self) -> str:
        """The section of docs/checks.md about this check."""
        return self.check.split(":", 1)[0].replace(".", "-")


# The answers of a step's probe; the engine and the checks fill in the step's name.


def satisfied(reason: str) -> Finding:
    """Nothing has to change."""
    return Finding("", Severity.OK, reason)


def accepted(reason: str, error: PetalError) -> Finding:
    """Something is wrong that the configuration accepts: the run ends degraded."""
    return Finding("", Severity.WARN, reason, remedy=error.remedy, code=error.code, exit=int(error.exit))


def change(reason: str, first: str, *more: str) -> Finding:
    """An apply would make these changes."""
    return Finding("", Severity.FAIL, reason, changes=(first, *more))


def blocked(reason: str, *remedy: str) -> Finding:
    """Something is wrong that an apply cannot correct."""
    return Finding("", Severity.FAIL, reason, remedy=remedy)


def refused(error: PetalError) -> Finding:
    """Blocked by an error with a code."""
    problems = tuple(problem._asdict() for problem in error.problems) if isinstance(error, ConfigError) else ()
    found = Finding("", Severity.FAIL, error.what, error.why, error.remedy, problems=problems)
    return replace(found, code=error.code, exit=int(error.exit))


def elsewhere(reason: str) -> Finding:
    """The step does not apply to this node, event or configuration."""
    return Finding("", Severity.SKIP, reason)


@dataclass(frozen=True)
class RunRecord:
    """The record of one run of a verb on one node.

    Times are UTC in ISO 8601 with a trailing ``Z``; ``finished`` is None until the run has ended. A hook waits for
    ``budget`` seconds, or until ``hook_may_return``. ``process_start`` is in seconds since the boot.
    """

    run_id: Name
    verb: str
    event: str
    role: str | None
    host: str
    package: str | None
    pid: int
    boot_id: str
    started: str
    finished: str | None = None
    status: Status = Status.RUNNING
    exit: int | None = None
    release: str | None = None
    steps: tuple[StepReport, ...] = ()
    errors: tuple[ErrorDict, ...] = ()
    findings: tuple[Finding, ...] = ()
    budget: float | None = None
    hook_may_return: bool = False
    process_start: float | None = None

    @property
    def running_step(self) -> str | None:
        """The name of the step that runs or waits."""
        return next((step.name for step in self.steps if step.outcome.is_running), None)


@dataclass(frozen=True)
class NodeReport:
    """All findings of one node, written by that node."""

    node: str
    role: str
    time: str
    release: str | None
    findings: tuple[Finding, ...] = ()

    @property
    def passed(self) -> bool:
        """True if the node was checked and no check failed."""
        return self.was_checked and not any(finding.severity is Severity.FAIL for finding in self.findings)

    def headline(self, severity: Severity = Severity.FAIL) -> str:
        """The first finding of a severity, the cause of later ones, and the number of the others; else empty."""
        found = [f"{finding.check}: {finding.message}" for finding in self.findings if finding.severity is severity]
        return ", ".join(at_most(1, found))

    @property
    def was_checked(self) -> bool:
        """False if only the node's state in Slurm is known."""
        return any(finding.severity in (Severity.OK, Severity.FAIL) for finding in self.findings)


@dataclass(frozen=True)
class Tool:
    """The running petal-node: its version, and its archive (None in a checkout)."""

    version: str
    archive: Path | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class FleetReport:
    """The reports of several nodes; ``between`` has the findings of jobs that ran on two nodes together."""

    nodes: tuple[NodeReport, ...]
    between: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Plan:
    """The changes that the command in ``remedy`` would make on this node; ``config`` has all defaults."""

    node: str
    role: Role
    layout: str
    release: str | None
    config: Mapping[str, Any]
    steps: tuple[StepReport, ...]
    remedy: tuple[str, ...]


@dataclass(frozen=True)
class Lines:
    """Lines of output of a verb for programs."""

    lines: tuple[str, ...] = ()


T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True)
class Result(Generic[T_co]):
    """The result of a verb, printed as text or as the JSON envelope.

    Args:
        data: a dataclass, whose type chooses the text view; None if an error ended the verb.
        exit: the exit code, None for that of ``status``.
    """

    command: str
    status: Status
    data: T_co
    errors: tuple[ErrorDict, ...] = ()
    run_id: str | None = None
    exit: int | None = None

    @property
    def exit_code(self) -> int:
        return int(self.status.exit if self.exit is None else self.exit)


def failed(command: str, error: PetalError, run_id: str | None = None) -> Result[None]:
    """The result of a verb that failed with an expected error."""
    status = Status.DEGRADED if error.exit is ExitCode.DEGRADED else Status.FAILED
    return Result(command, status, None, (error.to_dict(),), run_id, int(error.exit))


def plain(value: Any) -> dict[str, Any]:
    """A dataclass as JSON values: enums as their values, paths as strings, tuples as lists."""
    return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return plain(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (str, Path)):
        return storable(str(value))
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
