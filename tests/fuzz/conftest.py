"""The number of examples and their seed.

``make test`` runs the same examples each time: 500 per target, fewer if a target sets it. ``make fuzz`` runs
10,000 per target from a new seed, and prints the seed; ``make fuzz SEED=N`` repeats that run.
"""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from tests.fuzz import node

EXAMPLES = int(os.environ.get("PETAL_FUZZ", "500"))
LONG = "PETAL_FUZZ" in os.environ
# All examples of a test share a fixture's directory; each example makes its own tree in it.
hypothesis.settings.register_profile(
    "petal",
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=not LONG,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
hypothesis.settings.load_profile("petal")


def pytest_report_header() -> str:
    return f"fuzz: {EXAMPLES} examples a target, " + ("a new seed" if LONG else "always the same")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "PETAL_", "SLURM", "SPACK_", "LMOD_", "XDG_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bootstrapped node with every record; examples work on copies."""
    top = tmp_path_factory.mktemp("node")
    return node.install(top)
