"""Releases on a cluster: publish, roll back, pin by jobs, and remove unused ones."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.lab import stack
from tests.lab.cluster import HOSTNAMES, Lab
from tests.lab.engine import until
from tests.lab.faults import sh, wait_until_ready


def data_of(lab: Lab, *verb: str, code: int = 0) -> dict[str, Any]:
    """The data of a verb's JSON output on the head node, which reaches S3 by the endpoint of the last hook."""
    done = lab.exec("head", ("petal-node", *verb, "--json"))
    assert done.returncode == code, done.stdout + done.stderr
    data: dict[str, Any] = json.loads(done.stdout)["data"]
    return data


@pytest.fixture(scope="module")
def pair(cluster: Lab) -> tuple[str, str]:
    """Two releases: the second hides a module of the first. The proof waits a minute for a node that does not boot."""
    for result in cluster.boot("compute-2"):
        result.check()
    first = data_of(cluster, "status")["current"]
    config = json.loads(sh(cluster, "head", "cat /shared/petal/state/desired.json"))["config"]
    check = {**config["check"], "load": ["hello/1.0", "openmpi"]}
    text = json.dumps({**config, "check": check, "modules": {"hide": ["hello"]}})
    uri = cluster.put_bytes(stack.BUCKET, "petal-node/second.yaml", text.encode())
    data_of(cluster, "bootstrap", "--config", uri)
    second = data_of(cluster, "status")["current"]
    assert first != second
    return first, second


def sees_hello(lab: Lab, node: str) -> bool:
    return "hello/1.0" in lab.shell(node, "module -t avail 2>&1").check().stdout


def test_a_rollback_applies_to_every_node_and_no_convergence_undoes_it(cluster: Lab, pair: tuple[str, str]) -> None:
    first, second = pair
    assert not sees_hello(cluster, "compute-1")
    told_before = data_of(cluster, "releases")
    assert [one["release"] for one in told_before["releases"]] == [second, first]
    assert told_before["before"] == first
    assert all(one["bytes"] > 0 and one["published"] for one in told_before["releases"])
    assert data_of(cluster, "rollback")["release"] == first
    for node in ("head", "login-1", "compute-1"):
        assert sees_hello(cluster, node)
        cluster.exec(node, ("petal-node", "converge")).check()
        assert sh(cluster, node, "readlink /opt/petal/current").strip() == f"releases/{first}"
    cluster.restart("head")
    wait_until_ready(cluster, "head")
    assert data_of(cluster, "status")["current"] == first
    data_of(cluster, "rollback", second[:6])


def test_a_job_keeps_its_release_and_gc_does_not_remove_it(cluster: Lab, pair: tuple[str, str]) -> None:
    """A shell of the first release submits the job while the second is current."""
    first, second = pair
    data_of(cluster, "rollback", first)
    script = "#!/bin/bash\nwhile [ ! -e /shared/go ]; do sleep 0.2; done\n"
    script += "module load hello && hello && echo $PETAL_RELEASE\n"
    cluster.write("head", "/shared/job.sh", script, "755")
    shell = "touch /shared/shell; while [ ! -e /shared/submit ]; do sleep 0.1; done; cd /shared; "
    shell += "sbatch --parsable --output=/shared/job.out job.sh >/shared/number"
    run = ("systemd-run", "--quiet", "--unit=shell", "--uid=ec2-user", "bash", "-lc", shell)
    cluster.exec("head", run).check()
    until("the shell has started", lambda: cluster.exec("head", ("test", "-e", "/shared/shell")).ok, 60)
    data_of(cluster, "rollback", second)
    sh(cluster, "head", "touch /shared/submit")
    until("the job runs", lambda: "RUNNING" in cluster.shell("head", "squeue -h -o %T").stdout, 60)
    number = sh(cluster, "head", "cat /shared/number").strip()
    plan = data_of(cluster, "gc", "--keep", "1")
    why = f"was current after job {number} of ec2-user was submitted, or in the 30 days before, as far as is recorded"
    assert plan["keep"] == {second: "current", first: why}
    assert plan["drop"] == {}
    cluster.shell("head", "touch /shared/go").check()
    until("the job is over", lambda: not cluster.shell("head", f"squeue -h -j {number}").stdout.strip(), 60)
    out = cluster.exec("compute-1", ("cat", "/shared/job.out")).check().stdout
    assert "hello from" in out
    assert out.splitlines()[-1] == f"/opt/petal/releases/{first}"


def test_a_module_pins_the_release_of_a_job(cluster: Lab, pair: tuple[str, str]) -> None:
    first, second = pair
    assert data_of(cluster, "status")["current"] == second
    output = cluster.srun(
        "-N1", "bash", "-lc", f"module load petal/{first} && module load hello && hello && module -t avail"
    )
    assert "hello from" in output.check().stdout
    assert "hello/1.0" in output.stderr


