"""pytest-docker's fixtures for the lab.

The lab is named petal-test, so that ``make lab`` can run at the same time. ``PETAL_TEST_LAB`` sets another name, and
each worker of pytest-xdist has its own lab.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import engine, faults, stack
from tests.lab.cluster import Lab
from tests.lab.demo import publish

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
NAME = (os.environ.get("PETAL_TEST_LAB") or "petal-test") + (f"-{WORKER}" if WORKER else "")


@pytest.fixture(scope="session")
def lab_images() -> Iterator[Lab]:
    """Return the lab after starting the engine and building images; skip if no container can run.

    The variables of the compose file are set before pytest-docker's first command and removed after its last: without
    them pytest-docker would use the other lab.
    """
    lab = Lab(NAME)
    reason = Lab.available()
    with engine.hold_lab("images"):
        try:
            if not reason:
                lab.ensure_engine()
        except engine.LabError as error:
            reason = str(error)
        if reason:
            pytest.skip(reason)
        lab.build_images()
    with engine.hold_lab(NAME), pytest.MonkeyPatch.context() as patch:
        for key, value in lab.environment().items():
            patch.setenv(key, value)
        yield lab


@pytest.fixture(scope="session")
def docker_compose_command(lab_images: Lab) -> str:
    """Compose v2 or v1."""
    return " ".join(engine.compose_command() or ())


@pytest.fixture(scope="session")
def docker_compose_file() -> str:
    """The lab's compose file."""
    return str(Path(__file__).with_name("docker-compose.yml"))


@pytest.fixture(scope="session")
def docker_compose_project_name() -> str:
    """A fixed name, so that a session finds and removes the containers of a killed session."""
    return NAME


@pytest.fixture(scope="session")
def docker_setup() -> list[str]:
    """Start every session with new nodes and empty storage."""
    return ["down -v -t 1 --remove-orphans", "up -d"]


@pytest.fixture(scope="session")
def docker_cleanup() -> list[str]:
    """Remove containers, network and volumes."""
    return ["down -v -t 1 --remove-orphans"]


@pytest.fixture(scope="session")
def lab(lab_images: Lab, docker_services: object) -> Iterator[Lab]:
    """The lab with running nodes that have not booted. A test that needs new nodes calls ``lab.fresh()``."""
    del docker_services
    lab_images.wait_ready()
    yield lab_images
    lab_images.hang_up()


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Lab:
    """A head node after its install, and a ready compute and login node."""
    lab.fresh()
    publish(lab, stack.lab_config(lab, spack=False))
    for node in ("head", "compute-1", "login-1"):
        for result in lab.boot(node):
            result.check()
        faults.wait_until_ready(lab, node, 60)
        engine.until(f"{node} has no timer", lambda node=node: not faults.has_timer(lab, node), 60)  # type: ignore[misc]
    return lab
