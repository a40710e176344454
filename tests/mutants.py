"""``make mutants``: break lines of safety code one at a time, and see whether a test fails.

A mutant that survives is a guarantee without a test. Each mutant runs in a copy of this repository, with the test
files that concern it; ``ARGS="name"`` runs the mutants whose text contains a word, ``ARGS="--write"`` rewrites
docs/dev/mutants.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from tests.mutants_list import MUTANTS, Mutant

TOP = Path(__file__).parents[1]
REPORT = TOP / "docs" / "dev" / "mutants.md"
COPIES = 2  # at the same time: half of the tests wait
TIMEOUT = 900.0
TEXT = """\
# Mutants

`make mutants ARGS=--write` writes this file. Each row is one line of safety code that was broken on purpose; the test
in the last column is the first one that failed because of it. {killed} of {total} mutants were killed, {survived}
survived, in {minutes:.0f} minutes.

| guarantee that was broken | file | first test that failed |
|---|---|---|
{rows}
"""


@dataclass(frozen=True)
class Verdict:
    """The result for one mutant: the first test that failed, empty if it survived; ``note`` says why not."""

    mutant: Mutant
    test: str
    note: str
    seconds: float

    def __str__(self) -> str:
        word = "killed" if self.test else "SURVIVED"
        return f"{word:<9} {self.mutant.broken} ({self.mutant.file}): {self.test or self.note} [{self.seconds:.0f} s]"


def files_of(mutant: Mutant) -> list[str]:
    return [f"tests/{name.replace('/', '/test_')}.py" for name in mutant.tests.split()]


def outdated(mutants: Sequence[Mutant]) -> list[str]:
    """The mutants whose line is not in its file exactly once."""
    texts = {mutant.file: (TOP / mutant.file).read_text(encoding="utf-8") for mutant in mutants}
    return [f"{one.broken}: {one.file}" for one in mutants if texts[one.file].count(one.old) != 1]


def copy_repository(target: Path) -> None:
    """Copies the tracked files, with the virtual environment and dist/ as links."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True).stdout
    for name in os.fsdecode(listed).split("\0"):
        if name and (TOP / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(TOP / name, target / name)
    (target / ".venv").symlink_to((TOP / ".venv").resolve())
    shutil.copytree(TOP / "dist", target / "dist")
    subprocess.run(["git", "init", "-q", str(target)], check=True)
    subprocess.run(["git", "add", "-A"], cwd=target, check=True)


def run_tests(copy: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Exit code and output of pytest in a copy; code 1 after ``TIMEOUT`` seconds, because a mutant may hang a test."""
    temporary = copy.with_suffix(".tmp")  # a short path: the kernel cuts a long #! line of Spack's scripts
    temporary.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    env = {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(temporary), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(command, cwd=copy, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return 1, f"FAILED after {TIMEOUT:.0f} s without an end"
    return done.returncode, done.stdout


def judge(mutant: Mutant, copy: Path) -> Verdict:
    """The verdict about one mutant. A test that fails only once, as under load, does not count."""
    path, started = copy / mutant.file, time.monotonic()
    original = path.read_text(encoding="utf-8")
    path.write_text(original.replace(mutant.old, mutant.new), encoding="utf-8")
    flaky: list[str] = []
    try:
        while True:
            code, output = run_tests(copy, [*files_of(mutant), *(f"--deselect={test}" for test in flaky)])
            test = failed_test(output) if code == 1 else ""
            if not test or run_tests(copy, [test.split("[")[0]])[0]:
                break
            flaky.append(test)
    finally:
        path.write_text(original, encoding="utf-8")
    lines = output.splitlines()
    return Verdict(mutant, test, lines[-1] if lines else f"pytest exits {code}", time.monotonic() - started)


def failed_test(output: str) -> str:
    """The first test that failed, from pytest's last lines."""
    lines = output[output.rfind("short test summary") :].splitlines()
    failed = [line.split(" ", 1)[1].split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]
    return failed[0] if failed else ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make mutants")
    parser.add_argument("word", nargs="*", help="only mutants whose text or file contains a word")
    parser.add_argument("--write", action="store_true", help=f"rewrite {REPORT.relative_to(TOP)}")
    options = parser.parse_args()
    chosen = [one for one in MUTANTS if not options.word or any(w in f"{one.broken} {one.file}" for w in options.word)]
    if missing := outdated(chosen):
        print("\n".join(["the list is outdated; the line of these mutants is not in its file once:", *missing]))
        return 2
    started, verdicts = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="pm-") as directory:
        copies: SimpleQueue[Path] = SimpleQueue()
        for number in range(COPIES):
            copy_repository(Path(directory, str(number)))
            copies.put(Path(directory, str(number)))
        first = Path(directory, "0")
        tests = sorted({test for one in chosen for test in files_of(one)})
        code, output = run_tests(first, tests)
        if code:
            print(output)
            print("tests fail without a mutant")
            return 1
        lock = threading.Lock()

        def work(mutant: Mutant) -> Verdict:
            copy = copies.get()
            try:
                verdict = judge(mutant, copy)
            finally:
                copies.put(copy)
            with lock:
                print(verdict, flush=True)
            return verdict

        with ThreadPoolExecutor(COPIES) as threads:
            verdicts = list(threads.map(work, chosen))
    survived = [one for one in verdicts if not one.test]
    minutes = (time.monotonic() - started) / 60
    print(f"{len(verdicts)} mutants, {len(survived)} survived, {minutes:.0f} minutes")
    if options.write:
        rows = "\n".join(f"| {one.mutant.broken} | `{one.mutant.file}` | `{one.test or 'none'}` |" for one in verdicts)
        killed = len(verdicts) - len(survived)
        values = {"killed": killed, "total": len(verdicts), "survived": len(survived), "minutes": minutes}
        REPORT.write_text(TEXT.format(rows=rows, **values), encoding="utf-8")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
