"""Measure logins on a node of the lab, with healthy shared storage and while /shared and /opt/petal hang.

It also measures petal-node's part, ``bash -lc true`` with and without its file in /etc/profile.d, and for comparison a
shell that sources Spack's setup-env.sh. Run ``make lab`` first. The results are medians, timed in the node
itself, so the container engine adds nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

from tests.lab import stack
from tests.lab.cluster import Lab
from tests.lab.faults import BOTH, has_fuse, mount_bad_file_system, sh, unmount_bad_file_system

LOGINS = {
    "root: bash -lc true": ("bash", "-lc", "true"),
    "root: su - root": ("su", "-", "root", "-c", "true"),
    "user: su - ec2-user": ("su", "-", "ec2-user", "-c", "true"),
}
PROFILE = "/etc/profile.d/zz-petal.sh"
LMODS = "/etc/profile.d/lmod.sh"  # of the lab's image; ParallelCluster's images do not have it
LIMIT = 15.0  # ms that petal-node may add to a login shell
# Runs in the node; arguments: number of runs, command.
TIMER = """
import json, statistics, subprocess, sys, time
def once():
    started = time.perf_counter()
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    if child.wait():  # without a limit, for which Python would poll, and be late by up to 50 ms
        sys.exit(f"{sys.argv[2:]} ended with {child.returncode}")
    return (time.perf_counter() - started) * 1000
times = [once() for _ in range(int(sys.argv[1]))]
print(json.dumps([statistics.median(times), max(times)]))
"""


def measure(lab: Lab, node: str, runs: int) -> dict[str, tuple[float, float]]:
    """Return median and maximum of each login, in ms."""
    return {name: once(lab, node, command, runs) for name, command in LOGINS.items()}


def added(lab: Lab, node: str, runs: int) -> list[str]:
    """Print what petal-node adds to a login shell (including Lmod's start), and what Spack's file adds to a shell."""
    sh(lab, node, f"mv {LMODS} {LMODS}.away")
    try:
        lines = _of_petal(lab, node, runs)
    finally:
        sh(lab, node, f"mv {LMODS}.away {LMODS}")
    return [*lines, _of_spack(lab, node, max(3, runs // 4))]


def _of_petal(lab: Lab, node: str, runs: int) -> list[str]:
    lines, away = [], f"mv {PROFILE} {PROFILE}.away"
    for who, user in (("user", "ec2-user"), ("root", "root")):
        login = ("runuser", "-u", user, "--", "env", "-i", "HOME=/tmp", "PATH=/usr/bin:/bin", "bash", "-lc", "true")
        with_it, _ = once(lab, node, login, runs)
        sh(lab, node, away)
        try:
            without, _ = once(lab, node, login, runs)
        finally:
            sh(lab, node, f"mv {PROFILE}.away {PROFILE}")
        more, limit = with_it - without, "" if with_it - without <= LIMIT else ": MISSED"
        lines.append(f"{who}: bash -lc true        {with_it:.1f} ms, without petal-node {without:.1f} ms: "
                     f"{more:.1f} ms more (limit: {LIMIT:.0f}){limit}")  # fmt: skip
    return lines


def _of_spack(lab: Lab, node: str, runs: int) -> str:
    """Measure Spack on the same disk; the first run compiles its Python and is not counted."""
    reason = stack.no_spack()
    if reason:
        return f"Spack's setup-env.sh: {reason}"
    unpack = ("tar", "-xzf", "-", "-C", "/var/tmp", "--no-same-owner")
    lab.exec(node, unpack, stdin=stack.packed_spack().read_bytes()).check()
    script = f". /var/tmp/{stack.SPACK}/share/spack/setup-env.sh"
    once(lab, node, ("bash", "-c", script), 1)
    sourced, _ = once(lab, node, ("bash", "-c", script), runs)
    bare, _ = once(lab, node, ("bash", "-c", "true"), runs)
    return f"Spack's setup-env.sh: {sourced - bare:.0f} ms more than bash alone"


def once(lab: Lab, node: str, command: tuple[str, ...], runs: int) -> tuple[float, float]:
    """Return median and maximum of one command in the node, in ms."""
    result = lab.exec(node, ("python3", "-c", TIMER, str(runs), *command), timeout=600).check()
    median, most = json.loads(result.stdout)
    return median, most


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
    sh(lab, options.node, mount_bad_file_system("deaf", *BOTH))
    try:
        hanging = measure(lab, options.node, options.runs)
    finally:
        sh(lab, options.node, unmount_bad_file_system(*BOTH))
    print(f"{'login on ' + options.node:<24}{'well':>18}{'storage hangs':>22}    ms, median (max) of {options.runs}")
    for name, (median, most) in well.items():
        cells = [f"{median:.1f} ({most:.1f})", "{:.1f} ({:.1f})".format(*hanging[name])]
        print(f"{name:<24}{cells[0]:>18}{cells[1]:>22}")
    lines = added(lab, options.node, 2 * options.runs)
    print("\n".join(lines))
    return 1 if any("MISSED" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
