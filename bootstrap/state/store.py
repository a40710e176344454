"""The documents that petal-node keeps on disk: how they are read and written, and the dataclasses that all share.

On the node: the storage that the node uses. On shared storage: token, desired state, install record, proof, and a
report of each node. Every document has a ``format``; a newer one than this version knows is refused. Documents of one
concern are in ``release``, ``request``, ``runs`` and ``steps``.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..core import decode
from ..core.deadlines import EXPIRY, REPORTS
from ..core.errors import PetalError, StateError, StorageError
from ..core.model import NodeReport, Role, RunRecord, plain
from ..core.paths import Paths
from ..core.text import quoted
from ..host.atomic import write_json
from ..host.files import READERS, Lstats, PathProblem, is_deep, make_dir, path_problem, read_json
from ..host.log import LOG
from ..host.threads import results
from ..host.times import age_of_file, seconds_of
from .desired import DesiredState, History, Owner, Proof, Published, Token

T = TypeVar("T")
FORMAT = 1
UNTOUCHED = "only if you know that no other user has written to them"
KEEP_PUBLISHED = 200
LOST = ("state-corrupt", "untrusted")  # codes of errors of a record that is written again, as a missing one is


def read_document(path: Path) -> dict[str, Any] | None:
    """A document with a format number, or None if the file does not exist.

    Raises:
        StateError: it is damaged (``state-corrupt``), or a newer petal-node wrote it (``state-newer``).
    """
    document = read_json(path)
    if document is None:
        return None
    number = document.get("format")
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise StateError(f"{path} has no format number", remedy=f"mv {quoted(path)} {quoted(path)}.bad")
    if number > FORMAT:
        raise StateError(
            f"{path} was written by a newer petal-node",
            why=f"its format is {number}, this version knows {FORMAT}",
            remedy="use the version that desired.json names, or a newer one",
            code="state-newer",
        )
    if is_deep(document):
        raise StateError(f"{path} is nested too deeply", remedy=f"mv {quoted(path)} {quoted(path)}.bad")
    return document


def write_document(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a document atomically, with the format number."""
    make_dir(path.parent)
    write_json(path, {"format": FORMAT, **content})


def shaped(path: Path, build: Callable[[], T]) -> T:
    """The result of ``build``, which reads the content of a document.

    Raises:
        StateError: the content does not have the shape of its format.
    """
    try:
        return build()
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        why = f"{type(error).__name__}: {error}"
        remedy = f"mv {quoted(path)} {quoted(path)}.bad"
        raise StateError(f"{path} does not have the shape of its format", why=why, remedy=remedy) from error


def read_as(path: Path, kind: type[T]) -> T | None:
    """A document as the dataclass ``kind``, or None if the file does not exist.

    Raises:
        StateError: as ``read_document`` and ``shaped``.
    """
    document = read_document(path)
    return None if document is None else shaped(path, lambda: decode.build(kind, document))


def save_failure(path: Path, run_id: str, error: PetalError) -> None:
    """Keeps a failure that a run accepts. The next run tries again, so it does not find the failure."""
    write_document(path, {"run_id": run_id, **error.to_dict()})


def failure_of(path: Path, run_id: str) -> PetalError | None:
    """The failure that this run has kept; None also if the file is damaged."""
    try:
        document = read_document(path) or {}
        kept = shaped(path, lambda: decode.error(document))
    except StateError as error:
        LOG.warning("%s", error)
        return None
    if document.get("run_id") != run_id:
        return None
    return PetalError(kept["what"], why=kept["why"], remedy=kept["remedy"], code=kept["code"])


@dataclass(frozen=True)
class KnownStorage:
    """The storage that this node uses, recorded on the node itself.

    ``cluster`` is the cluster whose head node decides which storage is used; None on the head node itself, which
    accepts another storage only with ``--accept-storage``.
    """

    mount: str
    token: str
    cluster: Owner | None = None

    @classmethod
    def of(cls, mount: str, token: Token, role: Role) -> KnownStorage:
        return cls(mount, token.token, None if role is Role.HEAD else token.owner)

    @classmethod
    def load(cls, paths: Paths) -> KnownStorage | None:
        """The recorded storage; None without a record, or if the file is damaged."""
        try:
            return read_as(paths.seen_storage, cls)
        except StateError as error:
            LOG.warning("%s", error)
            return None

    def save(self, paths: Paths) -> None:
        write_document(paths.seen_storage, plain(self))

    def knows(self, mount: str, token: Token | None) -> bool:
        """True for the same storage, for another one of the same cluster, and for another mount point."""
        if mount != self.mount:
            return True
        return token is not None and (
            token.token == self.token or (self.cluster is not None and token.owner == self.cluster)
        )


