"""``status``: the state of this node and its cluster. Works on every node, for every user, and while storage hangs."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from ..checks.release import CurrentRelease, read_release
from ..checks.storage import local_disks
from ..cluster import detect as facts
from ..core.deadlines import COMMAND, POLL, PROBE, SILENCE
from ..core.errors import PetalError, StateError, WaitTimeout, from_error
from ..core.facts import External, Facts
from ..core.model import Finding, NodeReport, Result, Role, RunRecord, Severity, Status, blocked
from ..core.options import Options
from ..core.paths import Paths
from ..engine.configuration import find_desired_state, mount_in
from ..host import systemd
from ..host.files import path_problem
from ..host.locks import Holder, holder_of
from ..host.times import timestamp
from ..spack.externals import find_externals
from ..state.context import Services
from ..state.desired import DesiredState, Proof, Token, is_foreign
from ..state.release import current_release
from ..state.runs import Runs, killed_words, mark_if_killed
from ..state.store import ClusterState, KnownStorage, Reports, untrusted_remedy
from ..steps.boot_service import TIMER
from ..steps.storage import read_only_error

T = TypeVar("T")


@dataclass(frozen=True)
class NodeStatus:
    """The answer of ``status``. Values from shared storage are None or empty if it cannot be read.

    Args:
        package: the version of this petal-node.
        runs: the newest runs of this node, newest first.
        current: the release that new shells get.
        install: the last run of the head node.
        problems: why the node is degraded, without the reasons that are in ``errors`` of the result.
        install_age: seconds since that record was written.
        holder: the process that has the cluster lock, while ``install`` runs.
        proof: the last proof, which may be of another release than the current one.
        proved: how many of ``checked`` compute nodes can use the current release; 0 of 0 without a proof of it.
        unread: how many reports of nodes could not be read, or not in time.
        storage: the token of shared storage with the cluster that owns it.
        externals: the software of the image that Spack can use; None without ``--verbose`` or ``--json``.
    """

    node: str
    role: Role | None
    now: str
    package: str
    desired: DesiredState | None
    runs: tuple[RunRecord, ...]
    facts: Facts
    current: str | None = None
    install: RunRecord | None = None
    install_age: float | None = None
    holder: Holder | None = None
    proof: Proof | None = None
    proved: int = 0
    checked: int = 0
    reports: tuple[NodeReport, ...] = ()
    unread: int = 0
    storage: Token | None = None
    problems: tuple[Finding, ...] = ()
    externals: tuple[External, ...] | None = None


def status(options: Options, services: Services) -> Result[NodeStatus]:
    """The state of this node and its cluster; with ``--wait`` once the node is ready or no run changes it any more."""
    result = _wait(options, services) if options.wait else read_status(options, services)
    if not (options.verbose or options.json):
        return result
    known, paths = result.data.facts, options.paths
    if known.cluster.role is Role.HEAD:
        known = facts.with_queues(known, paths)
    return replace(result, data=replace(result.data, facts=known, externals=find_externals(paths, services.system)))


def _wait(options: Options, services: Services) -> Result[NodeStatus]:
    """Polls until the deadline of ``--timeout``, after which the result exits 75."""
    deadline = time.monotonic() + options.timeout
    noted = ""
    while True:
        answer = read_status(options, services)
        activity = _activity(options.paths, services, answer.data)
        if answer.status is Status.OK or not activity:
            return answer
        if time.monotonic() >= deadline:
            what = f"the node is not ready after {options.timeout:.0f} s: {activity}"
            late = WaitTimeout(what, remedy="petal-node status")
            return replace(answer, errors=(*answer.errors, late.to_dict()), exit=int(late.exit))
        if activity != noted:
            services.note(f"waiting: {activity}")
            noted = activity
        time.sleep(min(POLL, max(0.0, deadline - time.monotonic())))


def _activity(paths: Paths, services: Services, data: NodeStatus) -> str:
    """The activity that may still make the node ready; empty if waiting is useless, because nothing is in progress."""
    install = data.install
    if not data.runs:
        return "no run has started on this node yet"
    if data.runs[0].status is Status.RUNNING:
        return f"run {data.runs[0].run_id} is running"
    if install and install.status is Status.RUNNING and (data.install_age or 0) < SILENCE:
        return f"{install.host} is installing (run {install.run_id})"
    timed = paths.live and services.system.has_systemd()
    if timed and systemd.state(TIMER.name, services.system, timeout=COMMAND) == "active":
        return "the node is not ready, and its timer will retry"
    return ""


def read_status(options: Options, services: Services) -> Result[NodeStatus]:
    """The state at this moment. Each part that cannot be read is an error of the result, never an exception."""
    known = facts.gather(options.paths, services.system, options.role)
    problems: dict[str, PetalError] = {}
    desired = find_desired_state(options.root, known, services.system, problems)
    errors = list(problems.values())
    is_lost = desired is None and not errors
    storage = KnownStorage.load(options.paths) if desired is None else None
    paths = Paths(options.root, storage.mount if storage else mount_in(desired))
    recorded, unreadable = Runs(paths).latest()
    errors += unreadable
    data = NodeStatus(
        node=known.host.name,
        role=known.cluster.role,
        now=timestamp(),
        package=services.tool.version,
        desired=desired,
        runs=tuple(mark_if_killed(run, known.host.boot_id) for run in recorded),
        facts=known,
    )
    try:
        data, unread = services.system.on_storage(lambda: _with_storage(data, paths), paths.shared, PROBE)
        errors += unread
    except (PetalError, OSError) as error:
        errors.append(from_error(error, paths.shared_mount))
    errors = list({str(error): error for error in errors}.values())
    is_running = not errors and bool(data.runs) and data.runs[0].status is Status.RUNNING
    lost = (_lost_desired_state(paths),) if is_lost and data.current is not None and data.role is not None else ()
    full = [blocked(str(disk), *disk.commands) for disk in local_disks(paths) if disk.is_full][:1]
    data = replace(data, problems=() if is_running else (*full, *_run_problems(data), *lost, *data.problems))
    state = Status.RUNNING if is_running else Status.DEGRADED if errors or data.problems else Status.OK
    return Result("status", state, data, tuple(error.to_dict() for error in errors), services.run_id)


def _with_storage(data: NodeStatus, paths: Paths) -> tuple[NodeStatus, list[PetalError]]:
    """Adds the values from shared storage, and returns an error for each that cannot be read.

    Records of another cluster are left out.
    """
    shared = ClusterState(paths)
    errors: list[PetalError] = []

    def read(action: Callable[[], T]) -> T | None:
        try:
            return action()
        except (PetalError, OSError) as error:
            errors.append(from_error(error, paths.shared_mount))
            return None

    problems = read(lambda: tuple(_release_problems(paths, data.desired))) or ()
    token = read(shared.token)
    insecure = read(lambda: path_problem(paths.shared_root / "releases", paths.shared_mount))
    if insecure is not None:
        what = f"{insecure}; no run uses {paths.shared_mount}"
        errors.append(StateError(what, remedy=untrusted_remedy(paths, insecure), code="untrusted"))
    if read(lambda: paths.shared.is_dir() and os.statvfs(paths.shared).f_flag & os.ST_RDONLY):
        errors.append(read_only_error(paths.shared_mount))
    data = replace(data, current=current_release(paths), storage=token, problems=problems)
    if token is not None and is_foreign(token.owner, data.facts.cluster):
        return data, errors
    install, proof = read(shared.install), read(shared.proof)
    if install is not None and install.host == data.node:  # a process of another node cannot be looked up
        install = mark_if_killed(install, data.facts.host.boot_id)
    reports = read(shared.reports) or Reports((), (), (), 0)
    valid = proof if proof is not None and proof.release == data.current else None
    is_installing = install is not None and install.status is Status.RUNNING
    data = replace(
        data,
        install=install,
        install_age=read(shared.install_age),
        holder=read(lambda: holder_of(paths.cluster_lock)) if is_installing else None,
        proof=proof,
        proved=valid.proved if valid else 0,
        checked=valid.checked if valid else 0,
        reports=reports.current,
        unread=reports.unread,
        problems=(*problems, *_proof_problems(valid)),
    )
    return data, errors


def _run_problems(data: NodeStatus) -> Iterator[Finding]:
    last = data.runs[0] if data.runs else None
    if last is None and data.role is not None:
        yield blocked("no run on this node yet", "petal-node bootstrap")
    if last is None and data.role is None:
        remedy = "petal-node bootstrap --role head    # or compute, or login"
        yield blocked("the role of this node is unknown, and no run has started on it", remedy)
    if last is not None and any(error["code"] == "run-killed" for error in last.errors):
        yield blocked(killed_words(last), "petal-node repair")
    elif last is not None and last.status in (Status.DEGRADED, Status.FAILED):
        yield blocked(f"the last run, {last.run_id}, is {last.status.value}", f"petal-node log --run {last.run_id}")


def _lost_desired_state(paths: Paths) -> Finding:
    why = f"{paths.state}/desired.json is missing, or {paths.shared_mount} is not the storage that this node has used"
    return replace(blocked("the desired state is unknown", "on the head node: petal-node repair"), why=why)


def _release_problems(paths: Paths, desired: DesiredState | None) -> Iterator[Finding]:
    """The finding of the check ``release``, whose own remedy can be ``status``. No release before the first install."""
    release = read_release(paths)
    finding = CurrentRelease().judge(release, desired.release if desired else None)
    if finding.severity is not Severity.OK and (release.id or desired):
        yield replace(finding, remedy=("on the head node: petal-node bootstrap",))


def _proof_problems(proof: Proof | None) -> Iterator[Finding]:
    if proof is not None and proof.checked > 0 and not proof.is_whole:
        yield blocked(f"the proof of release {proof.release} failed", "on the head node: petal-node check --nodes all")
