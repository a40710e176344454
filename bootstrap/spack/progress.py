"""The progress of an install, from the lines that Spack prints: counts, names, phases and elapsed time.

Spack 1.1 and 0.23 print these lines into a pipe, with the lines of several packages mixed
(lib/spack/spack/installer.py)::

    ==> Installing zlib-1.3.1-<hash>                         0.23 appends [3/9]
    ==> zlib: Executing phase: 'build'
    ==> zlib: Successfully installed zlib-1.3.1-<hash>
    ==> Extracting zlib-1.3.1-<hash> from binary cache
    [+] /opt/petal/store/<platform>/zlib-1.3.1-<hash, cut>   it was installed before, or by another process
    ==> Error: ...                                           with the lines that follow, until Spack's next line
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable

from ..core.deadlines import HEARTBEAT, REFRESH
from ..core.text import at_most
from ..host.log import LOG
from .lockfile import Locked

IDLE_SECONDS = 30.0
SHOWN = 4
INSTALLING = re.compile(r"^==> Installing (\S+)")
PHASE = re.compile(r"^==> (?:\d+: )?(\S+): Executing phase: '(\w+)'")
INSTALLED = re.compile(r"^==> (?:\d+: )?\S+: Successfully installed (\S+)|^\[\+\] (/\S+)")
EXTRACTING = re.compile(r"^==> Extracting (\S+) from binary cache")
ERROR = re.compile(r"^==> Error: ")
SUMMARY = "Package was not installed"  # also for packages that Spack never began
PARENT = re.compile(r"^==> (Warning: Skipping|Installing|Extracting|No binary for) ")
CHILD = re.compile(r"^(==> |\[\+\] |  Stage: )")
FIRST_PHASE = "fetch"  # until Spack names a phase, it fetches, unpacks and patches


class InstallProgress:
    """Follows one install.

    Args:
        specs: every package that is to be installed at the end, without externals.
        present: hashes of those that are installed already.
        cached: hashes of those that are installed already and came from a build cache.
        started: when the install began, in seconds of the clock that ``text`` is given.
    """

    def __init__(
        self, specs: Iterable[Locked], present: Iterable[str], cached: Iterable[str] = (), started: float = 0.0
    ) -> None:
        self._specs = {spec.hash: spec for spec in specs}
        self._started = started
        self._done = set(present) & set(self._specs)
        self._cached = set(cached) & self._done
        self._running: dict[str, None] = {}  # in the order in which they began
        self._phases: dict[str, str] = {}
        self._errors: dict[str, list[str]] = {}
        self._block: list[str] = []
        self._in_error = False

    def line(self, text: str) -> bool:
        """Takes one line of Spack's output; True if it changes how far the install is."""
        changed = False
        if ERROR.match(text) or PARENT.match(text):
            changed = self._close_block()
            self._in_error = bool(ERROR.match(text)) and SUMMARY not in text
        changed = self._apply(text) or changed
        if self._in_error and (ERROR.match(text) or not CHILD.match(text)):  # builders' lines can come in between
            self._block.append(text)
        return changed

    def end(self) -> None:
        """Spack has ended: the error that it printed last counts, too."""
        self._close_block()

    def text(self, now: float) -> str:
        """``installing 7 of 20: hdf5 (build), openmpi (configure); 6 min elapsed``; 7 are installed."""
        cached = len(self._cached & self._done)
        names = [f"{self._specs[digest].name} ({self._phases[digest]})" for digest in self._running]
        parts = [
            f"installing {len(self._done)} of {len(self._specs)}",
            f" ({cached} from a build cache)" if cached else "",
            f": {', '.join(at_most(SHOWN, names))}" if names else "",
            f"; failed: {', '.join(self._specs[digest].name for digest in self._errors)}" if self._errors else "",
            f"; {elapsed(now - self._started)} elapsed",
        ]
        return "".join(parts)

    def phase_of(self, spec: Locked) -> str | None:
        """The last phase that a package was in, None if it was never begun."""
        return self._phases.get(spec.hash)

    def error_of(self, spec: Locked) -> str:
        """Spack's error for a package that failed; empty if there was none."""
        return "\n".join(self._errors.get(spec.hash, ()))

    def _apply(self, text: str) -> bool:
        if digest := self._hash_in(INSTALLING.match(text)):
            self._running.pop(digest, None)
            self._running[digest] = None
            self._phases[digest] = FIRST_PHASE
        elif digest := self._hash_in(EXTRACTING.match(text)):
            self._cached.add(digest)
            self._phases[digest] = "unpack"
        elif match := PHASE.match(text):
            same = [digest for digest in self._running if self._specs[digest].name == match[1]]
            if not same:
                return False
            self._phases[same[-1]] = match[2]  # Spack prints the name only: of two builds of one name, the later
        elif (digest := self._hash_in(INSTALLED.match(text))) and digest not in self._done:
            self._running.pop(digest, None)
            self._done.add(digest)
        else:
            return False
        return True

    def _hash_in(self, match: re.Match[str] | None) -> str:
        """The hash that a match's text ends with, whole or as much of it as a prefix has; empty if it is unknown."""
        if match is None:
            return ""
        digest = str(match[match.lastindex or 0]).rsplit("-", 1)[-1]
        fitting = [known for known in self._specs if len(digest) >= 7 and known.startswith(digest)]
        return fitting[0] if len(fitting) == 1 else ""

    def _close_block(self) -> bool:
        """Gives an error to the package whose hash it names anywhere; the first error of a package is the fullest."""
        text = "\n".join(self._block)
        lines, self._block, self._in_error = [line for line in self._block if line.strip()], [], False
        named = [digest for digest in self._specs if lines and digest in text and digest not in self._done]
        for digest in [digest for digest in named if digest in self._running] or named:
            self._running.pop(digest, None)
            self._errors.setdefault(digest, lines)
        return bool(named)


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
            self._report(REFRESH)

    def idle(self) -> None:
        """Called each second: reports a change that waits, and the elapsed time."""
        self._report(REFRESH if self._changed else IDLE_SECONDS)

    def _report(self, interval: float) -> None:
        now = self._clock()
        if now - self._reported < interval:
            return
        self._reported, self._changed = now, False
        text = self._progress.text(now)
        self._tell(text)
        if now - self._logged >= HEARTBEAT:
            self._logged = now
            LOG.info("%s", text, extra={"step": "spack"})


def elapsed(seconds: float) -> str:
    """``12 s``, ``6 min``, ``1 h 40 min``."""
    minutes = int(seconds) // 60
    if minutes < 1:
        return f"{max(int(seconds), 0)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"
