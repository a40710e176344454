"""``install.where: slurm`` on the lab: real Slurm runs real Spack on a compute node, and no job outlives its worker."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from tests.lab import release_stack, stack
from tests.lab.cluster import HOSTNAMES, Lab, Result
from tests.lab.demo import publish
from tests.lab.engine import until
from tests.lab.kills import KILL
from tests.lab.test_product import answer, petal

NODE = HOSTNAMES["compute-1"]
HOLD = "/shared/hold"
RECIPE = f'''\
import os
import time

from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class Witness(Package):
    """Says where it was built."""

    has_code = False
    version("1")
    version("2")

    def install(self, spec, prefix):
        limit = time.monotonic() + 120
        while os.path.exists("{HOLD}") and time.monotonic() < limit:
            time.sleep(0.1)
            print("held", flush=True)
        mkdirp(prefix.bin)
        program = join_path(prefix.bin, "witness")
        with open(program, "w") as stream:
            stream.write("#!/bin/sh\\necho %s %s\\n" % (spec.version, os.uname().nodename))
        set_executable(program)
'''
SAY = "module load witness && witness"
NAMES = ("witness", "second", "third")
CACHE = "/shared/cache"
# Replaces the tarball of the package $1 in a build cache by random bytes with a matching checksum.
SPOIL = f"""
import glob, hashlib, json, os, sys
(manifest,) = glob.glob(f"{CACHE}/v3/manifests/spec/{{sys.argv[1]}}/*.json")
document = json.load(open(manifest))
(part,) = (part for part in document["data"] if "tar" in part["mediaType"])
part["checksum"] = hashlib.sha256(b"no tarball").hexdigest()
place = f"{CACHE}/blobs/sha256/{{part['checksum'][:2]}}"
os.makedirs(place, exist_ok=True)
open(f"{{place}}/{{part['checksum']}}", "w").write("no tarball")
json.dump(document, open(manifest, "w"))
"""
# Spack's processes on a node, found by the environment variable of their run.
BUILDERS = "grep -lz '^PETAL_RUN_ID=' /proc/[0-9]*/environ 2>/dev/null || true"


@pytest.fixture(scope="module")
def section(lab: Lab) -> dict[str, Any]:
    reason = stack.no_spack()
    if reason:
        pytest.skip(reason)
    lab.fresh()
    bucket = stack.Bucket(lab)
    recipes = {name: RECIPE.replace("Witness", name.title()).replace("witness", name) for name in NAMES}
    made = release_stack.spack_section(lab, bucket, release_stack.pack("witness", recipes))
    bucket.send()
    return made


@pytest.fixture(scope="module")
def hooked(lab: Lab, section: dict[str, Any]) -> Result:
    """Boot a cluster whose stack is built and proved by jobs on its compute node; return the head node's hook."""
    publish(lab, config_of(section, 1))
    hook = lab.boot("head")[3].check()
    for result in lab.boot("compute-1"):
        result.check()
    until("the worker has ended", lambda: install(lab)["finished"] is not None, 240)
    return hook


def install(lab: Lab) -> dict[str, Any]:
    """The record of the head node's last install."""
    record: dict[str, Any] = answer(petal(lab, "head", "status", "--json"))["data"]["install"]
    return record


def config_of(section: dict[str, Any], version: int, queue: str = "queue1") -> dict[str, Any]:
    return {
        "stack": "none",
        "spack": {**section, "specs": [f"witness@{version}"]},
        "install": {"where": "slurm", "queue": queue, "wait": 120},
        "check": {"load": ["witness"], "run": ["witness"], "wait": 0},
    }


def bootstrap(lab: Lab, config: dict[str, Any], *verb: str) -> Result:
    lab.write("head", "/tmp/petal.yaml", json.dumps(config))
    argv = ("petal-node", *(verb or ("bootstrap",)), "--config", "/tmp/petal.yaml", "--json")
    return lab.exec("head", argv, env={"AWS_ENDPOINT_URL": "http://s3:5000"}, timeout=200)


def worker(lab: Lab, config: dict[str, Any]) -> Result:
    """Run the worker with a fixed run id, as systemd restarts it after a kill."""
    return bootstrap(lab, config, "worker", "--event", "updated", "--run-id", "run-of-worker")


@contextmanager
def held_build(
    lab: Lab, config: dict[str, Any], start: Callable[[Lab, dict[str, Any]], Result] = bootstrap
) -> Iterator[Future[Result]]:
    """Start a run and hold its job in the middle of a build."""
    lab.write("head", HOLD, "")
    with ThreadPoolExecutor() as pool:
        running = pool.submit(start, lab, config)
        try:
            until("the job builds", lambda: "witness (install)" in job_report(lab), 120)
            yield running
        finally:
            lab.exec("head", ("rm", "-f", HOLD)).check()


