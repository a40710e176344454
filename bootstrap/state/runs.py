"""The records of this node's runs."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..core.deadlines import RECENT
from ..core.errors import PetalError, StateError
from ..core.model import RunRecord, Status, plain
from ..core.paths import Paths
from ..host.files import read_json
from ..host.processes import has_process
from ..host.times import age_of_file, new_run_id
from .store import read_as, write_document

KEEP_RUNS = 30


def is_dead(run: RunRecord, boot_id: str) -> bool:
    """True if the process of an unfinished run has ended: it was killed, or the node went down."""
    return run.finished is None and not (run.boot_id == boot_id and has_process(run.pid, run.process_start))


def mark_if_killed(run: RunRecord, boot_id: str) -> RunRecord:
    """The record of a run on this node; if its process died, degraded and with an error."""
    if not is_dead(run, boot_id):
        return run
    what = "the run was killed, or the node went down, before it recorded a result"
    error = PetalError(what, remedy="petal-node repair", code="run-killed")
    return replace(run, status=Status.DEGRADED, errors=(*run.errors, error.to_dict()))


def killed_words(run: RunRecord) -> str:
    """The sentence about a killed run."""
    step = f" in the step {run.running_step}" if run.running_step else ""
    return f"run {run.run_id} ({f'{run.verb} {run.event}'.strip()}) was killed{step}"


class LatestRuns(NamedTuple):
    """Records of runs, newest first, and an error for each that cannot be read."""

    records: tuple[RunRecord, ...]
    errors: tuple[StateError, ...]


class Runs:
    """The records of this node's runs: one file each, whose names sort by time."""

    def __init__(self, paths: Paths) -> None:
        self._dir = paths.runs

    def save(self, record: RunRecord) -> None:
        """Writes the current record of a run; called at its start, after each step and at its end."""
        write_document(self._path(record.run_id), plain(record))

    def load(self, run_id: str) -> RunRecord | None:
        return read_as(self._path(run_id), RunRecord)

    def latest(self, number: int = 5) -> LatestRuns:
        """The newest records."""
        records: list[RunRecord] = []
        errors: list[StateError] = []
        for path in self._newest_first()[:number]:
            try:
                record = self.load(path.stem)
            except StateError as error:
                errors.append(error)
                continue
            if record is not None:
                records.append(record)
        return LatestRuns(tuple(records), tuple(errors))

    def prune(self) -> None:
        """Keeps the newest records of each verb, so that the timer's do not displace a hook's, and all recent ones.

        A recent record may be that of a run that continues.
        """
        number: Counter[str] = Counter()
        for path in self._newest_first():
            try:
                verb = str((read_json(path) or {}).get("verb"))
            except StateError:
                verb = "damaged"
            number[verb] += 1
            if number[verb] > KEEP_RUNS and abs(age_of_file(path)) > RECENT:
                with suppress(OSError):  # no run fails because of this
                    path.unlink()

    def _newest_first(self) -> list[Path]:
        """The files by the time in their names. A time to come is older: the clock was set back after that run."""
        now = new_run_id()
        return sorted(self._dir.glob("*.json"), key=lambda path: (path.stem[:20] <= now, path.stem), reverse=True)

    def _path(self, run_id: str) -> Path:
        return self._dir / f"{run_id}.json"
