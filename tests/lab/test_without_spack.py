"""The tests of ``repair`` without real Spack, because their cluster and many findings are others then."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.lab import engine, stack
from tests.lab.conftest import NAME


def test_faults_are_repaired_on_a_cluster_without_spack() -> None:
    if stack.no_spack() is not None:
        pytest.skip("all tests of this run are without Spack")
    argv = [sys.executable, "-m", "pytest", "-q", "-k", "not hanging_mounts", "tests/lab/test_repair.py"]
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_XDIST")}
    env |= {"PETAL_SPACK_CACHE": "/var/empty", "PETAL_TEST_LAB": f"{NAME}-bare"}
    done = subprocess.run(argv, cwd=engine.TOP, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
