"""Command line of the lab: ``python -m tests.lab demo|up|down|build``."""

from __future__ import annotations

import argparse
import os
import sys
import time

from tests.lab import stack
from tests.lab.cluster import NODES, Lab
from tests.lab.demo import demo, publish
from tests.lab.engine import LabError, print_progress
from tests.lab.local_demo import local_demo


def up(lab: Lab) -> None:
    """A booted cluster with petal-node and two binary packages, left running."""
    lab.ensure_engine()
    lab.build_images()
    lab.fresh()
    publish(lab, stack.lab_config(lab, spack=False))
    for node, results in lab.boot_all().items():
        for result in results:
            result.check()
        print_progress(f"{lab.container(node)}: booted in {sum(result.seconds for result in results):.1f} s")
    if lab.exec("head", ("test", "-x", "/opt/slurm/bin/sinfo")).ok:
        lab.wait_idle()
    print_progress(f"up; for a shell: docker exec -it {lab.container(NODES[0])} bash -l")


def demo_anywhere(lab: Lab) -> None:
    """Run the demo in containers, or without containers if no engine is available."""
    reason = Lab.available()
    if reason:
        local_demo(reason)
    else:
        demo(lab)


def build(lab: Lab) -> None:
    """Build the images only."""
    lab.ensure_engine()
    lab.build_images()


def main() -> int:
    """Run the named command."""
    commands = {"demo": demo_anywhere, "up": up, "down": Lab.down, "build": build}
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("command", choices=commands)
    parser.add_argument("--name", default=os.environ.get("LAB", "petal-lab"), help="the lab's name (LAB)")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        commands[options.command](Lab(options.name))
    except LabError as error:
        print_progress(str(error))
        return 1
    print_progress(f"{options.command}: {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
