"""Installs what a lockfile names: all cores, progress while it lasts, an end that says what is missing and why."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SpackError
from ..host.files import make_dir, remove_tree
from ..host.log import LOG
from ..host.system import Completed
from . import database
from .cache.pull import Pulled
from .driver import Spack, failure
from .lockfile import Locked, locked_specs
from .parallel import Parallel
from .progress import InstallProgress
from .slices import locked_for, slices

TELL_SECONDS = 5.0  # the run's record is written each time, on shared storage too
IDLE_SECONDS = 30.0
LOG_SECONDS = 60.0
LINES = 10
WIDTH = 200
NAMED = 6
KEPT_RUNS = 5
BUILD_LOG = "spack-build-out.txt"
FULL = os.strerror(errno.ENOSPC)


@dataclass(frozen=True)
class Failure:
    """A package that could not be built: in which phase, the last lines of its log, and where that is kept.

    Args:
        used: bytes that its stage held when it failed.
    """

    spec: Locked
    phase: str
    lines: tuple[str, ...]
    log: Path | None
    used: int = 0

    def __str__(self) -> str:
        head = f"{self.spec.name}@{self.spec.version} failed in phase {self.phase}"
        where = (f"  log: {self.log}",) if self.log else ()
        return "\n".join((head, *(f"    {line}" for line in self.lines), *where))


class ProgressReporter:
    """Reports progress to the run's record and the terminal every few seconds, and to the log once a minute."""

    def __init__(
        self, progress: InstallProgress, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._progress = progress
        self._tell = tell
        self._clock = clock
        self._reported = self._logged = float("-inf")
        self._changed = True

    def line(self, text: str) -> None:
        """Takes a line of Spack's."""
        self._changed |= self._progress.line(text)
        if self._changed:
            self._report(TELL_SECONDS)

    def idle(self) -> None:
        """Called while Spack prints nothing: reports a change that waits, and the elapsed time."""
        self._report(TELL_SECONDS if self._changed else IDLE_SECONDS)

    def _report(self, interval: float) -> None:
        now = self._clock()
        if now - self._reported < interval:
            return
        self._reported, self._changed = now, False
        text = self._progress.text(now)
        self._tell(text)
        if now - self._logged >= LOG_SECONDS:
            self._logged = now
            LOG.info("%s", text, extra={"step": "spack"})


def install_missing(
    spack: Spack, parallel: Parallel, tell: Callable[[str], None], logs: Path, locks: int | None = None
) -> None:
    """Builds what the store lacks of the lockfile, as much of it as can be built.

    Args:
        locks: how many locks the store's file system allows on one file, None where it has no limit.
        tell: gets how far it is, a line at a time.
        logs: a directory of this run, for the logs of packages that fail.

    Raises:
        SpackError: ``spack-install``, with each package that failed, and those that were not tried for that reason.
    """
    store = spack.places.store
    specs = tuple(spec for spec in locked_specs(spack.lockfile) if not spec.external)
    lacking = {spec.hash for spec in database.missing(specs, store)}
    present = [spec.hash for spec in specs if spec.hash not in lacking]
    cached = database.from_cache(specs, store)
    progress = InstallProgress(specs, present, cached, time.monotonic())
    done = _run(spack, parallel, ProgressReporter(progress, tell), locks)
    progress.end()
    missing = database.missing(specs, store)
    if missing:
        stage = spack.places.scratch / "stage"
        failed, waiting, left = sort_out(missing, progress)
        failures = [_keep(spec, progress, stage, logs) for spec in failed]
        prune(logs.parent)
        why = explain(failures, waiting, left) if failures else failure(done.stdout)
        if FULL in done.stdout or any(FULL in line for failed in failures for line in failed.lines):
            raise _no_space(spack, failures, why)
        raise _error(len(missing), len(specs), why, failures, spack.output)
    if done.returncode != 0:
        LOG.warning("spack install ended with %d, and everything is there: %s", done.returncode, failure(done.stdout))


def install_or_build(
    spack: Spack,
    parallel: Parallel,
    tell: Callable[[str], None],
    logs: Path,
    locks: int | None,
    pulled: Pulled,
    say: Callable[[str], None],
) -> None:
    """As ``install_missing``; what a build cache gave and Spack cannot unpack is built from source instead.

    Args:
        pulled: what Spack finds where its scope names build caches.
        say: gets what was built instead, and why.

    Raises:
        SpackError: as ``install_missing``.
    """
    try:
        install_missing(spack, parallel, tell, logs, locks)
    except SpackError as error:
        if not withdrawn(spack, error, pulled, say):
            raise
        install_missing(spack, parallel, tell, logs, locks)


def withdrawn(spack: Spack, error: SpackError, pulled: Pulled, say: Callable[[str], None]) -> bool:
    """Takes away what a build cache gave and Spack could not unpack; False where that is not why an install failed.

    Args:
        error: what the install ended with.
        say: gets what is to be built instead, and why.
    """
    specs = locked_specs(spack.lockfile)
    bad = pulled.withdraw(database.missing(specs, spack.places.store)) if error.code == "spack-install" else ()
    if bad:
        say(f"what a build cache had of {', '.join(spec.name for spec in bad)} is built instead: {error.why}")
    return bool(bad)


def _run(spack: Spack, parallel: Parallel, reporter: ProgressReporter, limit: int | None) -> Completed:
    """One install, or one for each slice; what needs a package that failed in an earlier slice is not tried."""
    specs, store = locked_specs(spack.lockfile), spack.places.store
    chosen = _chosen(specs, store)
    if limit is None or len(specs) <= limit or not chosen:
        return spack.install(parallel, reporter.line, reporter.idle)
    ended: list[Completed] = []
    needs = {spec.hash: set(spec.needs) for spec in specs}
    lost: set[str] = set()
    for part in slices(locked_for(specs), chosen, limit):
        lost |= _in_vain(part, needs, lost)
        hashes = [digest for digest in part if digest not in lost]
        if hashes:
            ended.append(spack.install(parallel, reporter.line, reporter.idle, hashes))
            lost |= set(hashes) & {spec.hash for spec in database.missing(specs, store)}
        if ended and ended[-1].returncode < 0:
            break
    LOG.info("installed in %d slices, none with more than %d locks", len(ended), limit, extra={"step": "spack"})
    return max(ended, key=lambda done: done.returncode != 0)


def _in_vain(part: Iterable[str], needs: Mapping[str, set[str]], lost: set[str]) -> set[str]:
    """Those of a slice that need something lost, or each other when one does; each comes after what it needs."""
    found: set[str] = set()
    for digest in part:
        if needs[digest] & (lost | found):
            found.add(digest)
    return found


def _chosen(specs: tuple[Locked, ...], store: Path) -> set[str]:
    """What is missing, and what was asked for by name, since Spack notes that too."""
    missing = {spec.hash for spec in database.missing(specs, store)}
    return missing | {spec.hash for spec in specs if spec.explicit and not spec.external}


def sort_out(missing: Iterable[Locked], progress: InstallProgress) -> tuple[list[Locked], list[Locked], list[Locked]]:
    """What is missing since it failed, since something failed that it needs, since Spack did not come to it."""
    missing = tuple(missing)
    absent = {spec.hash for spec in missing}
    waiting = [spec for spec in missing if absent & set(spec.needs)]
    rest = [spec for spec in missing if not absent & set(spec.needs)]
    failed = [spec for spec in rest if progress.phase_of(spec) or progress.error_of(spec)]
    return failed, waiting, [spec for spec in rest if spec not in failed]


def explain(failures: Iterable[Failure], waiting: Iterable[Locked], left: Iterable[Locked]) -> str:
    """The failures one by one, then what is missing because of them."""
    told = list(failures)
    parts = [str(failed) for failed in told[:NAMED]]
    parts += [f"and {len(told) - NAMED} more failed: {_names(f.spec for f in told[NAMED:])}"] if told[NAMED:] else []
    needing, behind = _names(waiting), _names(left)
    parts += [f"not tried, since they need what failed: {needing}"] if needing else []
    parts += [f"not begun: {behind}"] if behind else []
    return "\n".join(parts)


def _names(specs: Iterable[Locked]) -> str:
    return ", ".join(sorted(spec.name for spec in specs))


def _error(missing: int, total: int, why: str, failures: Iterable[Failure], output: Path) -> SpackError:
    logs = [failed.log for failed in failures if failed.log]
    remedy = (*(f"less {log}" for log in logs[:NAMED]), f"less {output}", "petal-node bootstrap    (the others stay)")
    return SpackError(f"{missing} of {total} packages are not installed", why=why, remedy=remedy, code="spack-install")


def _no_space(spack: Spack, failures: Iterable[Failure], why: str) -> SpackError:
    """Which disk it was is not told by whoever met it: all that a build writes to are named, with what is left."""
    places = (spack.places.store, spack.places.scratch / "stage")
    left = ", ".join(f"{place} has {_free(place) >> 20} MiB left" for place in places)
    used = "".join(f"; the build of {each.spec.name} held {each.used >> 20} MiB" for each in failures if each.used)
    return SpackError(
        "a disk is full, so that packages are not installed",
        why=f"{left}{used}\n{why}",
        remedy=(
            f"df -h {places[0]} {places[1]}; df -i {places[0]} {places[1]}",
            "make room there or grow the volume: a build needs several times what it had",
            "petal-node bootstrap    (goes on; what is installed stays)",
        ),
        code="file-no-space",
    )


def _free(place: Path) -> int:
    """What is left where a directory is, or is going to be."""
    there = next(path for path in (place, *place.parents) if path.exists())
    space = os.statvfs(there)
    return space.f_bavail * space.f_frsize


def _keep(spec: Locked, progress: InstallProgress, stage: Path, logs: Path) -> Failure:
    """Copies a failed package's log out of its stage and removes that: the next try begins anew, and disk matters."""
    kept: Path | None = None
    used = 0
    for place in (*stage.glob(f"spack-stage-*-{spec.hash}"), *stage.glob(f"*/spack-stage-*-{spec.hash}")):
        if (place / BUILD_LOG).is_file():
            kept = logs / f"{spec.name}-{spec.version}-{spec.hash[:7]}.log"
            make_dir(logs)
            shutil.copyfile(place / BUILD_LOG, kept)
        used += sum(path.lstat().st_blocks * 512 for path in place.rglob("*"))
        remove_tree(place)
    lines = (
        _last_lines(kept) if kept else tuple(progress.error_of(spec).replace("==> Error: ", "").splitlines())[:LINES]
    )
    return Failure(spec, progress.phase_of(spec) or "fetch", lines, kept, used)


def _last_lines(log: Path) -> tuple[str, ...]:
    """The end of a build log, without blank lines and without what Spack itself notes there."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("==> ")]
    return tuple(line[:WIDTH] for line in lines[-LINES:])


def prune(directory: Path) -> None:
    """Keeps the logs of the newest runs that left some; ids of runs sort by time."""
    runs = sorted(place for place in directory.iterdir() if place.is_dir()) if directory.is_dir() else []
    for place in runs[:-KEPT_RUNS]:
        remove_tree(place)
