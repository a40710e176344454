"""Real processes whose stdout is closed, full, or a pipe without a reader."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
PROGRAM = f"{sys.executable} -m bootstrap"
# The program, which reports when it waits for room in a pipe.
WAITS = """
import os, select
real = select.select
select.select = lambda *arguments: (os.write(2, b"waits\\n"), real(*arguments))[1]
from bootstrap.cli import entry
entry()
"""
FULL = "petal-node: the output could not be written: No space left on device\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [("version", 0), ("--help", 0), ("status --json", 0), ("check", 1), ("stauts", 2)],
)
def test_a_closed_or_full_stdout_ends_without_a_traceback(arguments: str, code: int, tmp_path: Path) -> None:
    command = f"{PROGRAM} {arguments} {'' if code == 2 else f'--root {tmp_path}'}"
    script = (
        f"{command} >&-; echo $? >&2; {command} >&- 2>&-; echo $? >&2; {command} 2>&-; echo $? >&2\n"
        f"{command} | true; echo ${{PIPESTATUS[0]}} >&2; {command} >/dev/full; echo $? >&2\n"
        f"FORCE_COLOR=1 {command} >/dev/full 2>/dev/full; echo $? >&2\n"
    )
    done = subprocess.run(["bash", "-c", script], cwd=TOP, capture_output=True, text=True, timeout=60, check=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    codes = [line for line in done.stderr.splitlines() if line.isdecimal()]
    assert codes == [str(code)] * 4 + [str(code or 1)] * 2
    assert (FULL in done.stderr) == (code == 0)


def test_a_hook_with_a_full_stdout_exits_0(tmp_path: Path) -> None:
    command = f"{PROGRAM} hook nonsense --root {tmp_path} >/dev/full 2>/dev/full"
    assert subprocess.run(["bash", "-c", command], cwd=TOP, timeout=60, check=False).returncode == 0


def test_a_full_pipe_that_does_not_block_gets_all_output() -> None:
    """Another process with the same pipe, for example ssh, made it non-blocking."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(writer, False)
    command = [sys.executable, "-c", WAITS, "status", "--help"]
    with subprocess.Popen(command, cwd=TOP, stdout=writer, stderr=subprocess.PIPE) as process:
        os.write(writer, b"x" * 4000)
        os.close(writer)
        assert process.stderr is not None
        assert process.stderr.readline() == b"waits\n"
        with os.fdopen(reader, "rb") as stream:
            text = stream.read().decode()
    assert process.returncode == 0
    assert text.endswith("print errors, failures and warnings only\n")
