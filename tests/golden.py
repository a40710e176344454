"""Texts that are held against golden files (``UPDATE_GOLDEN=1`` writes those anew), and Lua that a real Lua reads."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# ``luac -p`` parses, and runs nothing. Lmod brings Lua; Debian's Lua has its compiler with it.
COMPILERS = ("luac5.4", "luac5.3", "luac")


def held(golden: Path, text: str) -> None:
    """Compares a text with its golden file."""
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def trouble_with_lua(path: Path) -> str:
    """What Lua says of a file that is none; also where no Lua is here."""
    compiler = next((program for program in COMPILERS if shutil.which(program)), None)
    if compiler is None:
        return "no luac is on this machine"
    done = subprocess.run([compiler, "-p", path], capture_output=True, text=True, timeout=30, check=False)
    return done.stderr
