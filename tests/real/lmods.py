"""Versions of Lmod other than this machine's: 8.7 as in Debian trixie, and one that is too old."""

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
NEEDED = ("make", "bc", "tclsh")  # for its configure and make install


def newer(place: Path) -> Path:
    """Install Lmod 8.7.60 from source below ``place`` with this machine's Lua; skip if that is not possible."""
    absent = [program for program in NEEDED if not shutil.which(program)]
    if lmod_of_this_machine() is None or absent:
        pytest.skip(f"Lmod {NEWER} needs Lmod's Lua and {', '.join(absent or NEEDED)}")
    try:
        archive = sources.place(sources.mirror("lmod"), sources.SOURCES["lmod"])
    except sources.SourceError as error:
        pytest.skip(f"the source of Lmod {NEWER} cannot be fetched: {error}")
    with tarfile.open(archive) as tar:
        wanted = [member for member in tar if not re.search(r"/(rt|docs|my_docs|contrib|testDir)/", member.name)]
        tar.extractall(place / "source", wanted)
    (source,) = (place / "source").iterdir()
    for argv in (["./configure", f"--prefix={place}", "--with-fastTCLInterp=no"], ["make", "install"]):
        subprocess.run(argv, cwd=source, check=True, capture_output=True, timeout=300)
    shutil.rmtree(source.parent)
    return place / "lmod" / "lmod"


def too_old(newer: Path, place: Path) -> Path:
    """A real Lmod that reports an older version."""
    shutil.copytree(newer, place)
    version = place / "libexec" / "Version.lua"
    text = version.read_text(encoding="utf-8")
    assert NEWER in text
    version.write_text(text.replace(NEWER, TOO_OLD), encoding="utf-8")
    program = place / "libexec" / "lmod"
    program.write_text(program.read_text(encoding="utf-8").replace(str(newer), str(place)), encoding="utf-8")
    return place


class RealWorld(World):
    """A node with this machine's Lmod."""

    def __post_init__(self) -> None:
        super().__post_init__()
        real = System()
        fake = self.system.run

        def run(argv: list[str], **options: object):  # type: ignore[no-untyped-def]
            ours = "lmod" in argv[0] or Path(argv[0]).name.startswith("lua")
            return (real.run if ours else fake)(argv, **options)  # type: ignore[arg-type]

        self.system.run = run  # type: ignore[assignment,method-assign]