class Reports(NamedTuple):
    """Reports of nodes, sorted by name.

    Args:
        expired: the paths of those that have expired.
        damaged: the paths of others that are damaged.
        unread: how many neither expired nor were read; the damaged ones count.
    """

    current: tuple[NodeReport, ...]
    expired: tuple[Path, ...]
    damaged: tuple[Path, ...]
    unread: int


class ClusterState:
    """The documents on shared storage. A document that other users could have written is not read.

    Reads check each directory once per instance, so make a new instance for each look at the storage.

    Args:
        trusting: read without a check of owners and modes, to diagnose; do not base a decision on the result.
        lstats: results of the caller's look at the storage (``path_problem``).
    """

    def __init__(self, paths: Paths, *, trusting: bool = False, lstats: Lstats | None = None) -> None:
        self._paths = paths
        self._trusting = trusting
        self._lstats: Lstats = {} if lstats is None else lstats

    def token(self) -> Token | None:
        return self._read("token.json", Token)

    def is_known_storage(self) -> bool:
        """False if another storage, or the storage of another cluster, is mounted instead of the one of this node."""
        known = KnownStorage.load(self._paths)
        return known is None or known.knows(self._paths.mount, self.token())

    def save_token(self, token: Token) -> None:
        self._write("token.json", plain(token))

    def desired_state(self) -> DesiredState | None:
        return self._read("desired.json", DesiredState)

    def save_desired_state(self, desired: DesiredState) -> None:
        self._write("desired.json", plain(desired))

    def published(self) -> tuple[Published, ...]:
        """The releases that were current, newest last."""
        history = self._read("published.json", History)
        return history.published if history else ()

    def note_published(self, release: str, run_id: str, time: str) -> None:
        """Records that a release became current, unless it is the last one recorded."""
        earlier = self.published()
        if earlier and earlier[-1].release == release:
            return
        entries = (*earlier, Published(release, time, run_id))[-KEEP_PUBLISHED:]
        self._write("published.json", plain(History(entries)))

    def install(self) -> RunRecord | None:
        """The head node's record of the newest install, running or finished."""
        return self._read("stack.json", RunRecord)

    def install_age(self) -> float | None:
        """Seconds since the install record was written; None without one."""
        path = self._paths.state / "stack.json"
        return age_of_file(path) if path.exists() else None

    def save_install(self, record: RunRecord) -> None:
        self._write("stack.json", plain(record))

    def proof(self) -> Proof | None:
        return self._read("proof.json", Proof)

    def save_proof(self, proof: Proof) -> None:
        self._write("proof.json", plain(proof))

    def save_report(self, report: NodeReport) -> None:
        self._write(f"nodes/{report.node}.json", plain(report))

    def reports(self, seconds: float = REPORTS) -> Reports:
        """The last report of each node, read in parallel because a server may need milliseconds for each operation.

        A node that is gone leaves its report, which expires; so does one that cannot be read.

        Args:
            seconds: reports that are not read by then are only counted.
        """
        directory = self._paths.state / "nodes"
        deadline, now = time.monotonic() + seconds, time.time()
        names = sorted(path.name for path in directory.glob("*.json"))
        if not names:
            return Reports((), (), (), 0)
        self._refuse_untrusted(directory)
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        opened = Path(f"/proc/self/fd/{descriptor}")  # each path below it is one look-up on the server instead of six

        def read(name: str) -> NodeReport | tuple[float, StateError | OSError] | None:
            """The report, or the time and the error of one that cannot be read; None if it is late or was removed."""
            if time.monotonic() > deadline:
                return None
            path = opened / name
            try:
                return read_as(path, NodeReport)
            except (StateError, OSError) as error:
                with suppress(OSError):
                    return now - age_of_file(path), error
                return now, error

        try:
            with ThreadPoolExecutor(READERS) as pool:
                found = {directory / name: report for name, report in zip(names, results(pool, read, names))}
        finally:
            os.close(descriptor)
        current, expired, damaged = [], [], []
        for path, report in found.items():
            if report is None:
                continue
            written = report[0] if isinstance(report, tuple) else seconds_of(report.time) or 0.0
            if abs(now - written) > EXPIRY:  # the clock of its node may have been ahead
                expired.append(path)
            elif isinstance(report, NodeReport):
                current.append(report)
            elif isinstance(report[1], StateError) and report[1].code == "state-corrupt":
                damaged.append(path)
        unread = len(found) - len(current) - len(expired)
        return Reports(tuple(current), tuple(expired), tuple(damaged), unread)

    def is_taken_over(self) -> bool:
        """True from ``remove_records`` to the first release of this cluster: a former cluster made the current one."""
        try:
            history = self._read("published.json", History)
        except StateError:
            return False
        return history is not None and not history.published

    def remove_records(self) -> None:
        """Removes the records of a former cluster; unread, because a newer petal-node may have written them.

        The record of its releases becomes an empty one.
        """
        state = self._paths.state
        write_json(state / "published.json", {"format": FORMAT, **plain(History(()))})
        names = ("desired.json", "stack.json", "proof.json")
        for path in (*(state / name for name in names), *(state / "nodes").glob("*.json")):
            path.unlink(missing_ok=True)

    def _read(self, name: str, kind: type[T]) -> T | None:
        path = self._paths.state / name
        self._refuse_untrusted(path)
        self._lstats.pop(path, None)  # another node may replace a document, never a directory
        try:
            return read_as(path, kind)
        except StateError as error:  # repair also writes the record again
            remedy = "on the head node: petal-node repair" if error.code == StateError.code else error.remedy
            raise StateError(error.what, why=error.why, remedy=remedy, code=error.code) from error

    def _refuse_untrusted(self, path: Path) -> None:
        problem = None if self._trusting else path_problem(path, self._paths.shared_mount, self._lstats)
        if problem:
            remedy = untrusted_remedy(self._paths, problem)
            raise StateError(f"{path} is not read", why=str(problem), remedy=remedy, code="untrusted")

    def _write(self, name: str, content: Mapping[str, Any]) -> None:
        """Writes into a directory that the step ``storage`` made, never to another file system mounted in its place."""
        path, lstats = self._paths.state / name, Lstats()
        problem = path_problem(path.parent, self._paths.shared_mount, lstats)
        if problem:
            remedy = untrusted_remedy(self._paths, problem)
            raise StateError(f"{path} is not written", why=str(problem), remedy=remedy, code="untrusted")
        info = lstats[path.parent]
        is_prepared = info is not None and stat.S_ISDIR(info.st_mode)
        state = ClusterState(self._paths, lstats=lstats)
        if not is_prepared or not (name == "token.json" or state.is_known_storage()):
            why = "the storage that this node used before is not mounted"
            mount = f"findmnt {quoted(self._paths.mount)}"
            raise StorageError(f"{path} is not written", why=why, remedy=mount, code="storage-changed")
        write_json(path, {"format": FORMAT, **content})


