"""Unit tests use no process and no network; tests with either are in tests/real, tests/spack or tests/lab."""

from __future__ import annotations

import os
import socket
import subprocess

import pytest


def _forbidden(*_args: object, **_kwargs: object) -> None:
    raise AssertionError("a unit test started a process or opened a connection: move it to tests/real")


@pytest.fixture(autouse=True)
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", _forbidden)
    monkeypatch.setattr(os, "fork", _forbidden)
    monkeypatch.setattr(os, "system", _forbidden)
    monkeypatch.setattr(socket.socket, "connect", _forbidden)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("AWS_", "PETAL_", "SLURM_", "SPACK_", "LMOD_")):
            monkeypatch.delenv(name)
