"""How far an install is: Spack's lines and the locked specs in, counts, names, phases and the time left out. Pure.

What Spack 1.1 and 0.23 print into a pipe, one package beside the other (lib/spack/spack/installer.py)::

    ==> Installing zlib-1.3.1-<hash>                         or, by 0.23:  ... [3/9]
    ==> zlib: Executing phase: 'build'
    ==> zlib: Successfully installed zlib-1.3.1-<hash>
    ==> Extracting zlib-1.3.1-<hash> from binary cache
    [+] /opt/petal/store/<platform>/zlib-1.3.1-<hash, cut>   also what was there before, or another process has built
    ==> Error: ...                                           with what follows, until Spack's next line
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .lockfile import Locked

INSTALLING = re.compile(r"^==> Installing (\S+)")
PHASE = re.compile(r"^==> (?:\d+: )?(\S+): Executing phase: '(\w+)'")
INSTALLED = re.compile(r"^==> (?:\d+: )?\S+: Successfully installed (\S+)")
EXTRACTING = re.compile(r"^==> Extracting (\S+) from binary cache")
PRESENT = re.compile(r"^\[\+\] (/\S+)")
ERROR = re.compile(r"^==> Error: ")
SUMMARY = "Package was not installed"  # of those that were never begun, too
PARENT = re.compile(r"^==> (Warning: Skipping|Installing|Extracting|No binary for) ")
CHILD = re.compile(r"^(==> |\[\+\] |  Stage: )")
FIRST_PHASE = "fetch"  # until Spack names one, it fetches, unpacks and patches
SHOWN = 4


@dataclass(frozen=True)
class Running:
    """A package that is being built, and what is done for it now."""

    name: str
    phase: str


@dataclass(frozen=True)
class Progress:
    """Where an install stands. ``left`` is an estimate in seconds, None while nothing is known to make one from.

    ``cached``: how many of those that are done came from a build cache.
    """

    done: int
    total: int
    running: tuple[Running, ...] = ()
    failed: tuple[str, ...] = ()
    left: float | None = None
    cached: int = 0

    def __str__(self) -> str:
        """``installing 7 of 20: hdf5 (build), openmpi (configure); about 6 min left``; 7 are done."""
        names = [f"{package.name} ({package.phase})" for package in self.running]
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = f": {', '.join(names[:SHOWN])}{more}" if names else ""
        failed = f"; failed: {', '.join(self.failed)}" if self.failed else ""
        left = f"; {in_words(self.left)} left" if self.left is not None else ""
        cached = f" ({self.cached} from a build cache)" if self.cached else ""
        return f"installing {self.done} of {self.total}{cached}{shown}{failed}{left}"


def in_words(seconds: float) -> str:
    """A duration as an estimate is said: ``about 6 min``."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60:02} min"


