"""Texts that are compared with golden files (``UPDATE_GOLDEN=1`` rewrites them), and Lua files parsed by a real Lua."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

# ``luac -p`` only parses. Lmod depends on Lua; Debian's Lua includes its compiler.
COMPILERS = ("luac5.4", "luac5.3", "luac")


def compare_with_golden(golden: Path, text: str) -> None:
    """Compare a text with its golden file."""
    if os.environ.get("UPDATE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


def lua_error(path: Path) -> str:
    """The syntax error of Lua in a file, or an empty string; an error text if no Lua is installed."""
    compiler = next((program for program in COMPILERS if shutil.which(program)), None)
    if compiler is None:
        return "no luac is on this machine"
    done = subprocess.run([compiler, "-p", path], capture_output=True, text=True, timeout=30, check=False)
    return done.stderr
