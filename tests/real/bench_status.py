"""How long status, gc, releases and check take with the reports of 1,000 nodes on storage that needs 1 ms an operation.

It needs root and /dev/fuse. Each verb runs in a new process, below a directory; the result is the fastest of the runs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bootstrap.core.model import Finding, NodeReport, Severity, plain
from bootstrap.engine.converge import converge
from bootstrap.engine.registry import STEPS
from bootstrap.host.times import timestamp
from bootstrap.state.store import write_document
from tests.world import World, with_package

TOP = Path(__file__).parents[2]
VERBS = ("status", "gc", "releases --no-sizes", "check")
FINDINGS = tuple(
    Finding(f"check-{n}", Severity.OK, "this part of the node is as the release needs it") for n in range(20)
)


def make_storage(folder: Path, nodes: int) -> World:
    """A head node with a published release, and a report of each node."""
    world = World(folder / "head", config_text=with_package(folder))
    converge([step for step in STEPS if step.name != "proof"], world.context, lambda _: None)
    for number in range(nodes):
        report = NodeReport(f"q1-dy-c5-{number}", "compute", timestamp(), world.release, FINDINGS)
        write_document(world.paths.state / "nodes" / f"{report.node}.json", plain(report))
    return world


def once(world: World, verb: str) -> tuple[float, str]:
    """Seconds of one run, and its row about the reports."""
    argv = [sys.executable, "-c", "from bootstrap.cli import entry; entry()", *verb.split()]
    started = time.perf_counter()
    done = subprocess.run(
        [*argv, "--root", str(world.prefix), "--role", "head"], check=False, capture_output=True, text=True, cwd=TOP
    )
    seconds = time.perf_counter() - started
    return seconds, next(
        (line.strip() for line in done.stdout.splitlines() if "nodes ok" in line), f"exit {done.returncode}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = make_storage(Path(folder), options.nodes)
        shared, backing = world.paths.shared_mount, Path(folder) / "backing"
        shared.rename(backing)
        shared.mkdir()
        server = subprocess.Popen([sys.executable, TOP / "tests/lab/node/badfs.py", "slow", shared, backing])
        try:
            while not os.path.ismount(shared):
                if server.poll() is not None:
                    sys.exit("bench-status: the slow file system cannot be mounted")
                time.sleep(0.01)
            for verb in VERBS:
                seconds, row = min(once(world, verb) for _ in range(options.runs))
                print(f"{verb:<20} {seconds:5.2f} s   {row}", flush=True)
        finally:
            subprocess.run(["umount", "-l", shared], check=False)
            server.kill()


if __name__ == "__main__":
    main()