@dataclass
class Watch:
    """Follows one install by what Spack prints.

    Args:
        specs: everything that is to be there at the end, without externals.
        present: hashes of those that are there already.
        processes: packages that are built at the same time.
        seconds: how long a package of this name took before, here or in an earlier install.
        cached: hashes of those that are there and came from a build cache.
    """

    specs: tuple[Locked, ...]
    present: Iterable[str]
    processes: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    cached: Iterable[str] = ()

    def __post_init__(self) -> None:
        self._by_hash = {spec.hash: spec for spec in self.specs}
        self._done = set(self.present) & set(self._by_hash)
        self._cached = set(self.cached) & self._done
        self._started: dict[str, float] = {}
        self._phases: dict[str, str] = {}
        self._measured: list[float] = []
        self._errors: dict[str, list[str]] = {}
        self._block: list[str] = []
        self._in_error = False

    def line(self, text: str, now: float) -> bool:
        """Takes one line that came at ``now`` (seconds of any clock); True when it changes how far the install is."""
        told = False
        if ERROR.match(text) or PARENT.match(text):
            told = self._close_block()
            self._in_error = bool(ERROR.match(text)) and SUMMARY not in text
        told = self._begun(text, now) or self._unpacked(text) or self._phased(text) or self._ended(text, now) or told
        if self._in_error and (ERROR.match(text) or not CHILD.match(text)):  # builders' lines can come in between
            self._block.append(text)
        return told

    def end(self) -> None:
        """Spack has ended: its last words count too."""
        self._close_block()

    def at(self, now: float) -> Progress:
        """Where the install stands."""
        running = tuple(Running(self._by_hash[digest].name, self._phases[digest]) for digest in self._started)
        failed = tuple(self._by_hash[digest].name for digest in self._errors)
        cached = len(self._cached & self._done)
        return Progress(len(self._done), len(self.specs), running, failed, self._left(now), cached)

    def phase_of(self, spec: Locked) -> str | None:
        """The last phase that a package was in, None when it was never begun."""
        return self._phases.get(spec.hash)

    def error_of(self, spec: Locked) -> str:
        """What Spack said when the package failed, empty when it said nothing of it."""
        return "\n".join(self._errors.get(spec.hash, ()))

    def _begun(self, text: str, now: float) -> bool:
        spec = self._named(INSTALLING.match(text))
        if spec is None:
            return False
        self._started[spec.hash] = now
        self._phases[spec.hash] = FIRST_PHASE
        return True

    def _unpacked(self, text: str) -> bool:
        spec = self._named(EXTRACTING.match(text))
        if spec is None:
            return False
        self._cached.add(spec.hash)
        self._phases[spec.hash] = "unpack"
        return True

    def _phased(self, text: str) -> bool:
        found = PHASE.match(text)
        digests = [digest for digest in self._started if found and self._by_hash[digest].name == found.group(1)]
        for digest in digests[-1:]:  # Spack says the name only; of two builds of one name the later one is meant
            self._phases[digest] = found.group(2) if found else FIRST_PHASE
        return bool(digests)

    def _ended(self, text: str, now: float) -> bool:
        spec = self._named(INSTALLED.match(text)) or self._named(PRESENT.match(text))
        if spec is None or spec.hash in self._done:
            return False
        started = self._started.pop(spec.hash, None)
        if started is not None:
            self._measured.append(now - started)
        self._done.add(spec.hash)
        return True

    def _named(self, found: re.Match[str] | None) -> Locked | None:
        """The spec that a match's text ends with: its whole hash, or as much of it as a prefix has."""
        if found is None:
            return None
        digest = found.group(1).rsplit("-", 1)[-1]
        fits = [spec for spec in self.specs if len(digest) >= 7 and spec.hash.startswith(digest)]
        return fits[0] if len(fits) == 1 else None

    def _close_block(self) -> bool:
        """Gives an error to the package whose hash it names, wherever it stands; the first one is the fullest."""
        text = "\n".join(self._block)
        lines, self._block, self._in_error = [line for line in self._block if line.strip()], [], False
        named = [digest for digest in self._by_hash if lines and digest in text and digest not in self._done]
        for digest in [digest for digest in named if digest in self._started] or named:
            self._started.pop(digest, None)
            self._errors.setdefault(digest, lines)
        return bool(named)

    def _left(self, now: float) -> float | None:
        known = [*self._measured, *(self.seconds[spec.name] for spec in self.specs if spec.name in self.seconds)]
        if not known:
            return None
        usual = sum(known) / len(known)
        costs = {spec.hash: self.seconds.get(spec.name, usual) for spec in self.specs if spec.hash not in self._done}
        for digest, started in self._started.items():
            costs[digest] = max(costs[digest] - (now - started), 0.0)
        needs = {digest: self._by_hash[digest].needs for digest in costs}
        return makespan(costs, needs, self._started, self.processes, self._errors) if costs else None


def makespan(
    costs: Mapping[str, float],
    needs: Mapping[str, Iterable[str]],
    running: Iterable[str],
    workers: int,
    failed: Iterable[str] = (),
) -> float:
    """How long the packages of ``costs`` take with so many workers, each after what it needs: plays it through.

    Args:
        costs: seconds for each.
        needs: what each one needs; what has no costs is there already.
        running: those that have begun.
        failed: they never end, and so nothing that needs them begins.
    """
    lost = set(failed)
    open_needs = {name: {other for other in needs[name] if other in costs} for name in costs if name not in lost}
    begun = [name for name in running if name in open_needs]
    heap = [(costs[name], name) for name in begun]
    heapq.heapify(heap)
    waiting = [name for name in open_needs if name not in set(begun)]
    clock = 0.0
    while True:
        ready = [name for name in waiting if not open_needs[name]][: max(workers - len(heap), 0)]
        for name in ready:
            heapq.heappush(heap, (clock + costs[name], name))
        waiting = [name for name in waiting if name not in ready]
        if not heap:
            return clock
        clock, ended = heapq.heappop(heap)
        for name in waiting:
            open_needs[name].discard(ended)
