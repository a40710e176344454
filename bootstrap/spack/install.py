"""Installs the packages of a lockfile on all cores, with progress, and reports which packages failed and why.

``spack install`` locks every requested package and its dependencies, externals too, until it ends: all dependencies of
a package that is built, and the link and run dependencies of an installed one. All of these locks are bytes of one
file, ``.spack-db/prefix_lock`` (lib/spack/spack/installer.py: BuildRequest; /proc/locks shows it). EFS allows 512 locks
on a file, over all clients (EFS user guide, "Amazon EFS quotas and limits"), so there an install runs in slices.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import SpackError, full_disk_code, full_disk_remedy
from ..core.text import at_most, first_words, quoted
from ..host.files import make_dir, remove_tree, size_of
from ..host.log import LOG
from ..host.system import Completed
from . import database
from .cache.pull import Pulled
from .driver import Spack, failure
from .lockfile import Locked, locked_specs
from .progress import FIRST_PHASE, InstallProgress, ProgressReporter

LINES = 10
WIDTH = 200
NAMED = 6
KEPT_RUNS = 5
BUILD_LOG = "spack-build-out.txt"


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


def install_missing(spack: Spack, tell: Callable[[str], None], logs: Path) -> None:
    """Installs the packages of the lockfile that the store lacks, as many of them as possible.

    Args:
        tell: gets the progress, a line at a time.
        logs: a directory of this run, for the logs of packages that fail.

    Raises:
        SpackError: ``spack-install``, with each package that failed, and those that were not tried because of it;
            ``file-no-space``, ``file-quota``.
    """
    store = spack.places.store
    specs = tuple(spec for spec in locked_specs(spack.lockfile) if not spec.external)
    lacking = {spec.hash for spec in database.missing(specs, store)}
    present = [spec.hash for spec in specs if spec.hash not in lacking]
    progress = InstallProgress(specs, present, database.from_cache(specs, store), time.monotonic())
    done = _run(spack, ProgressReporter(progress, tell))
    progress.end()
    missing = database.missing(specs, store)
    if not missing:
        if done.returncode != 0:
            text = "spack install exited with %d, but all packages are installed: %s"
            LOG.warning(text, done.returncode, failure(done.stdout))
        return
    failed, waiting, not_begun = classify_missing(missing, progress)
    failures = [_failure(spec, progress, spack.places.scratch / "stage", logs) for spec in failed]
    prune(logs.parent)
    why = explain(failures, waiting, not_begun) if failures else failure(done.stdout)
    full = full_disk_code("\n".join((done.stdout, *(line for each in failures for line in each.lines))))
    if full:
        raise _full_disk(spack, failures, why, full)
    kept = [each.log for each in failures if each.log]
    raise SpackError(
        f"packages that are not installed: {len(missing)} of {len(specs)}",
        why=why,
        remedy=(
            *(f"less {quoted(log)}" for log in kept[:NAMED]),
            f"less {quoted(spack.output)}",
            "petal-node bootstrap    # continues; the other packages stay",
        ),
        code="spack-install",
    )


def install_or_build(
    spack: Spack, tell: Callable[[str], None], logs: Path, pulled: Pulled, warn: Callable[[str], None]
) -> None:
    """Like ``install_missing``, but builds a package from source if Spack cannot unpack it from a build cache."""
    try:
        install_missing(spack, tell, logs)
    except SpackError as error:
        if not discard_damaged(spack, error, pulled, warn):
            raise
        install_missing(spack, tell, logs)


def discard_damaged(spack: Spack, error: SpackError, pulled: Pulled, warn: Callable[[str], None]) -> bool:
    """Removes the packages of build caches that Spack could not unpack; False if the install failed for another reason.

    Args:
        warn: gets the names of the packages, which are to be built, and the reason.
    """
    if error.code != "spack-install":
        return False
    damaged = pulled.withdraw(database.missing(locked_specs(spack.lockfile), spack.places.store))
    if damaged:
        names = ", ".join(spec.name for spec in damaged)
        warn(f"{names} cannot be unpacked from a build cache, and will be built: {error.why}")
    return bool(damaged)


def _run(spack: Spack, reporter: ProgressReporter) -> Completed:
    """One install, or one for each slice. Packages that need one that failed in an earlier slice are not tried."""
    limit = spack.locks
    specs, store = locked_specs(spack.lockfile), spack.places.store
    chosen = {spec.hash for spec in database.missing(specs, store)}
    chosen |= {spec.hash for spec in specs if spec.explicit and not spec.external}  # Spack records which are explicit
    if limit is None or len(specs) <= limit or not chosen:
        return _install(spack, reporter)
    ended: list[Completed] = []
    needs = {spec.hash: spec.needs for spec in specs}
    lost: set[str] = set()
    for part in slices(locked_for(specs), chosen, limit):
        hashes = possible(part, needs, lost)
        if hashes:
            ended.append(_install(spack, reporter, hashes))
            lost |= set(hashes) & {spec.hash for spec in database.missing(specs, store)}
        if ended and ended[-1].returncode < 0:
            break
    LOG.info("installed in %d slices, none with more than %d locks", len(ended), limit, extra={"step": "spack"})
    return max(ended, key=lambda done: done.returncode != 0)


def _install(spack: Spack, reporter: ProgressReporter, part: Sequence[str] = ()) -> Completed:
    done = spack.install(reporter.line, reporter.idle, part)
    database.keep_copy(spack.places.store, spack.system.flush)
    return done


def possible(part: Iterable[str], needs: Mapping[str, Iterable[str]], lost: set[str]) -> list[str]:
    """The packages of a slice that need no lost one. The others are added to ``lost``."""
    hashes = []
    for digest in part:
        if digest in lost or not lost.isdisjoint(needs[digest]):
            lost.add(digest)
        else:
            hashes.append(digest)
    return hashes


def locked_for(specs: Iterable[Locked]) -> dict[str, frozenset[str]]:
    """The hashes that are locked to build each spec after its dependencies, in an order in which they can be built."""
    by_hash = {spec.hash: spec for spec in specs}
    when_built: dict[str, frozenset[str]] = {}
    locks: dict[str, frozenset[str]] = {}
    seen: set[str] = set()
    pending = [(digest, False) for digest in reversed(by_hash)]
    while pending:  # without recursion: graphs can be deep
        digest, needs_are_done = pending.pop()
        spec, own = by_hash[digest], frozenset((digest,))
        if needs_are_done:
            when_built[digest] = own.union(*(when_built[other] for other in spec.keeps if other in by_hash))
            locks[digest] = own.union(*(when_built[other] for other in spec.needs if other in by_hash))
        elif digest not in seen:
            seen.add(digest)
            pending.append((digest, True))
            pending += [(other, False) for other in spec.needs if other in by_hash and other not in seen]
    return locks


def slices(locks: Mapping[str, frozenset[str]], chosen: Collection[str], limit: int) -> Iterator[tuple[str, ...]]:
    """The chosen specs in as few slices as their order allows, each of which needs no more locks than ``limit``.

    A spec that needs more by itself has a slice of its own. The order and ``locks`` are those of ``locked_for``.
    """
    part: list[str] = []
    held: frozenset[str] = frozenset()
    for digest in (digest for digest in locks if digest in chosen):
        if part and len(held | locks[digest]) > limit:
            yield tuple(part)
            part, held = [], frozenset()
        part.append(digest)
        held |= locks[digest]
    if part:
        yield tuple(part)


def classify_missing(
    missing: tuple[Locked, ...], progress: InstallProgress
) -> tuple[list[Locked], list[Locked], list[Locked]]:
    """The missing packages: those that failed, those that need a missing one, those that Spack did not begin."""
    absent = {spec.hash for spec in missing}
    waiting = [spec for spec in missing if absent & set(spec.needs)]
    rest = [spec for spec in missing if not absent & set(spec.needs)]
    failed = [spec for spec in rest if progress.phase_of(spec) or progress.error_of(spec)]
    return failed, waiting, [spec for spec in rest if spec not in failed]


def explain(failures: Sequence[Failure], waiting: Iterable[Locked], not_begun: Iterable[Locked]) -> str:
    """The failures one by one, then the packages that are missing because of them."""

    def names(specs: Iterable[Locked]) -> str:
        return ", ".join(sorted(spec.name for spec in specs))

    parts = at_most(NAMED, failures, f" failed: {names(each.spec for each in failures[NAMED:])}")
    if text := names(waiting):
        parts.append(f"not tried, because they need a package that failed: {text}")
    if text := names(not_begun):
        parts.append(f"not begun: {text}")
    return "\n".join(parts)


def _full_disk(spack: Spack, failures: Iterable[Failure], why: str, code: str) -> SpackError:
    """The kernel does not name the file system, so this reports the free space on every one that a build writes to."""
    places = (spack.places.store, spack.places.scratch / "stage")
    disks = ((place, next(path for path in (place, *place.parents) if path.exists())) for place in places)
    left = ", ".join(f"{place} has {shutil.disk_usage(path).free >> 20} MiB left" for place, path in disks)
    used = "".join(f"; the build of {each.spec.name} held {each.used >> 20} MiB" for each in failures if each.used)
    what, advice = "a disk is full", "free space there or grow the volume: a build needs several times as much"
    if code == "file-quota":
        what, advice = "a quota is reached", "raise the quota, or remove files that count (FSx for Lustre: lfs quota)"
    return SpackError(
        f"{what}, so packages are not installed",
        why=f"{left}{used}\n{why}",
        remedy=(
            full_disk_remedy(code, *places),
            advice,
            "petal-node bootstrap    # continues; installed packages stay",
        ),
        code=code,
    )


def _failure(spec: Locked, progress: InstallProgress, stage: Path, logs: Path) -> Failure:
    """Copies a failed package's log out of its stage and removes the stage, to free the disk."""
    log: Path | None = None
    used = 0
    for place in (*stage.glob(f"spack-stage-*-{spec.hash}"), *stage.glob(f"*/spack-stage-*-{spec.hash}")):
        if (place / BUILD_LOG).is_file():
            log = logs / f"{spec.name}-{spec.version}-{spec.hash[:7]}.log"
            make_dir(logs)
            shutil.copyfile(place / BUILD_LOG, log)
        used += size_of(place)
        remove_tree(place)
    lines = progress.error_of(spec).replace("==> Error: ", "").splitlines()[:LINES]
    if log:  # its end, without blank lines and without Spack's own
        text = log.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [first_words(line.rstrip(), WIDTH) for line in text if line.strip() and not line.startswith("==> ")][
            -LINES:
        ]
    return Failure(spec, progress.phase_of(spec) or FIRST_PHASE, tuple(lines), log, used)


def prune(directory: Path) -> None:
    """Keeps the logs of the newest runs that have some; run ids sort by time."""
    runs = sorted(place for place in directory.iterdir() if place.is_dir()) if directory.is_dir() else []
    for place in runs[:-KEPT_RUNS]:
        remove_tree(place)