def untrusted_remedy(paths: Paths, problem: PathProblem) -> tuple[str, ...]:
    """The commands for a path on shared storage that others could change. A release that is current stays in place."""
    remedy, owner = problem.remedy, problem.owner
    if owner is not None and paths.state in problem.path.parents and not problem.path.is_dir():
        remedy = f"rm {quoted(problem.path)}    # then: petal-node repair"  # which writes the record again
    elif owner is not None and os.path.lexists(paths.shared_root / "current"):
        remedy = f"chown -Rh --from={owner:d} root:root {quoted(paths.shared)}    # {UNTOUCHED}"
    return f"ls -ld {quoted(problem.path)}", remedy


def is_own_storage(paths: Paths, host: str) -> bool:
    """True for the storage that this head node has used. Reads shared storage, so it may hang.

    If the token cannot be read, the newest install record must be of this node: another storage has none.

    Args:
        host: the name of this node.
    """
    before = KnownStorage.load(paths)
    if before is None or before.mount != paths.mount or paths.shared.is_symlink():
        return False
    state = ClusterState(paths, trusting=True)
    try:
        if state.token() is not None:
            return state.is_known_storage()
    except StateError as error:
        LOG.warning("%s", error)
    try:
        install = state.install()
    except StateError:
        return False
    return install is not None and install.host == host


def desired_state_of(paths: Paths, release: str) -> DesiredState | None:
    """The desired state that made a release, with which a rollback restores it; None if the release has none.

    Raises:
        StateError: it is damaged.
    """
    return read_as(paths.release(release) / "desired.json", DesiredState)


def save_desired_state_of(paths: Paths, desired: DesiredState) -> None:
    """Written into the release before it is published."""
    write_document(paths.release(desired.release) / "desired.json", plain(desired))
