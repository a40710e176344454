"""``make bench-adopt``: how long the hook of a new head node takes to adopt storage with the desired release.

Real Spack installs 200 small packages of 40 files each into a store on a separate file system, an ext4 image that is
loop-mounted like an EBS volume. Then, repeatedly, everything of the head node except that storage is
removed, a new head node of the cluster replaces it, and its OnNodeConfigured runs: ``petal-node hook configured`` from
the archive. The benchmark measures the time of that command, and the CPU seconds of all its processes including
its worker: other work on the machine affects the first figure and hardly the second.

* warm: the storage has just been read;
* cold: it was unmounted, and the page cache contains nothing of its image.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bootstrap.host.files import sha256_of
from bootstrap.host.times import timestamp
from tests.lab import recipes, stack
from tests.lab.bench_install import machine
from tests.lab.engine import LabError, print_progress

ROOT = Path(__file__).parents[2]
ARCHIVE = ROOT / "dist" / "petal-node"
PAGE = ROOT / "docs" / "adopting.md"
LIMIT = 2.0  # seconds on the head node
PACKAGES, LAYER, FILES = 200, 20, 40
SHOWN = 0.02
SET_CHILD_SUBREAPER = 36
IMAGE_BYTES = 2 << 30
RECIPE = '''\
from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class {class_name}(Package):
    """One of many."""

    has_code = False
    homepage = "https://example.org/{name}"
    version("1.0")
{dependencies}
    def install(self, spec, prefix):
        mkdirp(prefix.bin, prefix.share)
        for number in range({files}):
            with open(join_path(prefix.share, str(number)), "w") as stream:
                stream.write("{name} " * 200)
'''


def names() -> list[str]:
    return [f"many{number}" for number in range(PACKAGES)]


def write_recipes(repository: Path) -> None:
    """Each package depends on two packages of the previous layer."""
    for number, name in enumerate(names()):
        before = [number - LAYER, number // LAYER * LAYER - LAYER + (number + 1) % LAYER] if number >= LAYER else []
        needs = "".join(f'    depends_on("many{other}")\n' for other in before)
        recipe = repository / "packages" / name / "package.py"
        recipe.parent.mkdir(parents=True)
        text = RECIPE.format(name=name, class_name=name.capitalize(), dependencies=needs, files=FILES)
        recipe.write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class Adoption:
    """Wall-clock seconds, CPU seconds, and the record of the run."""

    wall: float
    cpu: float
    record: dict[str, Any]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _adopt_orphans() -> None:
    """Make this process the parent of orphaned processes of a hook (prctl(2)), so that it can read their CPU time."""
    if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise LabError(f"prctl: {os.strerror(ctypes.get_errno())}")


def _reap() -> None:
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


@dataclass
class Head:
    """A head node in a directory whose shared storage is a separate file system."""

    top: Path
    config: Path

    @property
    def prefix(self) -> Path:
        return self.top / "head"

    @property
    def shared(self) -> Path:
        return self.prefix / "shared"

    @property
    def image(self) -> Path:
        return self.top / "volume"

    def mount(self) -> None:
        self.shared.mkdir(parents=True, exist_ok=True)
        _run(["mount", "-o", "loop", str(self.image), str(self.shared)])

    def unmount(self) -> None:
        _run(["umount", str(self.shared)])

    def forget(self) -> None:
        """Drop everything of the storage from the page cache."""
        self.unmount()
        descriptor = os.open(self.image, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)
        self.mount()

    def is_replaced(self) -> None:
        """Replace the head node by a new instance that keeps only the shared storage."""
        for path in self.prefix.iterdir():
            if path != self.shared:
                shutil.rmtree(path)
        cluster = {"stack_name": "demo", "region": "us-east-1", "node_type": "HeadNode"}
        dna = self.prefix / "etc" / "chef" / "dna.json"
        dna.parent.mkdir(parents=True)
        dna.write_text(json.dumps({"cluster": {**cluster, "ebs_shared_dirs": "/shared"}}), encoding="utf-8")

    def hook(self, seconds: float) -> Adoption:
        """Run OnNodeConfigured until its worker ends.

        Raises:
            LabError: the hook or its worker failed.
        """
        env = {"PATH": os.environ["PATH"], "PETAL_PREFIX": str(self.prefix), "PETAL_PYTHON": sys.executable}
        argv = [str(ARCHIVE), "hook", "configured", "--strict", "--config", str(self.config), "--root"]
        before, started = _cpu(), time.monotonic()
        done = subprocess.run(
            [*argv, str(self.prefix)], env=env, capture_output=True, text=True, timeout=seconds, check=False
        )
        took = time.monotonic() - started
        if done.returncode:
            raise LabError(f"the hook ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
        _reap()
        (record,) = (self.prefix / "var/lib/petal-node/runs").glob("*.json")
        return Adoption(took, _cpu() - before, json.loads(record.read_text(encoding="utf-8")))


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip()}")


@contextmanager
def head(top: Path) -> Iterator[Head]:
    """Create recipes, the configuration and empty storage."""
    reason = stack.no_spack()
    if reason:
        raise LabError(reason)
    tree = top / "recipes"
    recipes.subset(stack.spack_cache() / stack.RECIPES, tree, ())
    write_recipes(tree / "repos" / "spack_repo" / "builtin")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wheels = [
        {"source": str(path), "sha256": sha256_of(path)} for path in stack.clingo_wheels(version, os.uname().machine)
    ]
    config = {
        "stack": "none",
        "spack": {
            "version": "1.1.1", "source": str(stack.spack_cache() / stack.SPACK), "recipes": {"source": str(tree)},
            "clingo": wheels, "specs": names(),
        },
        "install": {"budget": 1200},
    }  # fmt: skip
    path = top / "petal.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    made = Head(top, path)
    with made.image.open("wb") as image:
        image.truncate(IMAGE_BYTES)
    _run(["mkfs.ext4", "-q", "-m", "0", str(made.image)])
    made.mount()
    try:
        yield made
    finally:
        made.unmount()


def measure(made: Head, rounds: int) -> dict[str, list[Adoption]]:
    """Measure adoptions, cold and warm in turn.

    Raises:
        LabError: something was built, or the release differs.
    """
    made.is_replaced()
    first = made.hook(3600)
    print_progress(f"the store was made in {first.wall:.0f} s")
    found: dict[str, list[Adoption]] = {"warm": [], "cold": []}
    for number in range(2 * rounds):
        kind = ("cold", "warm")[number % 2]
        made.is_replaced()
        if kind == "cold":
            made.forget()
        took = made.hook(600)
        outcomes = {step["name"]: step["outcome"] for step in took.record["steps"]}
        if took.record["release"] != first.record["release"] or (outcomes["storage-owner"], outcomes["spack"]) != (
            "ok",
            "ok",
        ):
            raise LabError(f"it was not adopted: {outcomes}")
        found[kind].append(took)
        print(f"{kind}: {took.wall:.2f} s, CPU {took.cpu:.2f} s", flush=True)
    return found


def lines(found: dict[str, list[Adoption]]) -> list[str]:
    """The table of docs/adopting.md."""
    count = len(found["warm"])
    made = [
        f"{PACKAGES} packages with {PACKAGES * FILES} files of their own, median of {count}, {timestamp()}:", "",
        "| storage | median | all | CPU, median | limit | time in steps |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind, runs in found.items():
        median, cpu = (statistics.median(values) for values in ([run.wall for run in runs], [run.cpu for run in runs]))
        steps: dict[str, list[float]] = {}
        for step in (step for run in runs for step in run.record["steps"]):
            steps.setdefault(step["name"], []).append(step["seconds"])
        long = [f"{name} {statistics.median(times):.2f}" for name, times in steps.items() if max(times) >= SHOWN]
        wanted = f"under {LIMIT:.0f} s{'' if median < LIMIT else ': MISSED'}"
        every = ", ".join(f"{run.wall:.2f}" for run in runs)
        made.append(f"| {kind} | {median:.2f} s | {every} | {cpu:.2f} s | {wanted} | {', '.join(long)} |")
    return made


def write_page(table: list[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- adopt -->", "<!-- end of adopt -->"
    before, rest = text.split(begin, 1)
    body = "\n".join(["", *table, "", f"{machine()}; load {os.getloadavg()[0]:.1f}.", ""])
    PAGE.write_text(f"{before}{begin}{body}{end}{rest.split(end, 1)[1]}", encoding="utf-8")


def main() -> int:
    """Run it below a new directory, which is removed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="write the result into docs/adopting.md")
    asked = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="petal-adopt-"))
    try:
        _adopt_orphans()
        with head(top) as made:
            table = lines(measure(made, asked.rounds))
    except LabError as error:
        print_progress(str(error))
        return 1
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print("\n".join(["", *table]))
    if asked.write:
        write_page(table)
    return 1 if any("MISSED" in line for line in table) else 0


if __name__ == "__main__":
    sys.exit(main())
