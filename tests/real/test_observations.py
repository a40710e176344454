"""The number of path system calls of one run on shared storage, counted by strace: on NFS each may be a round trip."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.real.nodes import TOP, petal
from tests.world import lmod_of_this_machine, with_package

CALLS = 43  # of petal-node itself, without those of Lmod and of the programs
SOFTWARE = re.compile(r"/(modules|modulefiles|store/linux-[^/]+)(/|$)")


def path_calls(node: Path, *argv: str) -> Counter[str]:
    """The paths of the system calls of one run on shared storage and below the root."""
    trace = node.parent / "trace"
    strace = ["strace", "-f", "-qq", "-s", "4096", "-e", "trace=%file", "-o", str(trace)]
    program = [sys.executable, "-m", "bootstrap", *argv, "--root", str(node)]
    subprocess.run([*strace, *program], cwd=TOP, capture_output=True, timeout=120, check=True)
    places = "|".join(re.escape(str(node / place)) for place in ("shared", "opt/petal"))
    called = re.findall(
        rf'^\d+ +\w+\([^"]*"((?:{places})(?:/[^"]*)?)"', trace.read_text(errors="replace"), re.MULTILINE
    )
    return Counter(path.removeprefix(str(node)) for path in called if not SOFTWARE.search(path))


@pytest.mark.skipif(not shutil.which("strace"), reason="strace is not installed")
@pytest.mark.skipif(lmod_of_this_machine() is None, reason="Lmod is not installed")
def test_a_boot_of_a_ready_compute_node_reads_each_document_once_per_probe(tmp_path: Path) -> None:
    node = tmp_path / "node"
    (node / "shared").mkdir(parents=True)
    config = tmp_path / "petal.yaml"
    config.write_text(with_package(tmp_path))
    assert petal(node, "bootstrap", "--config", str(config)).returncode == 0
    for _ in range(2):  # the first run makes the node ready
        calls = path_calls(node, "converge", "--role", "compute")
    assert sum(calls.values()) <= CALLS, calls
    # The token: for the desired state, for the step storage, and right before the node's report is written.
    expected = {"token.json": 6, "desired.json": 2, "manifest.json": 1, "current": 1}
    assert {name: sum(n for path, n in calls.items() if Path(path).name == name) for name in expected} == expected
