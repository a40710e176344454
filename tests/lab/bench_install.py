"""``make bench-install``: a stack of two dozen small packages, installed by petal-node and by Spack's own commands.

Measured in turn, each time with an empty store and the same warm caches:

* petal-node: ``petal-node bootstrap`` of the whole stack: concretize, install, modules, publish;
* loop: ``spack install SPEC`` for one spec after the other, each concretized separately;
* at once: all specs in one environment: ``spack concretize``, ``spack install -p 2``, ``spack module lmod refresh``.

All three use the same Spack, recipes, configuration scope, stage and caches on this machine. ``--full`` uses the whole
recipe repository. The result is the ratio within a round: other work on the machine slows all three. Variation
within a round shows in the CPU seconds, which other work hardly changes.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from bootstrap.host.times import timestamp
from bootstrap.spack.families import FAMILIES
from tests.lab import bench_stack, stack
from tests.lab.engine import LabError, print_progress

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "dev" / "benchmarks.md"
LIMITS = {"loop": {"small": 0.6, "full": 0.25}, "at once": {"small": 1.05, "full": 1.05}}
HOURS = 3 * 3600
KINDS = ("petal-node", "loop", "at once")


@dataclass(frozen=True)
class Took:
    """Wall-clock seconds, and CPU seconds of all started processes."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Bench:
    """One directory with Spack's trees, a recipe repository and warm caches."""

    top: Path
    recipes: Path
    config: Path

    @property
    def node(self) -> Path:
        """petal-node's prefix; the other two use its scope and its Spack, with separate stores."""
        return self.top / "node"

    @property
    def work(self) -> Path:
        """The directory into which petal-node has written its scope."""
        return next((self.node / "var/lib/petal-node/spack").glob("*/*/scope")).parent

    def run(self, argv: list[str], env: dict[str, str]) -> None:
        """Run a command to its end and keep its output in a file.

        Raises:
            LabError: the command failed.
        """
        log = self.top / "output.log"
        with log.open("ab") as output:
            done = subprocess.run(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, timeout=HOURS, check=False
            )
        if done.returncode:
            tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
            raise LabError(f"{' '.join(argv)} ended with {done.returncode}:\n{tail}")

    def petal(self) -> None:
        """Install the whole stack as on a head node."""
        argv = [sys.executable, "-m", "bootstrap", "bootstrap", "--root", str(self.node), "--role", "head"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.run([*argv, "--config", str(self.config)], env)

    def loop(self) -> None:
        """Install one spec at a time, each concretized separately, as in a shell script."""
        for spec in bench_stack.dependencies():
            self.run([*self._spack(), "install", spec], self._env())

    def at_once(self) -> None:
        """Install one environment, two packages at a time, then write its modules."""
        environment = self.top / "environment"
        environment.mkdir()
        content = {"spack": {"specs": list(bench_stack.dependencies()), "view": False, "concretizer": {"unify": True}}}
        (environment / "spack.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
        inside = [*self._spack(), "-e", str(environment)]
        self.run([*inside, "concretize"], self._env())
        self.run([*inside, "install", "--only-concrete", "-p", "2"], self._env())
        self.run([*inside, "module", "lmod", "refresh", "-y"], self._env())

    def _spack(self) -> list[str]:
        return [str(self._tree() / "bin" / "spack"), "-C", str(self.top / "scope")]

    def _tree(self) -> Path:
        return stack.spack_cache() / stack.SPACK

    def _env(self) -> dict[str, str]:
        """The environment in which petal-node runs Spack: the same caches, clingo and byte code."""
        scratch = self.node / "var/cache/petal-node/scratch/spack"
        return {
            "PATH": "/usr/bin:/bin", "HOME": str(scratch / "home"), "LANG": "C.UTF-8", "SPACK_PYTHON": sys.executable,
            "SPACK_DISABLE_LOCAL_CONFIG": "1", "SPACK_USER_CACHE_PATH": str(scratch / "user"),
            "PYTHONPYCACHEPREFIX": str(scratch / "pycache"), "PYTHONPATH": str(self.top / "clingo"),
            "PYTHONUNBUFFERED": "1",
        }  # fmt: skip

    def own_scope(self) -> None:
        """petal-node's scope and clingo with another store and module tree."""
        shutil.copytree(next((self.node / "opt/petal/spack").glob("clingo-*")), self.top / "clingo")
        target = self.top / "scope"
        shutil.copytree(self.work / "scope", target)
        for path in target.glob("*.yaml"):
            text = path.read_text(encoding="utf-8")
            text = text.replace(str(self.node / "opt/petal/store"), str(self.top / "store"))
            modules = next((self.node / "opt/petal/releases").glob("*/modules/*"))
            path.write_text(text.replace(str(modules), str(self.top / "modules")), encoding="utf-8")

    def empty(self) -> None:
        """Remove stores, releases and environments; keep programs and caches."""
        for name in ("opt/petal/store", "opt/petal/releases", "opt/petal/current", "shared", "var/lib/petal-node"):
            _remove(self.node / name)
        for name in ("store", "modules", "environment"):
            _remove(self.top / name)
        (self.node / "shared").mkdir(parents=True)


def _remove(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def prepare(top: Path, *, full: bool) -> Bench:
    """Create recipes and the configuration, and warm every cache by one run of petal-node."""
    reason = stack.no_spack()
    if reason:
        raise LabError(reason)
    make = bench_stack.full if full else bench_stack.small
    tree = make(stack.spack_cache() / stack.RECIPES, top / "recipes")
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    wheels = [
        {"source": str(path), "sha256": _sha256(path)} for path in stack.clingo_wheels(version, os.uname().machine)
    ]
    config: dict[str, Any] = {
        "stack": "none",
        "spack": {
            "version": "1.1.1", "source": str(stack.spack_cache() / stack.SPACK), "recipes": {"source": str(tree)},
            "clingo": wheels, "specs": list(bench_stack.dependencies()),
        },
    }  # fmt: skip
    path = top / "petal.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    bench = Bench(top, tree / FAMILIES["1.1"].repository, path)
    (bench.node / "shared").mkdir(parents=True)
    bench.petal()
    bench.own_scope()
    return bench


def _sha256(path: Path) -> str:
    from bootstrap.host.files import sha256_of

    return sha256_of(path)


def timed(action: Callable[[], None]) -> Took:
    """Measure an action, including all its processes."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    action()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(time.monotonic() - started, cpu)


def measure(bench: Bench, rounds: int, loops: int) -> dict[str, list[Took]]:
    """Measure each variant, round by round, in changing order. The loop runs in the first ``loops`` rounds only."""
    ways: dict[str, Callable[[], None]] = {"petal-node": bench.petal, "loop": bench.loop, "at once": bench.at_once}
    took: dict[str, list[Took]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        order = KINDS[number % 3 :] + KINDS[: number % 3]
        for kind in order:
            if kind == "loop" and number >= loops:
                continue
            bench.empty()
            took[kind].append(timed(ways[kind]))
            last = took[kind][-1]
            print(f"round {number + 1}  {kind:<12} {last.wall:7.1f} s, CPU {last.cpu:6.1f} s", flush=True)
    return took


def ratio(took: dict[str, list[Took]], other: str) -> float:
    """The median over the rounds of petal-node's time divided by the other's."""
    return statistics.median(ours.wall / theirs.wall for ours, theirs in zip(took["petal-node"], took[other]))


def lines(took: dict[str, list[Took]], repository: str) -> list[str]:
    """The table of one repository for docs/dev/benchmarks.md."""
    count = len(took["petal-node"])
    found = [
        f"### {repository} repository, {count} {'round' if count == 1 else 'rounds'}, {timestamp()}", "",
        "| way | median | all rounds | CPU, median | ratio of petal-node's time | limit |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for kind in KINDS:
        if not took[kind]:
            continue
        all_rounds = ", ".join(f"{one.wall:.1f}" for one in took[kind])
        median, cpu = (
            statistics.median(values) for values in ([t.wall for t in took[kind]], [t.cpu for t in took[kind]])
        )
        share, wanted = "", ""
        if kind in LIMITS:
            value, limit = ratio(took, kind), LIMITS[kind][repository]
            share, wanted = f"{value:.2f}", f"at most {limit}{'' if value <= limit else ': MISSED'}"
        found.append(f"| {kind} | {median:.1f} s | {all_rounds} | {cpu:.1f} s | {share} | {wanted} |")
    return found


def machine() -> str:
    """The machine on which the benchmark ran."""
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    )
    gcc = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=True).stdout.strip()
    versions = f"Python {platform.python_version()}, gcc {gcc}, {stack.SPACK}, {stack.RECIPES}"
    return f"{os.cpu_count()} cores, {model}; {versions}"


def write_page(repository: str, table: list[str]) -> None:
    """Replace the table in docs/dev/benchmarks.md."""
    text = PAGE.read_text(encoding="utf-8")
    begin, end = f"<!-- {repository} -->", f"<!-- end of {repository} -->"
    head, rest = text.split(begin, 1)
    tail = rest.split(end, 1)[1]
    body = "\n".join(["", *table, "", machine() + f"; load {os.getloadavg()[2]:.1f}.", ""])
    PAGE.write_text(f"{head}{begin}{body}{end}{tail}", encoding="utf-8")


def main() -> int:
    """Run the benchmark in a new directory, and remove the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="with all recipes: two minutes a round, with the loop 13")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loops", type=int, help="number of rounds that include the loop (all)")
    parser.add_argument("--write", action="store_true", help="write the result into docs/dev/benchmarks.md")
    asked = parser.parse_args()
    top = Path(tempfile.mkdtemp(prefix="petal-bench-"))
    repository = "full" if asked.full else "small"
    loops = asked.rounds if asked.loops is None else asked.loops
    try:
        table = lines(measure(prepare(top, full=asked.full), asked.rounds, loops), repository)
    except LabError as error:
        print_progress(str(error))
        return 1
    finally:
        shutil.rmtree(top, ignore_errors=True)
    print("\n".join(["", *table]))
    if asked.write:
        write_page(repository, table)
    return 1 if any("MISSED" in line for line in table) else 0


if __name__ == "__main__":
    sys.exit(main())
