"""How a worker becomes a service of systemd, including old versions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands.hook import _worker_argv
from bootstrap.core.errors import ProcessFailed, ProcessTimeout
from bootstrap.core.model import Tool
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.host import system, systemd
from bootstrap.host.files import sha256_of
from bootstrap.host.system import Completed, System
from bootstrap.host.systemd import detach, environment_file, parse_environment, take_environment
from tests.world import services


class OldSystemd(System):
    """A systemd 239, which refuses newer properties."""

    def __init__(self, trouble: Exception | None = None) -> None:
        self.commands: list[list[str]] = []
        self.trouble = trouble

    def has_systemd(self) -> bool:
        return True

    def is_root(self) -> bool:
        return True

    def run(self, argv: Sequence[str], **_: Any) -> Completed:  # type: ignore[override]
        self.commands.append(list(argv))
        if self.trouble:
            raise self.trouble
        if any("OOMPolicy" in word for word in argv):
            raise ProcessFailed("systemd-run ended with 1", why="Unknown assignment: OOMPolicy=continue")
        return Completed(0, "", "")


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd, "ENVIRONMENT", tmp_path / "environment")


def test_an_old_systemd_gets_only_properties_that_it_knows(tmp_path: Path) -> None:
    old = OldSystemd()
    detach(["/opt/petal-node/1/petal-node", "worker"], old, unit="w", output=tmp_path / "out")
    first, second = old.commands
    assert [word for word in first if word not in second] == ["--property=OOMPolicy=continue"]
    assert "--property=Restart=on-abnormal" in second
    assert second[-2:] == ["/opt/petal-node/1/petal-node", "worker"]


def test_a_systemd_that_does_not_answer_is_not_called_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second call would take as long. If systemd did start the worker, locks prevent two workers at once."""
    silent = OldSystemd(ProcessTimeout("systemd-run did not end"))
    started: list[list[str]] = []
    monkeypatch.setattr(system.subprocess, "Popen", lambda argv, **_: started.append(argv))
    detach(["worker"], silent, unit="w", output=tmp_path / "out")
    assert len(silent.commands) == 1
    assert started == [["worker"]]


def test_the_environment_of_a_worker_is_read_back_unchanged() -> None:
    env = {"AWS_ENDPOINT_URL": "http://s3:5000", "HTTP_PROXY": 'http://u:"p\\w"@proxy', "EMPTY": ""}
    assert parse_environment(environment_file(env)) == env
    assert parse_environment("# a comment\nNO quotes\nX=1\n") == {}


def test_a_typed_hook_does_not_replace_the_stored_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    detach(["worker"], OldSystemd(), unit="w", output=tmp_path / "out", is_typed=True)  # the first one
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:2")
    typed = OldSystemd()
    detach(["worker"], typed, unit="w", output=tmp_path / "out", is_typed=True)
    assert parse_environment((tmp_path / "environment").read_text())["HTTPS_PROXY"] == "http://proxy:1"
    assert parse_environment((tmp_path / "environment-typed").read_text())["HTTPS_PROXY"] == "http://proxy:2"
    assert f"--property=EnvironmentFile={tmp_path}/environment-typed" in typed.commands[-1]
    detach(["worker"], OldSystemd(), unit="w", output=tmp_path / "out")
    assert parse_environment((tmp_path / "environment").read_text())["HTTPS_PROXY"] == "http://proxy:2"


def test_an_operator_reaches_servers_as_the_hook_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {
        "AWS_ENDPOINT_URL_S3": "http://s3",
        "AWS_REGION": "eu-west-1",
        "https_proxy": "http://proxy",
        "SSL_CERT_FILE": "/ca",
        "PETAL_PREFIX": "/image",
        "HOME": "/root",
    }
    (tmp_path / "environment").write_text(environment_file(kept))
    for name in ("https_proxy", "HTTPS_PROXY", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/operator")
    with monkeypatch.context() as before:
        before.setattr(os, "environ", dict(os.environ))
        take_environment()
        found = {name: os.environ.get(name) for name in kept}
    assert found == {**kept, "PETAL_PREFIX": None, "HOME": "/home/operator"}
    with monkeypatch.context() as before:
        given = {"AWS_ENDPOINT_URL": "http://mine", "AWS_DEFAULT_REGION": "us-east-1", "HTTPS_PROXY": "http://mine"}
        before.setattr(os, "environ", {**os.environ, **given})
        take_environment()
        found = {name: os.environ.get(name) for name in kept}
    assert found == {**dict.fromkeys(kept), "SSL_CERT_FILE": "/ca", "HOME": "/home/operator"}


def worker_program(paths: Paths, archive: Path) -> str:
    """The program of the command that a hook starts as its worker."""
    tool = Tool("0.1.0", archive, sha256_of(archive))
    options = Options("hook", event="configured", root=paths.prefix)
    return _worker_argv(options, services(System(), tool, "run"))[0]


def test_a_worker_runs_a_private_copy_of_the_archive(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    download = paths.home / "incoming" / "0123"
    download.parent.mkdir(parents=True)
    download.write_text("archive")
    kept = paths.home / "0.1.0" / "petal-node"
    assert worker_program(paths, download) == str(kept)
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("archive", 0o755)
    assert not download.exists()
    assert worker_program(paths, kept) == str(kept)


def test_a_worker_runs_the_archive_of_its_hook_if_it_cannot_be_copied(tmp_path: Path) -> None:
    paths = Paths(tmp_path / "node")
    script = tmp_path / "script"
    script.write_text("archive")
    paths.home.parent.mkdir(parents=True)
    paths.home.write_text("a file in place of the directory")
    assert worker_program(paths, script) == str(script)
    assert script.read_text() == "archive"
