"""``status``: where this node and its cluster stand. Works on every node, for every user, and while storage hangs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .. import facts
from ..errors import PetalError, as_error
from ..lock import holder_of
from ..model import Result, Role, RunRecord, Status, plain
from ..observed import Cluster
from ..owner import is_foreign
from ..paths import Paths
from ..prepare import find_wanted
from ..release import current_release
from ..state import Proof, Runs, Shared, Token, Wanted, as_it_is
from .common import Asked

LOOK_SECONDS = 4.0
NOTHING: Mapping[str, Any] = {
    "current": None, "install": None, "proof": None, "holder": None, "reports": [], "storage": None,
}  # fmt: skip


def status(asked: Asked) -> Result:
    """The node's role and last runs, what is wanted and current, the head's install, and the proof."""
    known = facts.gather(asked.paths(), asked.system, asked.role)
    errors: list[PetalError] = []
    wanted = find_wanted(asked.prefix, known, asked.system, errors)
    paths = Paths(asked.prefix, _mount(wanted))
    recorded, unreadable = Runs(paths).latest()
    runs = tuple(as_it_is(run, known.host.boot_id) for run in recorded)
    errors += unreadable
    cluster = _cluster(asked, paths, known.cluster, errors)
    data: dict[str, Any] = {
        "node": known.host.name,
        "role": known.cluster.role.value if known.cluster.role else None,
        "wanted": plain(wanted) if wanted else None,
        "runs": [plain(run) for run in runs],
        **cluster,
    }
    state = Status.DEGRADED if errors else _overall(data, runs, known.cluster.role)
    return Result("status", "status", state, data, tuple(error.to_dict() for error in errors), asked.run_id)


def _mount(wanted: Wanted | None) -> str:
    storage = wanted.config.get("storage", {}) if wanted else {}
    return str(storage.get("mount", "/shared"))


def _cluster(asked: Asked, paths: Paths, cluster: Cluster, errors: list[PetalError]) -> dict[str, Any]:
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
            "proof": _proof(proof),
            "holder": plain(holder) if holder and install and install.finished is None else None,
            "reports": [plain(report) for report in shared.reports()],
            "storage": _storage(token),
        }

    try:
        return asked.system.guarded(look, timeout=LOOK_SECONDS, what=str(paths.shared))
    except (PetalError, OSError) as error:
        errors.append(as_error(error, paths.shared_mount))
        return dict(NOTHING)


def _storage(token: Token | None) -> dict[str, Any] | None:
    """Whose the storage is, and what was taken over with it."""
    if token is None or token.owner is None:
        return None
    adopted = {**plain(token.adopted), "summary": str(token.adopted)} if token.adopted else None
    return {"owner": plain(token.owner), "adopted": adopted}


def _proof(proof: Proof | None) -> dict[str, Any] | None:
    return (
        None if proof is None else {**plain(proof), "summary": str(proof), "proved": proof.proved, "asked": proof.asked}
    )


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
        proof is not None and proof["proved"] < proof["asked"],
    ]
    return Status.DEGRADED if any(troubled) else Status.OK
