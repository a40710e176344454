"""Prints what a login costs on a node of the lab, with shared storage well and with /shared and /opt/petal hanging.

``make lab`` first, then ``make bench-login``. Medians, timed in the node itself, so the engine costs nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.lab.cluster import Lab
from tests.lab.faults import BOTH, has_fuse, laid_over, sh, taken_off

LOGINS = {
    "root: bash -lc true": ("bash", "-lc", "true"),
    "root: su - root": ("su", "-", "root", "-c", "true"),
    "user: su - ec2-user": ("su", "-", "ec2-user", "-c", "true"),
}
# Runs in the node; arguments: how often, then the command.
TIMER = """
import json, statistics, subprocess, sys, time
def once():
    started = time.perf_counter()
    subprocess.run(sys.argv[2:], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=60)
    return (time.perf_counter() - started) * 1000
times = [once() for _ in range(int(sys.argv[1]))]
print(json.dumps([statistics.median(times), max(times)]))
"""


def measure(lab: Lab, node: str, runs: int) -> dict[str, tuple[float, float]]:
    """Median and maximum of each login, in ms."""
    found = {}
    for name, command in LOGINS.items():
        result = lab.exec(node, ("python3", "-c", TIMER, str(runs), *command), timeout=600).check()
        median, most = json.loads(result.stdout)
        found[name] = (median, most)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--node", default="login-1")
    options = parser.parse_args()
    lab = Lab(os.environ.get("LAB") or "petal-lab")
    if not has_fuse(lab, options.node):
        print("bench-login: the node has no /dev/fuse, or no lab runs: make lab", file=sys.stderr)
        return 1
    well = measure(lab, options.node, options.runs)
    sh(lab, options.node, laid_over("deaf", *BOTH))
    try:
        hanging = measure(lab, options.node, options.runs)
    finally:
        sh(lab, options.node, taken_off(*BOTH))
    print(f"{'login on ' + options.node:<24}{'well':>18}{'storage hangs':>22}    ms, median (max) of {options.runs}")
    for name, (median, most) in well.items():
        cells = [f"{median:.1f} ({most:.1f})", "{:.1f} ({:.1f})".format(*hanging[name])]
        print(f"{name:<24}{cells[0]:>18}{cells[1]:>22}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
