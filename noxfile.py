"""Runs the unit tests and the archive's tests on every installed CPython: `.venv/bin/nox`, or `nox -s unit-3.9`."""

from __future__ import annotations

import nox

PYTHONS = ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"]
nox.options.error_on_missing_interpreters = False
nox.options.envdir = "build/nox"
nox.options.reuse_existing_virtualenvs = True


@nox.session(python=PYTHONS)
def unit(session: nox.Session) -> None:
    """The node's own packages, as the archive has them, with this Python."""
    session.install("--require-hashes", "--no-deps", "-r", "bootstrap/requirements.txt")
    session.install("pytest", "hypothesis", "pygments", "markdown-it-py")
    session.run("python", "-m", "pytest", "tests/unit", *session.posargs)


@nox.session(python=PYTHONS[-4:])
def archive(session: nox.Session) -> None:
    """Builds the archive with this Python; the tests start it on all of them."""
    session.install("--require-hashes", "--no-deps", "-r", "bootstrap/requirements.txt")
    session.install("pytest", "hypothesis", "pygments", "markdown-it-py")
    session.run("python", "-m", "pytest", "tests/archive", *session.posargs)
