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
    [("version", 0), ("--help", 0), ("status --json", 3), ("check", 1), ("stauts", 2)],
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
    assert (FULL in done.stderr) == (code in (0, 3))  # other verbs print errors only, to stderr


@pytest.mark.parametrize("order", ["hook nonsense --root {}", "--role compute --root {} -q hook nonsense"])
def test_a_hook_with_a_full_stdout_exits_0(order: str, tmp_path: Path) -> None:
    command = f"{PROGRAM} {order.format(tmp_path)} >/dev/full 2>/dev/full"
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


# The program, with Ctrl-C (SIGINT) at a point outside of the verb.
INTERRUPTED = """
import os, signal
signal.signal(signal.SIGINT, START)
from bootstrap import cli
from bootstrap.host.processes import interrupts_end
from POINT import NAME as real
import POINT
def interrupt(*arguments, **keywords):
    os.kill(os.getpid(), signal.SIGINT)
    return real(*arguments, **keywords)
POINT.NAME = interrupt
interrupts_end()
cli.entry()
"""


def interrupted(point: str, start: str, root: Path) -> subprocess.CompletedProcess[str]:
    module, name = point.split()
    program = INTERRUPTED.replace("POINT", module).replace("NAME", name).replace("START", f"signal.{start}")
    command = [sys.executable, "-c", program, "status", "--root", str(root)]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("point", ["bootstrap.commands.arguments parse", "bootstrap.report.render show"])
def test_ctrl_c_outside_of_the_verb_ends_without_a_traceback(point: str, tmp_path: Path) -> None:
    for start, code in (("default_int_handler", -2), ("SIG_IGN", 3)):
        done = interrupted(point, start, tmp_path)
        assert (done.returncode, done.stderr) == (code, "")


def test_ctrl_c_within_a_verb_is_its_result(tmp_path: Path) -> None:
    done = interrupted("bootstrap.commands.status status", "default_int_handler", tmp_path)
    assert (done.returncode, done.stderr.splitlines()[0]) == (130, "petal-node: interrupted [interrupted]")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("plan --config x.yaml", 2),
        ("bootstrap --root tree", 2),
        ("check --html page.html --root /", 2),
        ("hook start --root tree", 0),
        ("version", 0),
        ("explain usage", 0),
    ],
)
def test_a_working_directory_that_was_removed_causes_no_traceback(arguments: str, code: int, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd gone; rmdir ../gone; {PROGRAM} {arguments}"
    env = {**os.environ, "PYTHONPATH": str(TOP)}
    done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert code == 0 or "the working directory was removed" in done.stderr


@pytest.mark.parametrize(("error", "code"), [("ValueError", 70), ("PermissionError(13, 'x', '/f')", 1)])
def test_an_error_of_the_printer_or_the_log_causes_no_traceback(error: str, code: int, tmp_path: Path) -> None:
    program = f"from bootstrap import cli\ndef broken(*_):\n    raise {error}\ncli._run = broken\ncli.entry()\n"
    for number, (verb, expected) in enumerate(
        (("{} status", code), ("hook start {}", 0), ("-q {} hook start", 0), ("hook start --strict {}", code))
    ):
        root = tmp_path / str(number)
        root.mkdir()
        command = [sys.executable, "-c", program, *verb.format(f"--root {root}").split()]
        done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, "Traceback" in done.stderr) == (expected, False)
        assert done.stderr.startswith("petal-node: ")
        assert len([*root.glob("var/lib/petal-node/crash-*.txt")]) == (code == 70)
