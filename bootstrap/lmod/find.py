"""Which Lmod the shells of a node use: the machine image's if it is new enough, else the release's on local disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..core.deadlines import COMMAND
from ..core.errors import LmodError, PetalError
from ..core.paths import Paths
from ..core.text import first_words
from ..host.files import text_or_empty
from ..host.system import System
from ..state.context import Context

PLACES = ("/usr/share/lmod/lmod", "/opt/apps/lmod/lmod", "/usr/share/lmod")
CHECK_NAME = "lmod"  # of the check that a node has an Lmod that works; the proof waits for it
WHY = 200  # characters of a reason
OLDEST = "8.5"
PROGRAM = Path("libexec/lmod")
NONE = "this node has no Lmod"
# Where Tcl environment-modules lists its directories (modules(1), "Modulepath initial setup"): Red Hat's and Amazon's
# file, Ubuntu's, and that of versions before 4. The commands in ``initrc`` take precedence over the lists.
TCL_COMMANDS = "/etc/environment-modules/initrc"
TCL_LISTS = (
    "/etc/environment-modules/modulespath",
    "/usr/share/modules/init/.modulespath",
    "/usr/share/Modules/init/.modulespath",
)
TCL_USE = re.compile(r"^\s*module\s+use\s+(?:-\S+\s+)*[{\"]?(/[^}\"\n]*)", re.MULTILINE)


@dataclass(frozen=True)
class Lmod:
    """An installed Lmod.

    Args:
        place: the directory that has init/ and libexec/.
        version: ``8.6.19``; empty if Lmod did not report one.
        why: the reason for that.
    """

    place: Path
    version: str
    why: str = ""

    @property
    def problem(self) -> str:
        """Why shells cannot use it, or an empty string."""
        if not self.version:
            return f"{self.place / PROGRAM} does not run: {self.why}"
        return f"Lmod {self.version} in {self.place} is too old, {OLDEST} is needed" if is_old(self.version) else ""


def is_old(version: str) -> bool:
    """True if shells cannot use this version, ``8.6.19`` or ``8.6.19-1``."""
    first, second = (re.findall(r"\d+", text)[:2] for text in (version, OLDEST))
    return [int(part) for part in first] < [int(part) for part in second]


def find_lmod(ctx: Context) -> Lmod | None:
    """The Lmod that this node's shells use.

    Returns:
        The image's if it is new enough, else the release's; without that the image's, which has a ``problem``; None
        if the node has no Lmod.
    """
    lmod = image_lmod(ctx.system)
    if lmod is not None and not lmod.problem:
        return lmod
    return unpacked_lmod(ctx.system, ctx.paths) or lmod


def image_lmod(system: System) -> Lmod | None:
    """The Lmod of the machine image: the first that shells can use, else the first."""
    found = [lmod for lmod in (_read(system, place) for place in image_places()) if lmod is not None]
    return next((lmod for lmod in found if not lmod.problem), found[0] if found else None)


def image_places() -> tuple[Path, ...]:
    """The directories of the image that hold an Lmod of any version."""
    return tuple(place for place in map(Path, PLACES) if (place / PROGRAM).is_file())


def unpacked_lmod(system: System, paths: Paths) -> Lmod | None:
    """The copy of the release's Lmod that this node's shells use."""
    link = paths.lmod_in_use
    return lmod_in(system, link.parent / link.readlink()) if link.is_symlink() else None


def usable_copies(system: System, paths: Paths) -> tuple[Lmod, ...]:
    """All copies on this node of the Lmods of this and of earlier releases that shells can use."""
    copies = sorted(path for path in paths.lmods.glob("[0-9]*") if path.is_dir())
    found = (lmod_in(system, copy) for copy in copies)
    return tuple(lmod for lmod in found if lmod is not None and not lmod.problem)


def lmod_in(system: System, copy: Path) -> Lmod | None:
    """The Lmod in one copy, None if the copy has none."""
    return _read(system, next(copy.glob("lmod-*/lmod/lmod"), copy))


def tcl_modulepath(paths: Paths) -> tuple[str, ...]:
    """The directories that the image's Tcl environment-modules searches: openmpi, libfabric-aws, intelmpi, armpl.

    Bash gets them from the init file of environment-modules. Fish, csh, zsh and dash do not on every distribution, and
    Lmod must find these modules in each shell. The directories are not accessed, because one may be on storage that
    hangs.
    """
    listed = " ".join(TCL_USE.findall(text_or_empty(paths.at(TCL_COMMANDS)))).split()
    for name in TCL_LISTS:
        for line in text_or_empty(paths.at(name)).splitlines():
            listed += line.partition("#")[0].strip().split(":")
    return tuple(path for path in dict.fromkeys(listed) if path.startswith("/") and "$" not in path)


def _read(system: System, place: Path) -> Lmod | None:
    program = place / PROGRAM
    try:
        return Lmod(place, _version(system, program, program.stat().st_ctime_ns))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PetalError as error:
        return Lmod(place, "", error.why or str(error))


@lru_cache(maxsize=32)  # several steps and checks need it, and each start of Lmod costs a node's start 20 ms
def _version(system: System, program: Path, changed: int) -> str:  # noqa: ARG001 - part of the key
    """Raises instead of returning an empty version, so that the cache does not keep it."""
    done = system.run([str(program), "bash", "--version"], timeout=COMMAND, ok=None)
    found = re.search(r"Version (\d+(?:\.\d+)*)", done.stderr + done.stdout)
    if not found:
        lines = map(str.strip, (done.stderr + done.stdout).splitlines())
        why = next(filter(None, lines), f"it ended with {done.returncode}")
        what, remedy = f"{program} reports no version", f"{program} bash --version"
        raise LmodError(what, why=first_words(why, WHY), remedy=remedy, code="lmod-incomplete")
    return found.group(1)
