"""Faults of S3 and the metadata service during a hook: it exits 0 in time, and its record describes the fault.

Complete runs, with a server in place of S3 and IMDS: the hook and its detached worker, or the worker in this process if
its deadlines would take too long. One object has a fault at a time.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cli import main
from bootstrap.host.files import sha256_of
from bootstrap.host.times import new_run_id
from bootstrap.remote import metadata
from tests.deadlines import SOON
from tests.real.hooks import until
from tests.real.nodes import petal, runs
from tests.real.server import (
    Behaviour,
    Handler,
    always,
    answer,
    content,
    cut_off,
    dripping,
    first,
    hurry,
    serving,
    silent,
)
from tests.world import tarball

SECONDS = 2  # for one transfer of the worker
ROLE = "/latest/meta-data/iam/security-credentials/"
KEYS = json.dumps({"AccessKeyId": "key", "SecretAccessKey": "secret", "Token": "token"}).encode()


def imds(handler: Handler, _: int) -> None:
    """A metadata service with the instance's role."""
    answers = {"/latest/api/token": b"t", ROLE: b"role", f"{ROLE}role": KEYS}
    found = answers.get(handler.path)
    answer(handler, 200 if found else 404, found or b"")


@dataclass
class World:
    """A node, its S3 and its metadata service, which work unless a fault is set."""

    node: Path
    objects: dict[str, bytes]
    servers: ExitStack
    faults: dict[str, Behaviour] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.s3 = self.servers.enter_context(serving(self.behave))
        self.metadata = self.servers.enter_context(serving(imds)).url

    def behave(self, handler: Handler, _: int) -> None:
        name = handler.path.removeprefix("/bucket/")
        self.asked[name] += 1
        well = content(self.objects[name]) if name in self.objects else always(404)
        self.faults.get(name, well)(handler, self.asked[name])

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.s3.url,
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata,
        }

    def hook(self, config: str = "s3://bucket/petal.yaml", **env: str) -> dict[str, Any]:
        """Run a hook, which exits 0 in time, and return its finished record."""
        started = time.monotonic()
        done = petal(self.node, "hook", "configured", "--config", config, **{**self.environment(), **env})
        assert time.monotonic() - started < SOON
        assert done.returncode == 0, done.stdout + done.stderr
        until(lambda: runs(self.node)[-1]["finished"] is not None)
        return runs(self.node)[-1]

    def worker(self, monkeypatch: pytest.MonkeyPatch, **env: str) -> dict[str, Any]:
        """Run the worker of a hook in this process, with short deadlines, and return its record."""
        started = time.monotonic()
        argv = ("worker", "--event", "configured", "--run-id", new_run_id(), "--config", "s3://bucket/petal.yaml")
        with monkeypatch.context() as patched:
            hurry(patched, SECONDS)
            patched.setattr(metadata, "_service", metadata._Service())
            patched.setattr(os, "environ", {"PATH": os.environ["PATH"], **self.environment(), **env})
            main([*argv, "--role", "head", "--root", str(self.node)])
        assert time.monotonic() - started < SOON
        return runs(self.node)[-1]

    def retries(self) -> list[str]:
        """The lines about retries in the log: one for each reason."""
        lines = (self.node / "var/log/petal-node.log").read_text().splitlines()
        return [line["message"] for line in map(json.loads, lines) if "trying again for" in line["message"]]


OBJECTS = ("petal.yaml", "hello.tar.gz", "spack.tar.gz")
ERRORS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "petal.yaml": lambda record: record["errors"][0],
    "hello.tar.gz": lambda record: step(record, "packages")["error"],
    "spack.tar.gz": lambda record: step(record, "spack")["error"],
}


