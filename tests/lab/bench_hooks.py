"""``make bench-hooks``: how long hooks take during an install of an hour, compared with their limits."""

from __future__ import annotations

import sys

from tests.lab import release_stack, stack
from tests.lab.cluster import Lab, Result
from tests.lab.demo import publish
from tests.lab.engine import LabError, print_progress
from tests.lab.stack import Bucket

BUDGET = 60
SLACK = 2.0
OTHERS = 10.0


def hour_long(lab: Lab, budget: int) -> None:
    """Publish a configuration whose install takes an hour."""
    bucket = Bucket(lab)
    section = release_stack.spack_section(lab, bucket)
    config = release_stack.config(bucket, section, 1, ("slowly@3600",))
    bucket.send()
    publish(lab, {**config, "install": {"budget": budget}})


def print_row(what: str, result: Result, limit: float) -> bool:
    """Print one line of the result."""
    took = result.check().hook_seconds or 0.0
    print(f"{what:<62} {took:6.2f} s   may take {limit:5.1f} s   {'ok' if took <= limit else 'TOO LONG'}", flush=True)
    return took <= limit


def bench(lab: Lab, budget: int) -> bool:
    """Measure each situation; return True if all were within their limits."""
    reason = stack.no_spack()
    if reason:
        raise LabError(reason)
    lab.ensure_engine()
    lab.build_images()
    lab.fresh()
    hour_long(lab, budget)
    for phase in ("init", "start", "config"):
        lab.phase("head", phase).check()
    well = print_row("head, install of an hour", lab.phase("head", "configured"), budget + SLACK)
    well &= print_row("head, the same hook again while it goes on", lab.phase("head", "configured"), budget + SLACK)
    for node in ("login-1", "compute-1", "compute-2"):
        lab.phase(node, "init").check()
        well &= print_row(f"{node}, OnNodeStart", lab.phase(node, "start"), OTHERS)
        lab.phase(node, "config").check()
        if node == "compute-2":
            lab.exec(node, ("umount", "/shared")).check()
        what = "no shared storage" if node == "compute-2" else "the head is not ready"
        well &= print_row(f"{node}, OnNodeConfigured, {what}", lab.phase(node, "configured"), OTHERS)
    lab.exec("head", ("systemctl", "stop", "petal-node-worker-*")).check()
    return well


def main() -> int:
    """Run the benchmark on a separate lab."""
    lab = Lab("petal-bench")
    try:
        return 0 if bench(lab, int(sys.argv[1]) if len(sys.argv) > 1 else BUDGET) else 1
    except LabError as error:
        print_progress(str(error))
        return 1
    finally:
        lab.down()


if __name__ == "__main__":
    sys.exit(main())
