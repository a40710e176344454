"""The hook verb as a real process: it returns in time, keeps nothing open, and always leaves a record."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import psutil
import pytest

from bootstrap.host.files import sha256_of
from tests.deadlines import SOON
from tests.real.hooks import until
from tests.real.nodes import TOP, command, petal, runs
from tests.real.server import Handler, serving
from tests.world import tarball


@pytest.fixture
def node(tmp_path: Path) -> Path:
    (tmp_path / "head" / "shared").mkdir(parents=True)
    return tmp_path / "head"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tarball(tmp_path / "hello.tar.gz", {"hello/bin/hello": "#!/bin/sh\necho hello\n"})


@pytest.fixture
def slow(package: Path) -> Iterator[tuple[str, threading.Event]]:
    """An S3 that sends the package only after the test permits it."""
    go = threading.Event()

    def behave(handler: Handler, _: int) -> None:
        data = package.read_bytes()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        go.wait(600)
        handler.wfile.write(data)

    with serving(behave) as server:
        yield server.url, go
        go.set()


def config(tmp_path: Path, source: str, digest: str, budget: int = 60) -> str:
    path = tmp_path / "petal.yaml"
    entry = {"name": "hello", "version": "1.0", "source": source, "sha256": digest}
    path.write_text(json.dumps({"packages": [entry], "install": {"budget": budget}}))
    return str(path)


def test_a_hook_returns_at_its_budget_and_its_worker_continues(
    node: Path, package: Path, slow: tuple[str, threading.Event], tmp_path: Path
) -> None:
    endpoint, go = slow
    path = config(tmp_path, "s3://bucket/hello.tar.gz", sha256_of(package), budget=1)
    started = time.monotonic()
    done = petal(node, "hook", "configured", "--config", path, AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
    assert time.monotonic() - started < SOON, "a process keeps the hook's stdout or stderr open"
    assert done.returncode == 0
    assert "still running" in done.stdout
    assert runs(node)[0]["finished"] is None
    go.set()
    until(lambda: runs(node)[0]["finished"] is not None)
    assert (node / "opt/petal/current/manifest.json").is_file()


def test_a_killed_worker_leaves_an_unfinished_record_and_the_next_run_converges(
    node: Path, package: Path, slow: tuple[str, threading.Event], tmp_path: Path
) -> None:
    endpoint, go = slow
    path = config(tmp_path, "s3://bucket/hello.tar.gz", sha256_of(package), budget=1)
    petal(node, "hook", "configured", "--config", path, AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
    (record,) = runs(node)
    os.kill(record["pid"], signal.SIGKILL)
    until(lambda: not psutil.pid_exists(record["pid"]))
    assert runs(node)[0]["finished"] is None
    assert not (node / "opt/petal/current").exists()
    go.set()
    done = petal(node, "bootstrap", "--config", config(tmp_path, str(package), sha256_of(package)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (node / "opt/petal/current/manifest.json").is_file()
    assert not list((node / "shared/petal/root/store").rglob(".*.part"))


@dataclass(frozen=True)
class Install:
    """A bootstrap that waits for its package until the test releases it."""

    argv: list[str]
    env: dict[str, str]
    config: str
    go: threading.Event

    def start(self, output: TextIO | int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.argv, cwd=TOP, env=self.env, stdout=output)


@pytest.fixture
def install(node: Path, package: Path, slow: tuple[str, threading.Event], tmp_path: Path) -> Install:
    endpoint, go = slow
    path = config(tmp_path, "s3://bucket/hello.tar.gz", sha256_of(package))
    env = {"PATH": os.environ["PATH"], "AWS_ENDPOINT_URL": endpoint, "AWS_REGION": "us-east-1"}
    return Install(command(node, "bootstrap", "--config", path), env, path, go)


MANY = 64


def test_of_64_simultaneous_bootstraps_one_installs_and_all_have_its_result(
    node: Path, install: Install, tmp_path: Path
) -> None:
    outputs = [(tmp_path / f"out-{number}").open("w+") for number in range(MANY)]
    all_of_them = [install.start(output) for output in outputs]
    waiting = re.compile(
        rf"(?:desired-state|packages) +waiting for {socket.gethostname().split('.')[0]}, process (\d+)"
    )
    until(lambda: sum(bool(waiting.search(output_of(output))) for output in outputs) == MANY - 1, 300)
    install.go.set()
    assert [process.wait(300) for process in all_of_them] == [0] * MANY
    outcomes = [{step["name"]: step["outcome"] for step in run["steps"]} for run in runs(node)]
    assert len(outcomes) == MANY
    for step in ("desired-state", "packages", "module-tree", "publish"):
        assert sorted(outcome[step] for outcome in outcomes) == ["changed"] + ["ok"] * (MANY - 1), step
    changed = {"name": "packages", "outcome": "changed"}
    installer = next(run for run in runs(node) if any(changed.items() <= step.items() for step in run["steps"]))
    named = {found.group(1) for output in outputs if (found := waiting.search(output_of(output)))}
    assert named == {str(installer["pid"])}
    for output in outputs:
        output.close()


def output_of(output: TextIO) -> str:
    """The output of a process so far."""
    return Path(output.name).read_text()


def test_a_stopped_installer_keeps_its_lock_and_completes(node: Path, install: Install) -> None:
    holder = install.start()
    until((node / "shared/petal/lock/stack.holder").exists)
    os.kill(holder.pid, signal.SIGSTOP)
    install.go.set()
    try:
        other = petal(node, "bootstrap", "--config", install.config, "--lock-wait", "2")
        assert other.returncode == 75, other.stdout
        assert f"process {holder.pid}" in other.stdout
        assert not (node / "opt/petal/current").exists()
    finally:
        os.kill(holder.pid, signal.SIGCONT)
    assert holder.wait(60) == 0
    assert (node / "opt/petal/current/manifest.json").is_file()


def test_a_run_without_the_lock_at_its_deadline_exits_75_and_names_the_holder(node: Path, install: Install) -> None:
    first = install.start()
    until((node / "shared/petal/lock/stack.holder").exists)
    second = petal(node, "bootstrap", "--config", install.config, "--lock-wait", "0.5")
    install.go.set()
    first.wait(60)
    assert second.returncode == 75, second.stdout
    assert f"process {first.pid}" in second.stdout


def test_a_terminated_worker_completes_its_record(node: Path, package: Path, slow: Any, tmp_path: Path) -> None:
    endpoint, _ = slow
    path = config(tmp_path, "s3://bucket/hello.tar.gz", sha256_of(package), budget=1)
    petal(node, "hook", "configured", "--config", path, AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
    os.kill(runs(node)[0]["pid"], signal.SIGTERM)
    until(lambda: runs(node)[0]["finished"] is not None)
    record = runs(node)[0]
    assert (record["status"], record["exit"]) == ("degraded", 143)


@pytest.mark.parametrize(
    ("text", "code"),
    [("layout: shard", 78), ("a: [", 78), (None, 78), ("storage: {mount: /elsewhere}", 3)],
    ids=["mistake", "no YAML", "no file", "no storage"],
)
def test_a_hook_exits_0_and_records_the_exit_code(node: Path, tmp_path: Path, text: str | None, code: int) -> None:
    path = tmp_path / "petal.yaml"
    if text is not None:
        path.write_text(text)
    done = petal(node, "hook", "configured", "--config", str(path))
    assert done.returncode == 0
    (record,) = runs(node)
    assert (record["status"], record["exit"]) == ("degraded", code)
    assert petal(node, "hook", "configured", "--config", str(path), "--strict").returncode == code


def test_a_worker_that_cannot_start_is_an_error_in_the_record(node: Path, tmp_path: Path) -> None:
    """The directory of the record cannot be written: the hook still exits 0 and prints the error."""
    (node / "var").mkdir()
    (node / "var/lib").write_text("a file where a directory should be")
    done = petal(node, "hook", "configured", "--config", "/no/file")
    assert done.returncode == 0
    assert "petal-node" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