def job_report(lab: Lab) -> str:
    """The job's report to its worker; it names a phase after the build's first output in that phase."""
    return lab.exec("head", ("sh", "-c", "cat /shared/petal/build/*/report.json")).stdout


def jobs(lab: Lab) -> list[str]:
    """State and node of every build job in Slurm's queue and memory, oldest first."""
    argv = ("/opt/slurm/bin/squeue", "-h", "-t", "all", "-S", "i", "-o", "%T %N %j")
    lines = lab.exec("head", argv).check().stdout.splitlines()
    return [line.rpartition(" ")[0] for line in lines if " petal-build-" in line]


def builders(lab: Lab, node: str) -> list[str]:
    return lab.exec(node, ("sh", "-c", BUILDERS)).check().stdout.split()


def job_directories(lab: Lab) -> str:
    return lab.exec("head", ("ls", "-A", "/shared/petal/build")).check().stdout


def test_a_compute_node_builds_the_head_node_publishes_and_a_job_proves_the_release(lab: Lab, hooked: Result) -> None:
    data = answer(petal(lab, "head", "status", "--json"))["data"]
    assert (data["proved"], data["current"]) == (1, data["desired"]["release"]), data
    assert lab.shell("head", SAY).check().stdout == f"1 {NODE}\n"
    assert jobs(lab) == [f"COMPLETED {NODE}"]
    assert job_directories(lab) == ""
    log = lab.exec("head", ("sh", "-c", "cat /shared/petal/build-logs/*/spack.log")).check().stdout
    assert "Successfully installed witness-1-" in log
    assert "a job on queue queue1 builds the packages, and no hook waits for it" in hooked.stdout
    assert (hooked.hook_seconds or 99) < 60


def test_a_worker_cancels_its_job_on_sigterm(lab: Lab, hooked: Result, section: dict[str, Any]) -> None:
    """During the build, ``status`` prints the node, the progress and the path of the log."""
    del hooked
    with held_build(lab, config_of(section, 2)) as running:
        until("status shows the phase", lambda: "witness (install)" in petal(lab, "head", "status").stdout, 20)
        lines = petal(lab, "head", "status").stdout.splitlines()
        number = next(number for number, line in enumerate(lines) if "queue queue1: installing 0 of 1" in line)
        assert f"on {NODE}, queue queue1: " in lines[number]
        log = lines[number + 1].strip().removeprefix("log  ")
        assert "witness: Executing phase: 'install'" in lab.read("head", log)
        lab.exec("head", ("pkill", "-TERM", "-f", "^/.*petal-node bootstrap")).check()
        assert running.result().returncode == 143
        until("nothing builds", lambda: not builders(lab, "compute-1"), 60)
        until("the job is gone", lambda: jobs(lab)[-1] == f"CANCELLED {NODE}", 60)
    assert lab.shell("head", SAY).check().stdout == f"1 {NODE}\n"


def test_after_a_kill_the_next_run_cancels_the_old_job_before_it_builds(
    lab: Lab, hooked: Result, section: dict[str, Any]
) -> None:
    del hooked
    config = config_of(section, 2)
    with held_build(lab, config) as running:
        assert lab.exec("head", ("python3", "-", "worker", "1"), stdin=KILL.encode()).check().stdout
        running.result()
        orphans = set(builders(lab, "compute-1"))
        assert jobs(lab)[-1] == f"RUNNING {NODE}"
        assert job_directories(lab) != ""
        before = len(jobs(lab))
        with ThreadPoolExecutor() as pool:
            again = pool.submit(bootstrap, lab, config)
            until("the next job runs", lambda: jobs(lab)[before:] == [f"RUNNING {NODE}"], 120)
            assert jobs(lab)[before - 1] == f"CANCELLED {NODE}"
            assert not orphans & set(builders(lab, "compute-1"))
            lab.exec("head", ("rm", "-f", HOLD)).check()
            assert answer(again.result())["data"]["status"] == "changed", again.result()
    assert lab.shell("head", SAY).check().stdout == f"2 {NODE}\n"
    assert job_directories(lab) == ""


def test_an_unknown_queue_is_refused_before_any_change(lab: Lab, hooked: Result, section: dict[str, Any]) -> None:
    del hooked
    before = lab.read("head", "/shared/petal/state/desired.json")
    for verb in ("plan", "bootstrap"):
        done = bootstrap(lab, config_of(section, 2, "gpu"), verb)
        (error,) = answer(done)["errors"]
        assert (done.returncode, error["code"]) == (78, "job-queue")
        assert "it has queue1" in error["why"]
    assert lab.read("head", "/shared/petal/state/desired.json") == before


def remove_packages(lab: Lab, *names: str) -> None:
    """Remove packages from the store."""
    for name in names:
        lab.exec("head", ("sh", "-c", f"rm -r /opt/petal/store/linux-*/{name}-*")).check()


