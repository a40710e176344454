"""``make stacks``: solve every stack for every case, and rewrite stacks.json and the table in docs/stacks.md.

A case takes minutes and up to 2 GB. ``ARGS="starter"`` solves one stack; the others keep their record.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bootstrap.core.errors import PetalError
from bootstrap.host.times import timestamp
from tests.lab import stack as cache
from tests.lab.bench_install import machine
from tests.lab.engine import LabError, print_progress
from tests.spack.stacks import CASES, RECORD, Case, Solved, digest, recorded, shipped, solve

PAGE = Path(__file__).parents[2] / "docs" / "stacks.md"
BEGIN, END = "<!-- solved -->", "<!-- end of solved -->"


def measured(name: str, case: Case) -> Solved:
    """Solve one case in a separate process, so that the resource use of its children is only this Spack's."""
    wheels = cache.clingo_wheels(f"{sys.version_info[0]}.{sys.version_info[1]}", os.uname().machine)
    place = Path(tempfile.mkdtemp(prefix="petal-stack-"))
    try:
        with ProcessPoolExecutor(1) as pool:
            return pool.submit(solve, name, case, place, wheels, cache.lab_cache() / "stacks").result()
    finally:
        shutil.rmtree(place, ignore_errors=True)


def record(name: str, case: Case, solved: Solved) -> None:
    """Add one case to the record at once, so that an interrupted run keeps the solved cases."""
    stacks = {known: found for known, found in recorded().items() if known in shipped()}
    entry = {"digest": digest(name), "when": timestamp(), "machine": machine()}
    stacks.setdefault(name, {})[case.name] = {**entry, **solved.to_dict()}
    write(stacks)


def table(stacks: dict[str, Any]) -> list[str]:
    """The record as a table for docs/stacks.md."""
    lines = [
        "| stack | solved for | packages to build | externals | seconds | MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, cases in sorted(stacks.items()):
        for case, one in sorted(cases.items(), reverse=True):
            used = ", ".join(one["externals"])
            lines.append(f"| {name} | {case} | {one['built']} | {used} | {one['seconds']:.0f} | {one['mib']} |")
    return lines


def write(stacks: dict[str, Any]) -> None:
    """Write the record and its page; unit tests verify that both agree."""
    RECORD.write_text(json.dumps(stacks, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    head, rest = PAGE.read_text(encoding="utf-8").split(BEGIN, 1)
    body = "\n".join(["", *table(stacks), ""])
    PAGE.write_text(f"{head}{BEGIN}{body}{END}{rest.split(END, 1)[1]}", encoding="utf-8")


def main() -> int:
    """Solve the requested cases."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", nargs="*", help="only these")
    names = parser.parse_args().stack or shipped()
    reason = cache.no_spack()
    if reason or platform.machine() != "x86_64":
        print_progress(reason or "the record is made on x86_64")
        return 1
    try:
        for name, case in itertools.product(names, CASES):
            solved = measured(name, case)
            record(name, case, solved)
            print_progress(
                f"{name}, {case.name}: {solved.built} packages to build, {solved.seconds} s, {solved.mib} MiB"
            )
    except (PetalError, LabError) as error:
        print_progress(f"{error}\n{getattr(error, 'why', '')}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
