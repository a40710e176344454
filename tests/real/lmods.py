"""Other versions of Lmod than this machine's: 8.7 as Debian trixie has it, and one that is too old."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from bootstrap.host.system import System
from tests.lab import sources
from tests.world import World, lmod_of_this_machine

NEWER, TOO_OLD = "8.7.60", "8.4.31"
NEEDED = ("make", "bc", "tclsh")  # by its configure and make install


def newer(place: Path) -> Path:
    """Installs Lmod 8.7.60 from its source below ``place``, with this machine's Lua; skips where that cannot be."""
    absent = [program for program in NEEDED if not shutil.which(program)]
    if lmod_of_this_machine() is None or absent:
        pytest.skip(f"Lmod {NEWER} needs Lmod's Lua and {', '.join(absent or NEEDED)}")
    try:
        archive = sources.place(sources.mirror("lmod"), sources.SOURCES["lmod"])
    except sources.SourceError as error:
        pytest.skip(f"no source of Lmod {NEWER}: {error}")
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar if not re.search(r"/(rt|docs|my_docs|contrib|testDir)/", member.name)]
        tar.extractall(place / "source", wanted)
    (source,) = (place / "source").iterdir()
    for argv in (["./configure", f"--prefix={place}", "--with-fastTCLInterp=no"], ["make", "install"]):
        subprocess.run(argv, cwd=source, check=True, capture_output=True, timeout=300)
    shutil.rmtree(source.parent)
    return place / "lmod" / "lmod"


def too_old(newer: Path, place: Path) -> Path:
    """A real Lmod that says that it is an older one."""
    shutil.copytree(newer, place)
    version = place / "libexec" / "Version.lua"
    text = version.read_text(encoding="utf-8")
    assert NEWER in text
    version.write_text(text.replace(NEWER, TOO_OLD), encoding="utf-8")
    program = place / "libexec" / "lmod"
    program.write_text(program.read_text(encoding="utf-8").replace(str(newer), str(place)), encoding="utf-8")
    return place


class RealWorld(World):
    """A node whose Lmod is this machine's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        real = System()
        fake = self.system.run

        def run(argv: list[str], **options: object):  # type: ignore[no-untyped-def]
            ours = "lmod" in argv[0] or Path(argv[0]).name.startswith("lua")
            return (real.run if ours else fake)(argv, **options)  # type: ignore[arg-type]

        self.system.run = run  # type: ignore[assignment,method-assign]