def test_gc_keeps_an_older_release_only_for_a_job_whose_script_names_it(cluster: Lab, pair: tuple[str, str]) -> None:
    """The releases were published before the oldest shells that may have submitted the jobs."""
    first, second = pair
    assert data_of(cluster, "status")["current"] == second
    record = "/shared/petal/state/published.json"
    document = sh(cluster, "head", f'sed -i.kept \'s/"time": *"20../"time": "2001/g\' {record}; cat {record}')
    assert all(entry["time"].startswith("2001") for entry in json.loads(document)["published"])
    srun = ("systemd-run", "--quiet", "--unit=held", "--uid=ec2-user", "/opt/slurm/bin/srun", "sleep", "300")
    cluster.exec("head", srun)
    until("the step runs", lambda: "RUNNING" in cluster.shell("head", "squeue -h -o %T").stdout, 60)
    assert list(data_of(cluster, "gc", "--keep", "1")["drop"]) == [first]
    script = f"sbatch --parsable --array=1-3 --output=/dev/null --wrap='module load petal/{first}; sleep 300'"
    number = cluster.shell("head", script).check().stdout.strip()
    plan = data_of(cluster, "gc", "--keep", "1")
    assert plan["keep"] == {second: "current", first: f"the script of job {number} of ec2-user names it"}
    cluster.exec("head", ("/opt/slurm/bin/scancel", "--user=ec2-user")).check()
    until("no job is left", lambda: not cluster.shell("head", "squeue -h").stdout.strip(), 60)
    sh(cluster, "head", f"mv {record}.kept {record}")


def test_gc_removes_no_release_if_slurm_does_not_answer(cluster: Lab, pair: tuple[str, str]) -> None:
    first, second = pair
    cluster.exec("head", ("systemctl", "stop", "slurmctld")).check()
    try:
        plan = data_of(cluster, "gc", "--keep", "1", "--yes", code=3)
    finally:
        cluster.exec("head", ("systemctl", "start", "slurmctld")).check()
    assert (set(plan["keep"]), plan["drop"]) == ({first, second}, {})
    until("Slurm answers", lambda: cluster.shell("head", "squeue -h").returncode == 0, 60)


def test_gc_lists_unused_packages_and_releases_before_it_removes_them(cluster: Lab, pair: tuple[str, str]) -> None:
    first, second = pair
    assert data_of(cluster, "gc", "--keep", "2")["drop"] == {}
    plan = data_of(cluster, "gc", "--keep", "1")
    assert list(plan["drop"]) == [first]
    assert plan["packages"] == []  # the second release needs them too
    assert data_of(cluster, "gc", "--keep", "1", "--yes")["done"]
    assert sh(cluster, "compute-1", "ls /opt/petal/releases").split() == [second]
    assert data_of(cluster, "gc", "--keep", "1")["drop"] == {}
    assert "hello from" in cluster.shell("compute-1", "module load hello/1.0 && hello").check().stdout
    data_of(cluster, "rollback", first, code=1)


def test_only_root_on_the_head_node_can_change_releases(cluster: Lab, pair: tuple[str, str]) -> None:
    del pair
    assert cluster.exec("compute-1", ("petal-node", "rollback")).returncode == 2
    assert cluster.exec("head", ("petal-node", "gc"), user="ec2-user").returncode == 0
    assert cluster.exec("head", ("petal-node", "gc", "--yes"), user="ec2-user").returncode == 77
    listed = cluster.exec("compute-1", ("petal-node", "releases", "--no-sizes"), user="ec2-user").check().stdout
    assert "current" in listed


def test_a_user_of_a_windows_domain_runs_the_checks_and_their_remedies(cluster: Lab, pair: tuple[str, str]) -> None:
    """winbind names users DOMAIN\\name. The home is private."""
    del pair
    name = "CORP\\a smith"
    for node in ("head", "login-1", "compute-1"):
        entry = f"{name}:*:105002:100:A Smith:/home/CORP/smith:/bin/bash\n".encode()
        cluster.exec(node, ("tee", "-a", "/etc/passwd"), stdin=entry).check()
        cluster.write(node, "/etc/sudoers.d/smith", "#105002 ALL=(ALL) NOPASSWD: ALL\n", "440")
    sh(cluster, "head", "mkdir /home/CORP; install -d -m 700 -o 105002 -g 100 /home/CORP/smith")
    config = json.loads(sh(cluster, "head", "cat /shared/petal/state/desired.json"))["config"]
    check = {**config["check"], "user": name, "run": ["id -un"]}
    uri = cluster.put_bytes(stack.BUCKET, "petal-node/user.yaml", json.dumps({**config, "check": check}).encode())
    data_of(cluster, "bootstrap", "--config", uri)
    sh(
        cluster,
        "head",
        f"until /opt/slurm/bin/sinfo -h -n {HOSTNAMES['compute-1']} -o %t | grep -qx idle; do sleep 0.2; done",
    )
    checked = data_of(cluster, "check", "--nodes", HOSTNAMES["compute-1"])["nodes"][0]["findings"]
    here = json.loads(cluster.exec("login-1", ("petal-node", "check", "--json")).check().stdout)["data"]["findings"]
    for findings in (checked, here):
        assert {finding["check"]: finding["message"] for finding in findings}["run:id -un"] == name
    as_user = ("sudo", "-n", "-i", "-u", name)
    hello = cluster.exec("login-1", (*as_user, "bash", "-lc", "module load hello/1.0 && hello && pwd")).check()
    assert hello.stdout.endswith("/home/CORP/smith\n")
    assert cluster.exec("login-1", (*as_user, "petal-node", "check", "-q")).ok
    refused = cluster.exec("login-1", (*as_user, "petal-node", "bootstrap"))
    remedy = next(line for line in refused.stderr.splitlines() if line.startswith("  try  sudo "))
    assert cluster.exec("login-1", (*as_user, "sh", "-c", remedy.removeprefix("  try  "))).ok
