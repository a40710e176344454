"""What petal-node keeps on disk: how its documents are read and written, and the shape of those that all share.

On the node: one record a run. On shared storage: the storage token, ``desired.json``, the head's install record, the
proof, and one report a node. What only one concern keeps has its shape there: in ``release``, ``prepare``, ``steps``.
Every document carries ``format``; a newer one than this version knows is refused.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core import decode
from ..core.errors import StateError, StorageError
from ..core.model import NodeReport, Role, RunRecord, Status, plain
from ..core.paths import Paths
from ..host.atomic import write_json
from ..host.files import is_deep, make_dir, path_problem, read_json
from ..host.log import LOG
from ..host.processes import has_process
from .desired import DesiredState, Proof, Published, Token
from .owner import Owner

FORMAT = 1
KEEP_RUNS = 30
KEEP_PUBLISHED = 200
KEPT = "request.json"  # what a hook of this node was given
KEEP_SECONDS = 3600.0


def read_document(path: Path) -> dict[str, Any] | None:
    """A document of ours, or None where there is none.

    Raises:
        StateError: damaged (``state-corrupt``) or of a newer petal-node (``state-newer``).
    """
    document = read_json(path)
    if document is None:
        return None
    number = document.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise StateError(f"{path} carries no format number", remedy=f"mv {path} {path}.bad")
    if number > FORMAT:
        raise StateError(
            f"{path} was written by a newer petal-node",
            why=f"its format is {number}, this version knows {FORMAT}",
            remedy="use the version that desired.json names, or a newer one",
            code="state-newer",
        )
    if is_deep(document):
        raise StateError(f"{path} is nested too deeply", remedy=f"mv {path} {path}.bad")
    return document


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a document atomically, with the format number."""
    make_dir(path.parent)
    write_json(path, {"format": FORMAT, **content})


def shaped(path: Path, build: Callable[[], Any]) -> Any:
    """What ``build`` makes of a document.

    Raises:
        StateError: the document has another shape than its format says.
    """
    try:
        return build()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        raise StateError(
            f"{path} does not have the shape of its format", why=why, remedy=f"mv {path} {path}.bad"
        ) from error


def _age(path: Path) -> float:
    """Seconds since a file was written; 0 for one that somebody else has just removed."""
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def is_dead(run: RunRecord, boot_id: str) -> bool:
    """True where a record says "started" and its process is gone: it was killed, or the node went down under it."""
    return run.finished is None and not (run.boot_id == boot_id and has_process(run.pid))


def as_it_is(run: RunRecord, boot_id: str) -> RunRecord:
    """The record of a run on this node, with an error where it ended without a word."""
    if not is_dead(run, boot_id):
        return run
    what = "the run ended without a word: it was killed, or the node went down"
    error = {"code": "run-killed", "what": what, "why": "", "remedy": ["petal-node repair"]}
    return replace(run, status=Status.DEGRADED, errors=(*run.errors, error))


class Runs:
    """The records of this node's runs, newest last."""

    def __init__(self, paths: Paths) -> None:
        self._dir = paths.runs

    def save(self, record: RunRecord) -> None:
        """Writes the record as it stands now; called at the start, after each step and at the end."""
        write_document(self._path(record.run_id), record.to_dict())

    def load(self, run_id: str) -> RunRecord | None:
        path = self._path(run_id)
        document = read_document(path)
        return None if document is None else shaped(path, lambda: RunRecord.from_dict(document))

    def latest(self, number: int = 5) -> tuple[tuple[RunRecord, ...], tuple[StateError, ...]]:
        """The newest records, newest first, and what could not be read."""
        records: list[RunRecord] = []
        errors: list[StateError] = []
        for path in sorted(self._dir.glob("*.json"), reverse=True)[:number]:
            try:
                record = self.load(path.stem)
            except StateError as error:
                errors.append(error)
                continue
            if record is not None:
                records.append(record)
        return tuple(records), tuple(errors)

    def prune(self) -> None:
        """Keeps the newest records of each verb, so that a timer's never push out a hook's, and all that are young.

        A run that goes on writes its record again and again, so a young one may be that of a run that is not done.
        """
        seen: Counter[str] = Counter()
        for path in sorted(self._dir.glob("*.json"), reverse=True):
            verb = self._verb_of(path)
            seen[verb] += 1
            if seen[verb] > KEEP_RUNS and _age(path) > KEEP_SECONDS:
                path.unlink(missing_ok=True)

    def _verb_of(self, path: Path) -> str:
        try:
            return str((read_json(path) or {}).get("verb"))
        except StateError:
            return "damaged"

    def _path(self, run_id: str) -> Path:
        return self._dir / f"{run_id}.json"


@dataclass(frozen=True)
class KnownStorage:
    """The storage that this node has used, in its own memory.

    ``cluster`` is the cluster whose head node decides which storage is used; None on the head node itself, which takes
    another storage only with ``--accept-storage``.
    """

    mount: str
    token: str
    cluster: Owner | None = None

    @classmethod
    def of(cls, mount: str, token: Token, role: Role) -> KnownStorage:
        return cls(mount, token.token, None if role is Role.HEAD else token.owner)

    @classmethod
    def load(cls, paths: Paths) -> KnownStorage | None:
        """The saved storage; None without one, and if the file is damaged."""
        try:
            raw = read_document(paths.seen_storage)
            return None if raw is None else shaped(paths.seen_storage, lambda: cls._from_dict(raw))
        except StateError as error:
            LOG.warning("%s", error)
            return None

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> KnownStorage:
        cluster = decode.maybe(decode.maybe(raw.get("cluster"), decode.mapping), Owner.from_dict)
        return cls(decode.text(raw["mount"]), decode.text(raw["token"]), cluster)

    def save(self, paths: Paths) -> None:
        write_document(paths.seen_storage, plain(self))

    def knows(self, mount: str, token: Token | None) -> bool:
        """True for the same storage, for another one of this node's cluster, and for another mount point."""
        if mount != self.mount:
            return True
        return token is not None and (
            token.token == self.token or (self.cluster is not None and token.owner == self.cluster)
        )


