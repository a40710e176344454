"""Which Lmod the shells of a node get: the machine's own where it is new enough, else the stack's on local disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import PetalError
from ..paths import Paths
from ..system import System

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


def find(system: System, paths: Paths, which: str = "auto") -> Lmod | None:
    """The Lmod of this node; None where there is none.

    Args:
        which: ``modules.lmod`` of the configuration: ``node`` its own alone, ``stack`` the stack's alone, or ``auto``.
    """
    own = None if which == "stack" else of_machine(system)
    if own is not None and not own.trouble:
        return own
    carried = None if which == "node" else of_stack(system, paths)
    return carried or own


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
    try:
        done = system.run([str(place / "libexec" / "lmod"), "bash", "--version"], timeout=LOOK_SECONDS, ok=None)
    except PetalError:
        return Lmod(place, ())
    found = re.search(r"Version (\d+(?:\.\d+)*)", done.stderr + done.stdout)
    return Lmod(place, numbers_of(found.group(1)) if found else ())