def step(record: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(item for item in record["steps"] if item["name"] == name)
    return found


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    (tmp_path / "head" / "shared").mkdir(parents=True)
    hello = tarball(tmp_path / "hello.tar.gz", {"hello/bin/hello": "#!/bin/sh\necho hello\n"})
    spack = tarball(tmp_path / "spack.tar.gz", {"spack-1.1.1/lib/spack/spack/__init__.py": '__version__ = "1.1.1"\n'})
    config = {
        "packages": [
            {"name": "hello", "version": "1.0", "source": "s3://bucket/hello.tar.gz", "sha256": sha256_of(hello)}
        ],
        "spack": {
            "source": "s3://bucket/spack.tar.gz",
            "sha256": sha256_of(spack),
            "recipes": {"source": "s3://bucket/spack.tar.gz", "sha256": sha256_of(spack)},
            "specs": ["fftw"],
        },
    }
    objects = {path.name: path.read_bytes() for path in (hello, spack)}
    objects["petal.yaml"] = json.dumps(config).encode()
    with ExitStack() as servers:
        yield World(tmp_path / "head", objects, servers)


def binaries_only(world: World) -> None:
    config = json.loads(world.objects["petal.yaml"])
    world.objects["petal.yaml"] = json.dumps({"packages": config["packages"]}).encode()


def failed(world: World, name: str, record: dict[str, Any], code: str) -> dict[str, Any]:
    """Assert the results of a failed fetch: the error with its remedy, and no file but the part for the next run."""
    error = ERRORS[name](record)
    assert error["code"] == code, error
    assert f"s3://bucket/{name}" in error["what"]
    assert error["why"]
    assert error["remedy"]
    assert record["status"] == "degraded"
    assert not (world.node / "opt/petal/current").exists()
    assert {path.suffix for path in (world.node / "var/cache/petal-node/scratch").iterdir()} <= {".part"}
    assert not list((world.node / "shared").rglob("*.part"))
    return error


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize(("status", "code"), [(403, "fetch-forbidden"), (404, "fetch-missing")])
def test_a_definite_denial_is_not_retried(world: World, name: str, status: int, code: str) -> None:
    world.faults[name] = always(status)
    assert str(status) in failed(world, name, world.hook(), code)["why"]
    assert world.asked[name] == 1


BROKEN: dict[str, Callable[[bytes], Behaviour]] = {
    "500": lambda _: always(500),
    "slow": lambda data: dripping(data, 0.2),
    "cut off": lambda data: cut_off(data, 0),
    "silent": lambda _: silent,
}


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("how", BROKEN)
def test_an_object_that_never_arrives_is_given_up_in_time(
    world: World, name: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.faults[name] = BROKEN[how](world.objects[name])
    error = failed(world, name, world.worker(monkeypatch), "fetch-unreachable")
    assert f"within {SECONDS} s" in error["what"]
    if how in ("500", "cut off"):
        assert len(world.retries()) == 1 < world.asked[name]
        assert f"({world.asked[name]} attempts)" in error["why"]


@pytest.mark.parametrize("name", ["petal.yaml", "hello.tar.gz"])
@pytest.mark.parametrize("how", ["500", "cut off"])
def test_an_object_that_arrives_at_the_fourth_attempt_is_used(world: World, name: str, how: str) -> None:
    binaries_only(world)
    data = world.objects[name]
    bad = cut_off(data, len(data) // 2) if how == "cut off" else always(500)
    world.faults[name] = first(1 if how == "cut off" else 3, bad, content(data))
    record = world.hook()
    assert record["status"] == "changed", record
    assert world.asked[name] == (2 if how == "cut off" else 4)
    assert len(world.retries()) == 1
    ranges = [request.get("Range") for request in world.s3.requests if request["path"].endswith(name)]
    is_continued = how == "cut off" and name != "petal.yaml"  # which has no checksum, so it may have been replaced
    assert ranges[-1] == (f"bytes={len(data) // 2}-" if is_continued else None)


@pytest.mark.parametrize("name", ["hello.tar.gz", "spack.tar.gz"])
def test_an_object_with_another_checksum_is_not_used(world: World, name: str) -> None:
    world.faults[name] = content(b"something else")
    error = failed(world, name, world.hook(), "fetch-checksum")
    assert "its sha256 is" in error["why"]
    assert error["what"].startswith("hello 1.0: ") == (name == "hello.tar.gz")
    assert world.asked[name] == 1


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:9", "http://s3.invalid"], ids=["nobody listens", "a name that nobody knows"]
)
def test_an_unreachable_s3_is_reported(world: World, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    record = world.worker(monkeypatch, AWS_ENDPOINT_URL=endpoint)
    failed(world, "petal.yaml", record, "fetch-unreachable")
    assert world.retries()


def no_role(handler: Handler, number: int) -> None:
    """A metadata service of an instance without a role."""
    always(404)(handler, number) if handler.path.startswith(ROLE) else imds(handler, number)


@pytest.mark.parametrize("blocked", ["no role", "refused", "dropped"])
def test_missing_credentials_are_reported_with_their_cause(world: World, blocked: str) -> None:
    """S3 answers 403 to an unsigned request; the error names the reason, and the hook does not wait for IMDS."""
    world.faults["petal.yaml"] = always(403)
    with ExitStack() as servers:
        behaviour = {"no role": no_role, "dropped": silent}.get(blocked)
        metadata = servers.enter_context(serving(behaviour)).url if behaviour else "http://127.0.0.1:9"
        record = world.hook(AWS_EC2_METADATA_SERVICE_ENDPOINT=metadata)
    error = failed(world, "petal.yaml", record, "fetch-no-credentials")
    assert error["remedy"][0].startswith("curl ")
    assert "Authorization" not in world.s3.requests[-1]


def test_requests_are_signed_with_the_instances_role(world: World) -> None:
    world.faults["petal.yaml"] = always(403)
    failed(world, "petal.yaml", world.hook(), "fetch-forbidden")
    headers = {name.lower(): value for name, value in world.s3.requests[-1].items()}
    assert "Credential=key/" in headers["authorization"]
    assert headers["x-amz-security-token"] == "token"


def test_the_same_command_succeeds_after_s3_has_recovered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It continues where the transfer of the hook was cut off."""
    binaries_only(world)
    world.faults["hello.tar.gz"] = cut_off(world.objects["hello.tar.gz"], 10)
    failed(world, "hello.tar.gz", world.worker(monkeypatch), "fetch-unreachable")
    world.faults.clear()
    done = petal(world.node, "bootstrap", **world.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (world.node / "opt/petal/current/manifest.json").is_file()
    assert world.s3.requests[-1]["Range"] == "bytes=10-"
    assert list((world.node / "var/cache/petal-node/scratch").glob("*.part")) == []


def test_with_strict_the_hook_exits_with_the_errors_code(world: World) -> None:
    world.faults["petal.yaml"] = always(404)
    argv = ("hook", "configured", "--config", "s3://bucket/petal.yaml", "--strict")
    assert petal(world.node, *argv, **world.environment()).returncode == 1