class ClusterState:
    """The documents on shared storage. Nothing is read that others could have written."""

    def __init__(self, paths: Paths, *, trusting: bool = False) -> None:
        """``trusting`` is for the one who finds out what others could have written, and decides nothing by it."""
        self._paths = paths
        self._trusting = trusting

    def token(self) -> Token | None:
        return self._read("token.json", Token.from_dict)  # type: ignore[no-any-return]

    def token_or_none(self) -> Token | None:
        """The token; None if it is missing or cannot be read."""
        try:
            return self.token()
        except StateError:
            return None

    def is_known_storage(self) -> bool:
        """False where another storage, or another cluster, has come in the place of what this node has used."""
        before = KnownStorage.load(self._paths)
        return before is None or before.knows(self._paths.mount, self.token())

    def save_token(self, token: Token) -> None:
        self._write("token.json", plain(token))

    def desired_state(self) -> DesiredState | None:
        return self._read("desired.json", DesiredState.from_dict)  # type: ignore[no-any-return]

    def save_desired_state(self, desired: DesiredState) -> None:
        self._write("desired.json", plain(desired))

    def published(self) -> tuple[Published, ...]:
        """What ``current`` has led to, the newest last."""
        return self._read("published.json", Published.all_of) or ()

    def note_published(self, release: str, run_id: str, time: str) -> None:
        """Records that a release became current, unless it is the last one recorded."""
        before = self.published()
        if before and before[-1].release == release:
            return
        now = Published(release, time, run_id)
        self._write("published.json", {"published": [plain(one) for one in (*before, now)[-KEEP_PUBLISHED:]]})

    def install(self) -> RunRecord | None:
        """The head's record of the newest install, running or ended."""
        return self._read("stack.json", RunRecord.from_dict)  # type: ignore[no-any-return]

    def install_age(self) -> float | None:
        """Seconds since the install record was written; None without one."""
        path = self._paths.state / "stack.json"
        return _age(path) if path.exists() else None

    def save_install(self, record: RunRecord) -> None:
        self._write("stack.json", record.to_dict())

    def proof(self) -> Proof | None:
        return self._read("proof.json", Proof.from_dict)  # type: ignore[no-any-return]

    def save_proof(self, proof: Proof) -> None:
        self._write("proof.json", plain(proof))

    def save_report(self, report: NodeReport) -> None:
        self._write(f"nodes/{report.node}.json", report.to_dict())

    def report(self, node: str) -> NodeReport | None:
        return self._read(f"nodes/{node}.json", NodeReport.from_dict)  # type: ignore[no-any-return]

    def reports(self) -> tuple[NodeReport, ...]:
        """Every node's own last report, by name; a report that cannot be read is left out."""
        found = []
        for path in sorted((self._paths.state / "nodes").glob("*.json")):
            try:
                report = self.report(path.stem)
            except StateError:
                continue
            if report is not None:
                found.append(report)
        return tuple(found)

    def remove_records(self) -> None:
        """Removes the records of a former cluster; unread, because a newer petal-node may have written them."""
        state = self._paths.state
        names = ("desired.json", "stack.json", "proof.json", "published.json")
        for path in (*(state / name for name in names), *(state / "nodes").glob("*.json")):
            path.unlink(missing_ok=True)

    def _read(self, name: str, build: Callable[[Mapping[str, Any]], Any]) -> Any:
        path = self._paths.state / name
        problem = None if self._trusting else path_problem(path, self._paths.shared_mount)
        if problem:
            raise StateError(f"{path} is not read", why=str(problem), remedy=f"ls -ld {path}", code="untrusted")
        document = read_document(path)
        return None if document is None else shaped(path, lambda: build(document))

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Into what the storage step has made, and never onto another file system that has come in its place."""
        path = self._paths.state / name
        problem = path_problem(path.parent, self._paths.shared_mount)
        if problem:
            raise StateError(
                f"{path} is not written", why=str(problem), remedy=f"ls -ld {path.parent}", code="untrusted"
            )
        if not path.parent.is_dir() or not (name == "token.json" or self.is_known_storage()):
            why = "the storage from before is not there"
            raise StorageError(
                f"{path} is not written", why=why, remedy=f"findmnt {self._paths.mount}", code="storage-changed"
            )
        write_json(path, {"format": FORMAT, **content})


def desired_state_of(paths: Paths, release: str) -> DesiredState | None:
    """The desired state that made a release, with which a rollback restores it; None if the release has none.

    Raises:
        StateError: it is damaged.
    """
    path = paths.release(release) / "desired.json"
    document = read_document(path)
    return None if document is None else shaped(path, lambda: DesiredState.from_dict(document))


def save_desired_state_of(paths: Paths, desired: DesiredState) -> None:
    """Written into the release before it is published."""
    write_document(paths.release(desired.release) / "desired.json", plain(desired))
