"""``status``: where this node and its cluster stand. Works on every node, for every user, and while storage hangs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..cluster import detect as facts
from ..core.errors import PetalError, WaitTimeout, as_error
from ..core.facts import Cluster
from ..core.model import Result, Role, RunRecord, Status, plain
from ..core.options import Options
from ..core.paths import Paths
from ..engine.prepare import find_wanted
from ..host import systemd
from ..host.system import timestamp
from ..state.cluster_lock import holder_of
from ..state.desired import Proof, Token, Wanted
from ..state.owner import is_foreign
from ..state.release import current_release
from ..state.store import Runs, Shared, as_it_is
from ..steps.converge_timer import TIMER
from .common import Services

LOOK_SECONDS = 4.0
POLL_SECONDS = 1.0
TIMER_SECONDS = 10.0
STALE_SECONDS = 120.0  # an install writes its record every five seconds
NOTHING: Mapping[str, Any] = {
    "current": None, "install": None, "install_age": None, "proof": None, "holder": None, "reports": [],
    "storage": None,
}  # fmt: skip


def status(options: Options, services: Services) -> Result:
    """Where this node and its cluster stand; with ``--wait`` when the node is ready or no run changes it any more."""
    return _wait(options, services) if options.wait else look(options, services)


def _wait(options: Options, services: Services) -> Result:
    """Polls until the deadline of ``--timeout``, after which the result exits 75."""
    deadline = time.monotonic() + options.timeout
    said = ""
    while True:
        answer = look(options, services)
        going = _going_on(options.paths, services, answer.data)
        if answer.status is Status.OK or not going:
            return answer
        if time.monotonic() >= deadline:
            what = f"not ready within {options.timeout:.0f} s: {going}"
            late = WaitTimeout(what, remedy="petal-node status")
            return replace(answer, errors=(*answer.errors, late.to_dict()), exit=int(late.exit))
        if going != said:
            services.note(f"waiting: {going}")
            said = going
        time.sleep(min(POLL_SECONDS, max(0.0, deadline - time.monotonic())))


def _going_on(paths: Paths, services: Services, data: Mapping[str, Any]) -> str:
    """Who is at it, or an empty string: then what is not well stays so until somebody does something."""
    runs, install = data["runs"], data["install"]
    if not runs:
        return "no run has begun on this node"
    if runs[0]["status"] == Status.RUNNING.value:
        return f"run {runs[0]['run_id']} goes on"
    if install and install["finished"] is None and (data["install_age"] or 0) < STALE_SECONDS:
        return f"{install['host']} installs (run {install['run_id']})"
    timed = paths.live and services.system.has_systemd()
    if timed and systemd.state(TIMER.name, services.system, timeout=TIMER_SECONDS) == "active":
        return "this node is not ready, and its timer tries again"
    return ""


def look(options: Options, services: Services) -> Result:
    """The node's role and last runs, what is wanted and current, the head's install, and the proof."""
    known = facts.gather(options.paths, services.system, options.role)
    errors: list[PetalError] = []
    wanted = find_wanted(options.root, known, services.system, errors)
    paths = Paths(options.root, _mount(wanted))
    recorded, unreadable = Runs(paths).latest()
    runs = tuple(as_it_is(run, known.host.boot_id) for run in recorded)
    errors += unreadable
    cluster = _cluster(services, paths, known.cluster, errors)
    data: dict[str, Any] = {
        "node": known.host.name,
        "role": known.cluster.role.value if known.cluster.role else None,
        "now": timestamp(),
        "package": services.tool.version,
        "wanted": plain(wanted) if wanted else None,
        "runs": [plain(run) for run in runs],
        **cluster,
    }
    state = Status.DEGRADED if errors else _overall(data, runs, known.cluster.role)
    return Result("status", "status", state, data, tuple(error.to_dict() for error in errors), services.run_id)


def _mount(wanted: Wanted | None) -> str:
    storage = wanted.config.get("storage", {}) if wanted else {}
    return str(storage.get("mount", "/shared"))


def _cluster(services: Services, paths: Paths, cluster: Cluster, errors: list[PetalError]) -> dict[str, Any]:
    """What stands on shared storage, read in one guarded look; of another cluster's records none is ours."""

    def look() -> dict[str, Any]:
        shared = Shared(paths)
        token = shared.token()
        if token is not None and is_foreign(token.owner, cluster):
            return {**NOTHING, "current": current_release(paths), "storage": _storage(token)}
        install, proof = shared.install(), shared.proof()
        holder = holder_of(paths.cluster_lock)
        return {
            "current": current_release(paths),
            "install": plain(install) if install else None,
            "install_age": shared.install_age(),
            "proof": _proof(proof),
            "holder": plain(holder) if holder and install and install.finished is None else None,
            "reports": [plain(report) for report in shared.reports()],
            "storage": _storage(token),
        }

    try:
        return services.system.on_storage(look, paths.shared, LOOK_SECONDS)
    except (PetalError, OSError) as error:
        errors.append(as_error(error, paths.shared_mount))
        return dict(NOTHING)


def _storage(token: Token | None) -> dict[str, Any] | None:
    """The cluster that the storage serves."""
    return None if token is None or token.owner is None else {"owner": plain(token.owner)}


def _proof(proof: Proof | None) -> dict[str, Any] | None:
    return (
        None if proof is None else {
            **plain(proof), "summary": str(proof), "proved": proof.proved, "asked": proof.asked, "whole": proof.is_whole
        }
    )  # fmt: skip


def _overall(data: dict[str, Any], runs: tuple[RunRecord, ...], role: Role | None) -> Status:
    """Degraded when the last run was, when current is not what is wanted, or when the proof failed."""
    if any(run.finished is None and run.status is Status.RUNNING for run in runs[:1]):
        return Status.RUNNING
    wanted = data["wanted"]
    proof = data["proof"]
    troubled = [
        not runs and role is not None,
        any(run.status in (Status.DEGRADED, Status.FAILED) for run in runs[:1]),
        wanted is not None and data["current"] != wanted["release"],
        proof is not None and proof["asked"] > 0 and not proof["whole"],
    ]
    return Status.DEGRADED if any(troubled) else Status.OK
