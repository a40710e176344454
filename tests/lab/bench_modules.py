"""``make bench-modules``: how long ``module`` takes in a release of 1,000 modules, with and without Lmod's cache.

The release is on this machine's disk, then on a file system (a FUSE pass-through) that takes 1 ms per operation and
disables the kernel's caches, like a busy file server. The benchmark times ``lmod bash COMMAND``, as shells run it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from bootstrap.engine import converge as engine
from bootstrap.engine.registry import STEPS
from bootstrap.host.system import System
from bootstrap.lmod.find import Lmod, image_lmod
from bootstrap.modules.spider import write_cache
from tests.lab.bench_install import machine
from tests.lab.engine import HERE
from tests.real.lmods import RealWorld
from tests.world import with_package

PAGE = HERE.parents[1] / "docs" / "modules.md"
BEGIN, END = "<!-- bench-modules -->", "<!-- end of bench-modules -->"
MODULES = 1000
COMMANDS = ("-t avail", "spider", "load lib7 hello")
# The largest allowed part of the time without the cache.
LIMITS = {
    "local disk": {"-t avail": 1.0, "spider": 1 / 3, "load lib7 hello": 2 / 3},
    "1 ms an operation": dict.fromkeys(COMMANDS, 1 / 3),
}


def make(place: Path) -> RealWorld:
    """Create a node with a release of ``MODULES`` modules and its cache."""
    world = RealWorld(place / "node", config_text=with_package(place))
    engine.converge(STEPS, world.context, lambda _: None)
    tree = tree_of(world)
    for number in range(MODULES // 2):
        for version in ("1.0", "2.0"):
            path = tree / "Core" / f"lib{number}" / f"{version}.lua"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f'whatis("Name: lib{number}")\nsetenv("LIB{number}_ROOT", "/opt")\n')
    write_cache(world.context, tree)
    return world


def tree_of(world: RealWorld) -> Path:
    (tree,) = (world.paths.release(world.release) / "modules").iterdir()
    return tree


def environments(world: RealWorld, lmod: Lmod) -> tuple[dict[str, str], dict[str, str]]:
    """A shell's environment with the cache, as the init file sets it, and without."""
    without = {
        "PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "LMOD_VERSION": lmod.version,
        "LMOD_SHORT_TIME": "86400",  # Lmod writes no cache for the user
        "PETAL_RELEASE": str(world.paths.release(world.release)), "MODULEPATH": f"{tree_of(world)}/Core",
    }  # fmt: skip
    return {**without, "LMOD_RC": str(world.paths.init / "lmodrc.lua"), "LMOD_CACHED_LOADS": "yes"}, without


def timed(lmod: Lmod, command: str, env: Mapping[str, str], runs: int) -> float:
    """Return the median of ``runs`` runs, in ms."""
    argv, times = [str(lmod.place / "libexec" / "lmod"), "bash", *command.split()], []
    for _ in range(runs):
        started = time.perf_counter()
        subprocess.run(argv, env=dict(env), capture_output=True, check=True)
        times.append((time.perf_counter() - started) * 1000)
    return statistics.median(times)


@contextmanager
def slow(directory: Path) -> Iterator[None]:
    """Delay each operation below a directory by 1 ms."""
    backing = directory.with_name("backing")
    directory.rename(backing)
    directory.mkdir()
    server = subprocess.Popen([sys.executable, HERE / "node" / "badfs.py", "slow", directory, backing])
    try:
        while f" {directory} " not in Path("/proc/mounts").read_text():
            if server.poll() is not None:
                raise RuntimeError("the slow file system could not be mounted: is /dev/fuse there, and are you root?")
            time.sleep(0.01)
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=False)
        server.terminate()
        server.wait()


def measure(world: RealWorld, lmod: Lmod, runs: int, runs_without: int) -> dict[str, tuple[float, float]]:
    """Measure each command with and without the cache, in ms."""
    with_cache, without = environments(world, lmod)
    return {
        command: (timed(lmod, command, with_cache, runs), timed(lmod, command, without, runs_without))
        for command in COMMANDS
    }


def table(found: Mapping[str, Mapping[str, tuple[float, float]]]) -> list[str]:
    """The results and the limits."""
    lines = ["| release on | command | with the cache | without | share | limit |", "|---|---|---|---|---|---|"]
    for where, results in found.items():
        for command, (cached, plain) in results.items():
            share, limit = cached / plain, LIMITS[where][command]
            wanted = f"at most {limit:.2f}{'' if share <= limit else ': MISSED'}"
            lines.append(f"| {where} | `{command}` | {cached:.0f} ms | {plain:.0f} ms | {share:.2f} | {wanted} |")
    return lines


def write_page(lines: list[str], lmod: Lmod) -> None:
    """Replace the table in docs/modules.md."""
    text = PAGE.read_text(encoding="utf-8")
    head, rest = text.split(BEGIN, 1)
    tail = rest.split(END, 1)[1]
    body = "\n".join(["", *lines, "", f"{MODULES} modules, Lmod {lmod.version}; {machine()}.", ""])
    PAGE.write_text(f"{head}{BEGIN}{body}{END}{tail}", encoding="utf-8")


def main() -> int:
    """Run the benchmark in a new directory, and remove the directory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9, help="runs of each command; one if it takes half a minute")
    parser.add_argument("--write", action="store_true", help="write the result into docs/modules.md")
    asked = parser.parse_args()
    lmod = image_lmod(System())
    if lmod is None or os.geteuid() != 0:
        print("bench-modules: needs an Lmod on this machine, and root", file=sys.stderr)
        return 1
    place = Path(tempfile.mkdtemp(prefix="petal-bench-"))
    try:
        world = make(place)
        found = {"local disk": measure(world, lmod, asked.runs, asked.runs)}
        with slow(world.paths.shared_root):
            found["1 ms an operation"] = measure(world, lmod, asked.runs, 1)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    lines = table(found)
    print("\n".join(lines))
    if asked.write:
        write_page(lines, lmod)
    return 1 if any("MISSED" in line for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
