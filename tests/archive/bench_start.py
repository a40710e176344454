"""Print the time of a warm `petal-node version` and of a bare Python: medians of alternating runs and their ratio.

Run as `make bench-start`, or `python tests/archive/bench_start.py [ARCHIVE] [--runs N]`.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

BARE = ["/usr/bin/python3", "-I", "-c", "pass"]


@dataclass(frozen=True)
class Start:
    """Times in ms."""

    cold: float
    warm: float
    bare: float

    @property
    def ratio(self) -> float:
        return self.warm / self.bare


def measure(archive: Path, runs: int, prefix: str) -> Start:
    """Time one cold start and ``runs`` warm ones. The cache is in ``prefix``, so the machine's cache is not used."""
    env = {"PATH": "/usr/bin:/bin", "PETAL_PREFIX": prefix}
    usr = Path(prefix, "usr/bin")
    usr.mkdir(parents=True, exist_ok=True)
    if not (usr / "python3").exists():
        (usr / "python3").symlink_to("/usr/bin/python3")
    shutil.rmtree(Path(prefix, "var"), ignore_errors=True)
    tool = [str(archive), "version"]
    cold = _ms(tool, env)
    _ms(tool, env)
    pairs = [(_ms(tool, env), _ms(BARE, env)) for _ in range(runs)]
    return Start(cold, *(statistics.median(times) for times in zip(*pairs)))


def _ms(command: list[str], env: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("archive", type=Path, nargs="?", default=Path(__file__).parents[2] / "dist/petal-node")
    parser.add_argument("--runs", type=int, default=40)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as prefix:
        start = measure(options.archive.resolve(), options.runs, prefix)
    size = options.archive.stat().st_size
    print(f"petal-node version   cold {start.cold:6.1f} ms   warm {start.warm:6.1f} ms   ({size / 1e6:.2f} MB)")
    print(f"{' '.join(BARE)}      {start.bare:6.1f} ms")
    print(f"ratio {start.ratio:.2f} (at most 4; {options.runs} alternating runs, medians)")


if __name__ == "__main__":
    main()
