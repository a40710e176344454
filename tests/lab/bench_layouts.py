"""``make bench-layouts``: time and disk space of each layout, from image to job; rewrites docs/layouts.md."""

from __future__ import annotations

import datetime as dt
import json
import os
import subprocess
import sys
import time
from dataclasses import astuple, dataclass

from tests.lab.cluster import Lab
from tests.lab.demo import publish, wait_for_proof
from tests.lab.engine import TOP, LabError, node_image, print_progress
from tests.lab.layouts import BUILDER, bake, config_of

LAYOUTS = ("shared", "hybrid", "ami")
PAGE = TOP / "docs" / "layouts.md"
MARK = "<!-- bench-layouts -->"
JOB = "module load hello libsigsegv && hello"
ROWS = (
    "image build, s",
    "image grows by, MB",
    "head's first hook, s",
    "shared storage used, MB",
    "compute node's hook, s",
    "first job with modules on it, s",
    "second, s",
)


@dataclass(frozen=True)
class Cost:
    """One column of the table."""

    build: float
    growth: float
    head: float
    storage: float
    compute: float
    first: float
    second: float


def image_bytes(image: str) -> int:
    done = subprocess.run(["docker", "image", "inspect", "-f", "{{.Size}}", image], capture_output=True, check=True)
    return int(done.stdout)


def build_image(lab: Lab, layout: str) -> tuple[float, float]:
    """Build an image for the layout and start the lab from it; return seconds and megabytes."""
    if layout == "shared":
        return 0.0, 0.0
    lab.fresh()
    config = config_of(lab)
    started = time.monotonic()
    bake(lab, layout, config)
    took = time.monotonic() - started
    lab.image = lab.bake(BUILDER)
    return took, (image_bytes(lab.image) - image_bytes(node_image(lab.base))) / 1e6


def job(lab: Lab) -> float:
    return lab.srun("-w", "queue1-st-c5-1", "bash", "-lc", JOB).check().seconds


def cost(lab: Lab, layout: str) -> Cost:
    """Measure a layout from the image build to a user's second job."""
    lab.image = None
    build, growth = build_image(lab, layout)
    lab.fresh()
    publish(lab, {**config_of(lab), "layout": layout})
    head = lab.boot("head")[3].check().hook_seconds or 0.0
    compute = lab.boot("compute-1")[3].check().hook_seconds or 0.0
    lab.wait_idle(1)
    wait_for_proof(lab)
    used = lab.exec("head", ("du", "-sm", "/shared/petal")).check().stdout.split()[0]
    return Cost(build, growth, head, float(used), compute, job(lab), job(lab))


def table(costs: dict[str, Cost]) -> str:
    """The measurements as Markdown."""
    head = [f"Of {dt.datetime.now(dt.timezone.utc):%Y-%m-%d}, {os.cpu_count()} cores, libsigsegv from source:"]
    lines = ["", f"| | {' | '.join(costs)} |", "|---" * (len(costs) + 1) + "|"]
    for name, values in zip(ROWS, zip(*(astuple(cost) for cost in costs.values()))):
        lines.append(f"| {name} | {' | '.join(f'{value:.1f}' for value in values)} |")
    return "\n".join([*head, *lines])


def main() -> int:
    """Run the benchmark on a separate lab."""
    lab = Lab("petal-bench")
    try:
        lab.ensure_engine()
        lab.build_images()
        costs = {}
        for layout in LAYOUTS:
            costs[layout] = cost(lab, layout)
            print(json.dumps({"layout": layout, **vars(costs[layout])}), flush=True)
    except LabError as error:
        print_progress(str(error))
        return 1
    finally:
        lab.image = None
        lab.down()
        subprocess.run(["docker", "image", "rm", "-f", f"{lab.name}-baked"], check=False, stdout=subprocess.DEVNULL)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    _, _, after = rest.partition(MARK)
    PAGE.write_text(f"{before}{MARK}\n{table(costs)}\n\n{MARK}{after}", encoding="utf-8")
    print(table(costs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
