"""``status``: the state of this node and its cluster. Works on every node, for every user, and while storage hangs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from ..cluster import detect as facts
from ..core.deadlines import COMMAND, POLL, PROBE, SILENCE
from ..core.errors import PetalError, WaitTimeout, from_error
from ..core.facts import External, Facts
from ..core.model import NodeReport, Result, Role, RunRecord, Status
from ..core.options import Options
from ..core.paths import Paths
from ..engine.configuration import find_desired_state, mount_in
from ..host import systemd
from ..host.locks import Holder, holder_of
from ..host.times import timestamp
from ..spack.externals import find_externals
from ..state.context import Services
from ..state.desired import DesiredState, Proof, Token, is_foreign
from ..state.release import current_release
from ..state.store import ClusterState, Runs, mark_if_killed
from ..steps.boot_service import TIMER


@dataclass(frozen=True)
class NodeStatus:
    """The answer of ``status``. Values from shared storage are None or empty if it cannot be read.

    Args:
        package: the version of this petal-node.
        runs: the newest runs of this node, newest first.
        current: the release that new shells get.
        install: the last run of the head node.
        problems: why the node is degraded, unless an error of the result says it.
        install_age: seconds since that record was written.
        holder: the process that has the cluster lock, while ``install`` runs.
        proof: the last proof; ``proved`` of ``checked`` compute nodes can use the release.
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
    storage: Token | None = None
    problems: tuple[str, ...] = ()
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
    errors: list[PetalError] = []
    desired = find_desired_state(options.root, known, services.system, errors)
    paths = Paths(options.root, mount_in(desired))
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
        data = services.system.on_storage(lambda: _with_storage(data, paths), paths.shared, PROBE)
    except (PetalError, OSError) as error:
        errors.append(from_error(error, paths.shared_mount))
    data = replace(data, problems=tuple(_problems(data)))
    state = Status.DEGRADED if errors or data.problems else Status.OK
    if not errors and data.runs and data.runs[0].status is Status.RUNNING:
        state = Status.RUNNING
    return Result("status", state, data, tuple(error.to_dict() for error in errors), services.run_id)


def _with_storage(data: NodeStatus, paths: Paths) -> NodeStatus:
    """Adds the values from shared storage. Records of another cluster are left out."""
    shared = ClusterState(paths)
    token = shared.token()
    current = current_release(paths)
    damaged = current is not None and not paths.manifest(current).is_file()
    problems = (f"release {current} has no manifest.json, so it is incomplete: petal-node check",) if damaged else ()
    data = replace(data, current=current, storage=token, problems=problems)
    if token is not None and is_foreign(token.owner, data.facts.cluster):
        return data
    install, proof = shared.install(), shared.proof()
    if install is not None and install.host == data.node:  # a process of another node cannot be looked up
        install = mark_if_killed(install, data.facts.host.boot_id)
    return replace(
        data,
        install=install,
        install_age=shared.install_age(),
        holder=holder_of(paths.cluster_lock) if install and install.status is Status.RUNNING else None,
        proof=proof,
        proved=proof.proved if proof else 0,
        checked=proof.checked if proof else 0,
        reports=tuple(shared.reports()),
    )


def _problems(data: NodeStatus) -> list[str]:
    """Why the node is degraded: its last run, another release than the desired one, a damaged one, a failed proof."""
    problems = list(data.problems)
    last = data.runs[0] if data.runs else None
    if last is None and data.role is not None:
        problems.append("no run on this node yet: petal-node bootstrap")
    if last is not None and last.status in (Status.DEGRADED, Status.FAILED):
        problems.append(f"the last run, {last.run_id}, is {last.status.value}: petal-node log --run {last.run_id}")
    if data.desired is not None and data.current != data.desired.release:
        current = f"release {data.current}" if data.current else "no release"
        problems.append(f"{current} is current, and {data.desired.release} is desired")
    if data.proof is not None and data.checked > 0 and not data.proof.is_whole:
        problems.append(str(data.proof))
    return problems
