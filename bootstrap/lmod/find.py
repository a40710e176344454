"""Which Lmod the shells of a node get: the machine's own where it is new enough, else the stack's on local disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.errors import LmodError, PetalError
from ..core.paths import Paths
from ..host.system import System
from ..state.context import Context

PLACES = ("/usr/share/lmod/lmod", "/opt/apps/lmod/lmod", "/usr/share/lmod")
OLDEST = (8, 5)
LOOK_SECONDS = 20.0
NONE = "this node has no Lmod"


@dataclass(frozen=True)
class Lmod:
    """An Lmod.

    Args:
        place: the directory that holds init/ and libexec/.
        numbers: its version, ``(8, 6, 19)``; empty where it does not say.
    """

    place: Path
    numbers: tuple[int, ...]

    @property
    def version(self) -> str:
        """``8.6.19``."""
        return dotted(self.numbers)

    @property
    def trouble(self) -> str:
        """Why it will not do, or an empty string."""
        if self.numbers >= OLDEST:
            return ""
        return f"Lmod {self.version or 'unknown'} in {self.place} is too old, {dotted(OLDEST)} is needed"


def find(ctx: Context) -> Lmod | None:
    """The image's Lmod if it is new enough, else the copy of the release's; None if the node has neither."""
    own = of_machine(ctx.system)
    if own is not None and not own.trouble:
        return own
    return of_stack(ctx.system, ctx.paths) or own


def of_machine(system: System) -> Lmod | None:
    """What the machine's image brought, or whoever made it: the first that will do, else the first."""
    asked: list[Lmod] = []
    for place in places_on_machine():
        asked.append(_asked(system, place))
        if not asked[-1].trouble:
            return asked[-1]
    return asked[0] if asked else None


def places_on_machine() -> tuple[Path, ...]:
    """Where the machine's own lies, whatever its version."""
    return tuple(place for place in map(Path, PLACES) if has_lmod(place))


def of_stack(system: System, paths: Paths) -> Lmod | None:
    """The copy of the stack's that this node's shells use."""
    link = paths.lmod_in_use
    return in_copy(system, link.parent / link.readlink()) if link.is_symlink() else None


def copies(system: System, paths: Paths) -> tuple[Lmod, ...]:
    """All copies of the stack's on this node that will do."""
    places = sorted(path for path in paths.lmods.glob("[0-9]*") if path.is_dir())
    asked = (in_copy(system, path) for path in places)
    return tuple(lmod for lmod in asked if lmod is not None and not lmod.trouble)


def in_copy(system: System, copy: Path) -> Lmod | None:
    """The Lmod of one copy of the stack's."""
    place = next(copy.glob("lmod-*/lmod/lmod"), None)
    return _asked(system, place) if place is not None and has_lmod(place) else None


def has_lmod(place: Path) -> bool:
    """True where a directory is one of Lmod."""
    return (place / "libexec" / "lmod").is_file()


def dotted(numbers: tuple[int, ...]) -> str:
    """``8.6.19``."""
    return ".".join(map(str, numbers))


def numbers_of(version: str) -> tuple[int, ...]:
    """The numbers that a version begins with, without what a distribution puts before or behind: ``8.6.19-1``."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found.group(1).split(".")) if found else ()


def _asked(system: System, place: Path) -> Lmod:
    program = place / "libexec" / "lmod"
    try:
        return Lmod(place, _answer(system, program, program.stat().st_ctime_ns))
    except PetalError:
        return Lmod(place, ())


@lru_cache(maxsize=32)  # steps and checks ask in turn, and each start of Lmod costs a node's start 20 ms
def _answer(system: System, program: Path, changed: int) -> tuple[int, ...]:  # noqa: ARG001 - part of the key
    """What it says of its version; asked once in a process, and again where it did not answer or the file changed."""
    done = system.run([str(program), "bash", "--version"], timeout=LOOK_SECONDS, ok=None)
    found = re.search(r"Version (\d+(?:\.\d+)*)", done.stderr + done.stdout)
    if not found:
        raise LmodError(f"{program} reports no version", remedy=f"{program} bash --version", code="lmod-incomplete")
    return numbers_of(found.group(1))
