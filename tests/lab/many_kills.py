"""``make kills``: kill an install many times at random moments, and write docs/dev/reliability.md.

Every seed is printed with its result; ``ARGS="--seed N --kills 1"`` repeats one of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from bootstrap import __version__
from tests.lab import stack
from tests.lab.cluster import Lab
from tests.lab.engine import LabError, print_progress
from tests.lab.kills import TARGETS, KilledInstalls, Round

REPORT = Path(__file__).parents[2] / "docs" / "dev" / "reliability.md"
NAMES = {
    "hook": "the hook (script or `petal-node hook`)",
    "worker": "the worker, or `petal-node bootstrap`",
    "spack": "one of Spack's processes",
    "container": "the complete head node",
}
TEXT = """\
# Reliability

`make kills` writes this file. Each kill is one SIGKILL at a random moment of an install ({seconds:.1f} s here: a
binary package and two Spack packages, a new release each time, started by OnNodeUpdated's hook or by `petal-node
bootstrap`). Then the same command runs again; a killed head node continues by itself when it boots. During all rounds
a user on a compute node opens login shells, loads the release's modules and runs its programs, which must all be of
one release. At the end of each round the desired release must be current and complete, both locks free, no process of
a run left and no incomplete package in the store.

{kills} kills with seeds {first} to {last} (in {late} rounds the install ended before the kill), {version},
{cores} cores, {minutes:.0f} minutes: **{bad} rounds failed**. The user tried {looks} times and found an incomplete
release {half} times.

| killed | kills | recovered | seconds until recovery: median | maximum |
|---|---|---|---|---|
{targets}

Steps during which the install was killed, from its record:

| step | kills |
|---|---|
{steps}
{troubles}
`make test` runs ten of them (`tests/lab/test_kills.py`).
"""


def report(rounds: Sequence[Round], seconds: float, took: float) -> str:
    """The document."""
    killed = [item for item in rounds if item.killed]
    bad = [item for item in rounds if item.troubles]
    steps = {item.step: sum(other.step == item.step for other in killed) for item in killed}
    lines = [f"- seed {item.seed} ({item.start}, {item.target}, {item.moment:.2f} s): {item.troubles}" for item in bad]
    return TEXT.format(
        seconds=seconds,
        kills=len(killed),
        late=len(rounds) - len(killed),
        first=min(item.seed for item in rounds),
        last=max(item.seed for item in rounds),
        version=f"petal-node {__version__}",
        cores=os.cpu_count(),
        minutes=took / 60,
        bad=len(bad),
        looks=sum(item.looks for item in rounds),
        half=sum("a user saw" in trouble for item in rounds for trouble in item.troubles),
        targets="\n".join(_row(target, killed) for target in TARGETS),
        steps="\n".join(f"| {step} | {count} |" for step, count in sorted(steps.items(), key=lambda pair: -pair[1])),
        troubles="\n".join(["", "Failed rounds:", "", *lines, ""]) if lines else "",
    )


def _row(target: str, killed: Sequence[Round]) -> str:
    mine = [item for item in killed if item.target == target]
    times = [item.recovered for item in mine] or [0.0]
    well = sum(not item.troubles for item in mine)
    return f"| {NAMES[target]} | {len(mine)} | {well} | {statistics.median(times):.1f} | {max(times):.1f} |"


def run_rounds(lab: Lab, first: int, kills: int) -> int:
    """Run rounds until ``kills`` of them killed something; return the number of failed rounds."""
    reason = stack.no_spack()
    if reason:
        raise LabError(reason)
    lab.ensure_engine()
    lab.build_images()
    started = time.monotonic()
    victim = KilledInstalls(lab)
    rounds: list[Round] = []
    with victim.watched() as looks:
        for seed in itertools.count(first):
            done = victim.round(seed, looks)
            rounds.append(done)
            state = "; ".join(done.troubles) or "well"
            print(
                f"seed {seed}: {done.start} asked, {done.target} killed ({done.killed or 'nothing, too late'}) after "
                f"{done.moment:.2f} s in {done.step}, well after {done.recovered:.1f} s, {done.looks} looks: {state}",
                flush=True,
            )
            if sum(bool(item.killed) for item in rounds) == kills:
                break
    if kills > 1:
        REPORT.write_text(report(rounds, victim.seconds, time.monotonic() - started), encoding="utf-8")
        print_progress(f"written: {REPORT}")
    return sum(bool(item.troubles) for item in rounds)


def main() -> int:
    """Run the rounds and write the report."""
    parser = argparse.ArgumentParser(prog="make kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=int(time.time()) // 1000 * 1000, help="the first seed")
    parser.add_argument("--name", default="petal-kills", help="the lab's name")
    options = parser.parse_args()
    lab = Lab(options.name)
    try:
        bad = run_rounds(lab, options.seed, options.kills)
    except LabError as error:
        print_progress(str(error))
        return 1
    lab.down()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