def spack_output(lab: Lab, done: Result) -> str:
    """Spack's output on the head node and in a job of the run."""
    run_id = answer(done)["run_id"]
    files = f"/var/log/petal-node/spack-{run_id}.log /shared/petal/build-logs/{run_id}/spack.log"
    return lab.exec("head", ("sh", "-c", f"cat {files} 2>/dev/null; true")).check().stdout


def test_a_restarted_worker_follows_its_new_job(lab: Lab, hooked: Result, section: dict[str, Any]) -> None:
    """Slurm still lists the cancelled job, which had the same name."""
    del hooked
    config, before = config_of(section, 1), len(jobs(lab))
    remove_packages(lab, "witness")
    with held_build(lab, config, worker) as running:
        assert lab.exec("head", ("python3", "-", "worker", "1"), stdin=KILL.encode()).check().stdout
        running.result()
        with ThreadPoolExecutor() as pool:
            again = pool.submit(worker, lab, config)
            until("its own job runs", lambda: jobs(lab)[before:] == [f"CANCELLED {NODE}", f"RUNNING {NODE}"], 120)
            names = lab.exec("head", ("/opt/slurm/bin/squeue", "-h", "-t", "all", "-o", "%j")).check().stdout.split()
            assert names.count("petal-build-run-of-worker") == 2
            lab.exec("head", ("rm", "-f", HOLD)).check()
            assert answer(again.result())["data"]["status"] == "changed", again.result()
    assert jobs(lab)[before:] == [f"CANCELLED {NODE}", f"COMPLETED {NODE}"]
    assert lab.shell("head", SAY).check().stdout == f"1 {NODE}\n"


def test_a_compute_node_with_another_spack_builds_nothing(lab: Lab, hooked: Result, section: dict[str, Any]) -> None:
    """Such a Spack would come from the node's image; this test only replaces its receipt."""
    del hooked
    remove_packages(lab, "witness")
    tree = f"/opt/petal/spack/1.1.1-{section['sha256'][:12]}"
    receipt = f"{tree}/.petal-origin.json"
    lab.write("compute-1", "/root/receipt.json", json.dumps({"key": "another"}))
    lab.exec("compute-1", ("mount", "--bind", "/root/receipt.json", receipt)).check()
    try:
        done = bootstrap(lab, config_of(section, 1))
    finally:
        lab.exec("compute-1", ("umount", receipt)).check()
    step = next(step for step in answer(done)["data"]["steps"] if step["name"] == "spack")
    assert (done.returncode, step["error"]["code"]) == (1, "job-node")
    assert f"{tree} was unpacked from another source: another" in step["reason"]
    assert bootstrap(lab, config_of(section, 1)).returncode == 0


def test_a_build_cache_and_a_build_job_work_together(lab: Lab, hooked: Result, section: dict[str, Any]) -> None:
    """One package is in the cache, one is corrupt, one is missing: one job builds two, the log names the corrupt."""
    del hooked
    config = config_of(section, 1)
    mirror = {"url": f"file://{CACHE}", "signed": False, "push": True}
    config["spack"] = {**section, "specs": [f"{name}@1" for name in NAMES], "mirrors": {"site": mirror}}
    lab.exec("head", ("mkdir", CACHE)).check()
    pushed = bootstrap(lab, config)
    outcomes = {step["name"]: step["outcome"] for step in answer(pushed)["data"]["steps"]}
    assert (pushed.returncode, outcomes["build-cache"]) == (0, "changed"), pushed

    remove_packages(lab, *NAMES)
    lab.exec("head", ("rm", "-r", f"{CACHE}/v3/manifests/spec/third")).check()
    lab.exec("head", ("python3", "-", "second"), stdin=SPOIL.encode()).check()
    before = len(jobs(lab))
    mixed = bootstrap(lab, config)
    assert mixed.returncode == 0, mixed
    assert jobs(lab)[before:] == [f"COMPLETED {NODE}"]
    output = spack_output(lab, mixed)
    assert [name for name in NAMES if f"{name}: Executing phase" in output] == ["second", "third"]
    lines = map(json.loads, lab.read("head", "/var/log/petal-node.log").splitlines())
    messages = [line["message"] for line in lines if line["run_id"] == answer(mixed)["run_id"]]
    assert len([line for line in messages if line.startswith("second cannot be unpacked from a build cache")]) == 1

    remove_packages(lab, "witness")
    before = len(jobs(lab))
    cached = bootstrap(lab, config)
    assert cached.returncode == 0, cached
    assert len(jobs(lab)) == before, "a job was submitted although the cache has the package"
    assert "witness: Executing phase" not in spack_output(lab, cached)
    assert lab.shell("head", SAY).check().stdout == f"1 {NODE}\n"
    assert job_directories(lab) == ""
