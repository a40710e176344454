"""Installs the packages of a lockfile on all cores, with progress, and reports which packages failed and why."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SpackError
from ..host.files import make_dir, remove_tree, size_of
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
    """A package that could not be built.

    Args:
        lines: the last lines of its log.
        log: where the log is kept.
        used: the size of its stage when it failed, in bytes.
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
    """Installs the packages of the lockfile that the store lacks, as many of them as possible.

    Args:
        tell: gets the progress, a line at a time.
        logs: a directory of this run, for the logs of packages that fail.
        locks: how many locks the store's file system allows on one file; None without a limit.

    Raises:
        SpackError: ``spack-install``, with each package that failed, and those that were not tried because of it.
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
        failed, waiting, not_begun = classify_missing(missing, progress)
        failures = [_keep(spec, progress, stage, logs) for spec in failed]
        prune(logs.parent)
        why = explain(failures, waiting, not_begun) if failures else failure(done.stdout)
        if FULL in done.stdout or any(FULL in line for failed in failures for line in failed.lines):
            raise _no_space(spack, failures, why)
        raise _error(len(missing), len(specs), why, failures, spack.output)
    if done.returncode != 0:
        LOG.warning(
            "spack install exited with %d, but all packages are installed: %s", done.returncode, failure(done.stdout)
        )


def install_or_build(
    spack: Spack,
    parallel: Parallel,
    tell: Callable[[str], None],
    logs: Path,
    locks: int | None,
    pulled: Pulled,
    say: Callable[[str], None],
) -> None:
    """Like ``install_missing``, but builds a package from source if Spack cannot unpack it from a build cache.

    Args:
        pulled: the packages of build caches that Spack's scope refers to.
        say: gets the names of the packages that are built instead, and the reason.

    Raises:
        SpackError: as ``install_missing``.
    """
    try:
        install_missing(spack, parallel, tell, logs, locks)
    except SpackError as error:
        if not discard_damaged(spack, error, pulled, say):
            raise
        install_missing(spack, parallel, tell, logs, locks)


def discard_damaged(spack: Spack, error: SpackError, pulled: Pulled, say: Callable[[str], None]) -> bool:
    """Removes the packages of build caches that Spack could not unpack; False if the install failed for another reason.

    Args:
        error: the error of the install.
        say: gets the names of the packages to build instead, and the reason.
    """
    specs = locked_specs(spack.lockfile)
    bad = pulled.withdraw(database.missing(specs, spack.places.store)) if error.code == "spack-install" else ()
    if bad:
        names = ", ".join(spec.name for spec in bad)
        say(f"{names} cannot be unpacked from a build cache, and will be built: {error.why}")
    return bool(bad)


def _run(spack: Spack, parallel: Parallel, reporter: ProgressReporter, limit: int | None) -> Completed:
    """One install, or one for each slice. Packages that need one that failed in an earlier slice are not tried."""
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
    """The packages of a slice that need a lost one, directly or not. A slice is in the order of needs."""
    vain: set[str] = set()
    for digest in part:
        if needs[digest] & (lost | vain):
            vain.add(digest)
    return vain


def _chosen(specs: tuple[Locked, ...], store: Path) -> set[str]:
    """The missing packages and the explicit ones, because Spack records which are explicit."""
    missing = {spec.hash for spec in database.missing(specs, store)}
    return missing | {spec.hash for spec in specs if spec.explicit and not spec.external}


def classify_missing(
    missing: Iterable[Locked], progress: InstallProgress
) -> tuple[list[Locked], list[Locked], list[Locked]]:
    """The missing packages: those that failed, those that need a missing one, those that Spack did not begin."""
    missing = tuple(missing)
    absent = {spec.hash for spec in missing}
    waiting = [spec for spec in missing if absent & set(spec.needs)]
    rest = [spec for spec in missing if not absent & set(spec.needs)]
    failed = [spec for spec in rest if progress.phase_of(spec) or progress.error_of(spec)]
    return failed, waiting, [spec for spec in rest if spec not in failed]


def explain(failures: Iterable[Failure], waiting: Iterable[Locked], not_begun: Iterable[Locked]) -> str:
    """The failures one by one, then the packages that are missing because of them."""
    failures = list(failures)
    parts = [str(failed) for failed in failures[:NAMED]]
    if failures[NAMED:]:
        parts.append(f"and {len(failures) - NAMED} more failed: {_names(f.spec for f in failures[NAMED:])}")
    if names := _names(waiting):
        parts.append(f"not tried, because they need a package that failed: {names}")
    if names := _names(not_begun):
        parts.append(f"not begun: {names}")
    return "\n".join(parts)


def _names(specs: Iterable[Locked]) -> str:
    return ", ".join(sorted(spec.name for spec in specs))


def _error(missing: int, total: int, why: str, failures: Iterable[Failure], output: Path) -> SpackError:
    logs = [failed.log for failed in failures if failed.log]
    remedy = (
        *(f"less {log}" for log in logs[:NAMED]),
        f"less {output}",
        "petal-node bootstrap    (continues; the other packages stay)",
    )
    return SpackError(f"{missing} of {total} packages are not installed", why=why, remedy=remedy, code="spack-install")


def _no_space(spack: Spack, failures: Iterable[Failure], why: str) -> SpackError:
    """ENOSPC does not name the file system, so this reports the free space on every one that a build writes to."""
    places = (spack.places.store, spack.places.scratch / "stage")
    left = ", ".join(f"{place} has {_free(place) >> 20} MiB left" for place in places)
    used = "".join(f"; the build of {each.spec.name} held {each.used >> 20} MiB" for each in failures if each.used)
    return SpackError(
        "a disk is full, so packages are not installed",
        why=f"{left}{used}\n{why}",
        remedy=(
            f"df -h {places[0]} {places[1]}; df -i {places[0]} {places[1]}",
            "free space there or grow the volume: a build needs several times as much",
            "petal-node bootstrap    (continues; installed packages stay)",
        ),
        code="file-no-space",
    )


def _free(place: Path) -> int:
    """Free bytes on the file system of a directory that may not exist yet."""
    there = next(path for path in (place, *place.parents) if path.exists())
    return shutil.disk_usage(there).free


def _keep(spec: Locked, progress: InstallProgress, stage: Path, logs: Path) -> Failure:
    """Copies a failed package's log out of its stage and removes the stage, to free the disk."""
    kept: Path | None = None
    used = 0
    for place in (*stage.glob(f"spack-stage-*-{spec.hash}"), *stage.glob(f"*/spack-stage-*-{spec.hash}")):
        if (place / BUILD_LOG).is_file():
            kept = logs / f"{spec.name}-{spec.version}-{spec.hash[:7]}.log"
            make_dir(logs)
            shutil.copyfile(place / BUILD_LOG, kept)
        used += size_of(place)
        remove_tree(place)
    error = progress.error_of(spec).replace("==> Error: ", "").splitlines()
    lines = _last_lines(kept) if kept else tuple(error[:LINES])
    return Failure(spec, progress.phase_of(spec) or "fetch", lines, kept, used)


def _last_lines(log: Path) -> tuple[str, ...]:
    """The end of a build log, without blank lines and without Spack's own."""
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line.rstrip() for line in text.splitlines() if line.strip() and not line.startswith("==> ")]
    return tuple(line[:WIDTH] for line in lines[-LINES:])


def prune(directory: Path) -> None:
    """Keeps the logs of the newest runs that have some; run ids sort by time."""
    runs = sorted(place for place in directory.iterdir() if place.is_dir()) if directory.is_dir() else []
    for place in runs[:-KEPT_RUNS]:
        remove_tree(place)
