"""petal-node on the lab: from the hooks of a new cluster to a program that runs on every compute node.

The first half boots a cluster once and inspects it; the second injects one fault at a time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import stack
from tests.lab.cluster import HOSTNAMES, NODES, Action, Lab, Result
from tests.lab.demo import DIST, job, publish, wait_for_proof
from tests.lab.engine import until

COMPUTES = ("compute-1", "compute-2")
CLUSTER_CONFIG = "/opt/parallelcluster/shared/cluster-config.yaml"
WANTED = "/shared/petal/state/desired.json"
EVERY = ("head", "login-1", *COMPUTES)


@pytest.fixture(scope="module")
def config(lab: Lab) -> dict[str, Any]:
    lab.fresh()
    return stack.lab_config(lab, spack=False)


@pytest.fixture(scope="module")
def booted(lab: Lab, config: dict[str, Any]) -> dict[str, list[Result]]:
    """A cluster with binary packages, booted by its hooks and proved by its worker."""
    publish(lab, config)
    results = lab.boot_all()
    lab.wait_idle()
    wait_for_proof(lab)
    return results


def petal(lab: Lab, node: str, *argv: str, user: str = "root", timeout: float = 120) -> Result:
    return lab.exec(node, ("petal-node", *argv), user=user, timeout=timeout)


def answer(result: Result) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(result.stdout)
    return envelope


def hook(lab: Lab, node: str, *args: str) -> Result:
    """Run the installed tool's hook verb like the hook script of an update; on the head node its Args apply."""
    env = {"AWS_ENDPOINT_URL": "http://s3:5000", "PATH": "/usr/bin:/bin"}
    return lab.exec(node, ("/usr/local/bin/petal-node", "hook", "updated", *args), env=env, timeout=120)


def last_run(lab: Lab, node: str) -> dict[str, Any]:
    run: dict[str, Any] = answer(petal(lab, node, "status", "--json"))["data"]["runs"][0]
    return run


@pytest.mark.usefixtures("booted")
class TestCluster:
    def test_every_phase_of_every_node_succeeds(self, booted: dict[str, list[Result]]) -> None:
        assert {node: [result.returncode for result in results] for node, results in booted.items()} == {
            node: [0] * 5 for node in NODES
        }

    def test_the_worker_proved_the_release_on_both_nodes_after_the_hook(self, lab: Lab) -> None:
        data = answer(petal(lab, "head", "status", "--json"))["data"]
        assert data["proved"] == 2
        assert [node["node"] for node in data["proof"]["nodes"]] == [HOSTNAMES[node] for node in COMPUTES]
        assert data["current"] == data["desired"]["release"] == data["proof"]["release"]

    def test_a_users_job_loads_the_modules_and_runs_the_programs(self, lab: Lab, config: dict[str, Any]) -> None:
        output = job(lab, config).check().stdout
        for node in COMPUTES:
            assert f"hello from {HOSTNAMES[node]}, installed in /opt/petal/store/" in output
        assert output.count("mpirun (Open MPI)") == 2

    @pytest.mark.parametrize("node", EVERY)
    def test_check_succeeds_on_every_node(self, lab: Lab, node: str) -> None:
        result = petal(lab, node, "check", "--json")
        findings = answer(result)["data"]["findings"]
        assert result.returncode == 0, findings
        assert {"storage", "root", "shell", "release", "cpu", "load:hello", "run:hello"} <= {
            f["check"] for f in findings
        }

    def test_check_of_all_nodes_prints_a_table(self, lab: Lab) -> None:
        result = petal(lab, "head", "check", "--nodes", "all").check()
        head, *rows, total = result.stdout.splitlines()
        assert head.split() == ["check", "queue1-st-c5-[1-2]"]
        assert {row.split()[-1] for row in rows} == {"ok"}
        assert total == "proved on 2 of 2 nodes"

    def test_check_of_a_hostlist_writes_an_html_page(self, lab: Lab) -> None:
        whole = petal(lab, "head", "check", "--nodes", "all", "--html", "/root/check.html").check()
        assert whole.stdout.splitlines()[-1] == "proved on 2 of 2 nodes"
        page = lab.read("head", "/root/check.html")
        assert "<h1>proved on 2 of 2 nodes</h1>" in page
        assert "<th>queue1-st-c5-[1-2]</th>" in page
        some = petal(lab, "head", "check", "--nodes", "queue1-st-c5-[1-2]", "--json").check()
        assert [node["node"] for node in answer(some)["data"]["nodes"]] == [HOSTNAMES[node] for node in COMPUTES]
        nowhere = petal(lab, "head", "check", "--html", "/no/such/place.html")
        assert (nowhere.returncode, "cannot write the HTML report" in nowhere.stderr) == (2, True)

    def test_check_distinguishes_busy_and_drained_nodes_from_failing_ones(self, lab: Lab) -> None:
        name = HOSTNAMES["compute-1"]
        slurm = "/opt/slurm/bin"
        lab.exec(
            "head", (f"{slurm}/sbatch", "-w", name, "--exclusive", "-o", "/dev/null", "--wrap", "sleep 300")
        ).check()
        until("the job runs", lambda: "R" in lab.exec("head", (f"{slurm}/squeue", "-h", "-o", "%t")).stdout, 30)
        busy = petal(lab, "head", "check", "--nodes", "all")
        assert (busy.returncode, f"{name}: not checked: busy (allocated)" in busy.stdout) == (0, True), busy
        assert busy.stdout.splitlines()[-1] == "proved on 1 of 1 nodes, 1 not checked"
        findings = answer(petal(lab, "head", "check", "--nodes", "all", "--json"))["data"]["nodes"][0]["findings"]
        assert "its own report, " in findings[0]["why"]
        idle = petal(lab, "head", "check", "--nodes", "idle").check()
        assert idle.stdout.splitlines()[-1] == "proved on 1 of 1 nodes"
        lab.exec("head", (f"{slurm}/scancel", "-u", "root")).check()
        drain = (f"{slurm}/scontrol", "update", f"nodename={name}", "state=drain", "reason=disk swap at 5")
        lab.exec("head", drain).check()
        drained = petal(lab, "head", "check", "--nodes", "all")
        lab.exec("head", (f"{slurm}/scontrol", "update", f"nodename={name}", "state=resume")).check()
        assert drained.returncode == 3
        assert "not checked: drain" in drained.stdout
        assert "disk swap at 5" in drained.stdout
        until("the node is free", lambda: petal(lab, "head", "check", "--nodes", "all", "-q").returncode == 0, 30)

    def test_status_reports_no_waiting_nodes_on_a_ready_cluster(self, lab: Lab) -> None:
        for node in EVERY:
            assert petal(lab, node, "status", "--wait", "--timeout", "20").returncode == 0
        assert "queue1-st-c5-[1-2]: ok" in petal(lab, "head", "status").stdout

    def test_check_of_an_unknown_node_name_is_a_usage_error(self, lab: Lab) -> None:
        result = petal(lab, "head", "check", "--nodes", "queue9-st-x-1")
        assert result.returncode == 2
        assert "no such node: queue9-st-x-1" in result.stderr

    @pytest.mark.parametrize("node", EVERY)
    @pytest.mark.parametrize("event", ["start", "configured"])
    def test_a_second_run_of_a_hook_changes_nothing_and_prints_the_reason(
        self, lab: Lab, node: str, event: str
    ) -> None:
        lab.phase(node, event).check()
        run = last_run(lab, node)
        assert {step["outcome"] for step in run["steps"]} <= {"ok", "skipped"}
        assert all(step["reason"] for step in run["steps"])
        assert run["status"] == "ok"

    @pytest.mark.parametrize("node", ["head", "login-1"])
    def test_an_update_with_the_same_pins_changes_nothing(self, lab: Lab, node: str) -> None:
        lab.phase(node, "updated").check()
        run = last_run(lab, node)
        assert (run["event"], run["status"]) == ("updated", "ok")

    def test_the_archive_can_be_a_custom_action(self, lab: Lab) -> None:
        """``Script: s3://.../petal-node`` under a random name, through dos2unix, unlinked afterwards."""
        uri = lab.put(stack.BUCKET, "petal-node/as-script", DIST / "petal-node")
        text = lab.read("compute-1", CLUSTER_CONFIG)
        args = ("hook", "configured", "--config", "s3://petal/petal-node/petal.yaml")
        lab.set_custom_actions(queue={"OnNodeConfigured": Action(uri, args)})
        try:
            result = lab.phase("compute-1", "configured")
        finally:
            lab.write("head", CLUSTER_CONFIG, text)
        assert result.returncode == 0
        assert "hook configured on compute queue1-st-c5-1: ok" in result.stdout
        assert lab.exec("compute-1", ("ls", "/opt/parallelcluster/tmp")).stdout == ""

    def test_a_node_without_its_files_gets_its_role_from_the_metadata_service(self, lab: Lab) -> None:
        hide = "mv /etc/chef/dna.json /etc/chef/dna && mv /etc/parallelcluster/cfnconfig /etc/parallelcluster/cfn"
        back = "mv /etc/chef/dna /etc/chef/dna.json; mv /etc/parallelcluster/cfn /etc/parallelcluster/cfnconfig"
        lab.exec("compute-2", ("sh", "-c", hide)).check()
        try:
            seen = answer(petal(lab, "compute-2", "status", "--json"))["data"]["facts"]["cluster"]
        finally:
            lab.exec("compute-2", ("sh", "-c", back)).check()
        assert (seen["role"], seen["sources"]) == ("compute", ["instance tags"])

    @pytest.mark.parametrize("node", EVERY)
    def test_the_plan_is_empty(self, lab: Lab, node: str) -> None:
        assert petal(lab, node, "plan", "--exit-code").returncode == 0

    @pytest.mark.parametrize("node", EVERY)
    def test_a_user_can_run_status_and_check(self, lab: Lab, node: str) -> None:
        assert petal(lab, node, "status", "--json", user="ec2-user").returncode == 0
        assert petal(lab, node, "check", user="ec2-user").returncode == 0
        refused = petal(lab, node, "bootstrap", user="ec2-user")
        assert refused.returncode == 77
        assert "sudo /usr/local/bin/petal-node bootstrap" in refused.stderr

    def test_only_root_can_read_the_log_and_others_get_an_error(self, lab: Lab) -> None:
        shown = lab.exec("head", ("petal-node", "log", "-n", "200")).check().stdout
        assert "is current" in shown
        run_id = next(line for line in shown.splitlines() if line.startswith("run ")).split()[1].rstrip(",")
        of_run = lab.exec("head", ("petal-node", "log", "--run", run_id, "--level", "debug")).check().stdout
        assert {line.split(",")[0] for line in of_run.splitlines() if line.startswith("run ")} == {f"run {run_id}"}
        user = lab.exec("head", ("petal-node", "log"), user="ec2-user")
        assert (user.returncode, "sudo /usr/local/bin/petal-node log" in user.stderr) == (77, True)

    def test_other_nodes_take_the_archive_from_shared_storage(self, lab: Lab) -> None:
        """Neither the node nor S3 has the archive."""
        digest = lab.exec("head", ("sha256sum", "/usr/local/bin/petal-node")).stdout.split()[0]
        lab.exec("compute-2", ("rm", "-rf", "/opt/petal-node", "/usr/local/bin/petal-node")).check()
        hook_script = (DIST / "on_node_configured.sh").read_bytes()
        lab.exec("compute-2", ("sh", "-c", "cat >/tmp/hook && chmod 755 /tmp/hook"), stdin=hook_script).check()
        argv = ("/tmp/hook", "--package", "s3://petal/none", "--sha256", digest, "--config", "s3://petal/none.yaml")
        result = lab.exec("compute-2", argv, env={"AWS_ENDPOINT_URL": "http://s3:5000"}).check()
        assert "hook configured on compute queue1-st-c5-2: changed" in result.stdout
        assert lab.exec("compute-2", ("sha256sum", "/usr/local/bin/petal-node")).stdout.split()[0] == digest

    def test_users_cannot_write_any_file_on_shared_storage(self, lab: Lab) -> None:
        loose = lab.exec(
            "head",
            ("find", "/shared/petal", "(", "-perm", "/022", "-o", "-not", "-user", "root", ")", "-not", "-type", "l"),
        )
        assert loose.stdout == ""
        assert not lab.exec("head", ("touch", "/opt/petal/x"), user="ec2-user").ok

    def test_the_root_is_mounted_after_a_reboot(self, lab: Lab) -> None:
        lab.restart("login-1")
        assert (
            lab.exec("login-1", ("findmnt", "-n", "-o", "FSROOT", "/opt/petal")).stdout.strip().endswith("/petal/root")
        )
        assert petal(lab, "login-1", "check").returncode == 0

    def test_a_root_shell_never_resolves_current_on_shared_storage(self, lab: Lab) -> None:
        shell = 'echo "$PETAL_RELEASE"'
        assert lab.exec("head", ("bash", "-lc", shell)).stdout.strip() == "/opt/petal/current"
        release = answer(petal(lab, "head", "status", "--json"))["data"]["current"]
        assert lab.shell("head", shell).stdout.strip() == f"/opt/petal/releases/{release}"

    @pytest.mark.parametrize("shell", ["bash", "fish"])
    def test_every_shell_finds_the_modules_of_the_release(self, lab: Lab, shell: str) -> None:
        argv = ("sudo", "-n", "-i", "-u", "ec2-user", shell, "-l", "-c", "module load hello && hello")
        result = lab.exec("compute-1", argv)
        assert "hello from queue1-st-c5-1" in result.stdout, result


ONE, TWO = HOSTNAMES["compute-1"], HOSTNAMES["compute-2"]
SLURM = "/opt/slurm/bin"
PROFILE = "/home/ec2-user/.bash_profile"  # on every node
# Writes complete reports of both nodes into the output of the job, with the nonce of the job, and other answers.
FORGE = """
pid=$$
while [ "$pid" -gt 1 ] && [ -z "$nonce" ]; do
  pid=$(awk '/PPid/{print $2}' /proc/$pid/status)
  nonce=$(tr '\\0' '\\n' </proc/$pid/cmdline | grep -A1 -x -e --lines | tail -1)
done
[ "$(hostname)" != NODE ] || for name in queue1-st-c5-1 queue1-st-c5-2; do
  findings='"findings": [{"check": "evil", "severity": "ok", "message": "m"}]'
  printf '%s {"node": "%s", "role": "compute", "time": "t", "release": "evil", %s}\\n' "$nonce" $name "$findings"
done >/proc/$pid/fd/1
printf '\\0x\\0oops\\0z\\0\\n'
"""
INTERRUPT = """
import signal, subprocess, sys, time
child = subprocess.Popen(["petal-node", "check", "--nodes", "all"])
while b"petal-proof" not in subprocess.check_output(["/opt/slurm/bin/squeue", "-h", "-t", "R", "-o", "%j"]):
    time.sleep(0.2)
started = time.monotonic()
child.send_signal(getattr(signal, sys.argv[1]))
code = child.wait(30)
print(code, time.monotonic() - started < 20)
"""


def check_nodes(lab: Lab, *argv: str) -> Result:
    return lab.exec("head", ("petal-node", "check", "--nodes", *(argv or ("all",))), timeout=120)


def findings(result: Result) -> dict[str, list[dict[str, Any]]]:
    nodes = json.loads(result.stdout)["data"]["nodes"]
    return {node["node"]: [one for one in node["findings"] if one["severity"] != "ok"] for node in nodes}


def partition(lab: Lab, *settings: str) -> None:
    lab.exec("head", (f"{SLURM}/scontrol", "update", "partition=queue1", *settings)).check()


def profile(lab: Lab, text: str) -> None:
    lab.write("head", PROFILE, text, "644")


@pytest.mark.usefixtures("booted")
class TestFleet:
    """``check --nodes`` with silent nodes, refused partitions, interrupted commands and forged reports."""

    @pytest.fixture(autouse=True)
    def clean(self, lab: Lab) -> Iterator[None]:
        yield
        lab.exec("head", ("rm", "-f", PROFILE)).check()
        until("no job runs", lambda: lab.exec("head", (f"{SLURM}/squeue", "-h")).stdout == "", 30)

    def test_a_silent_node_costs_its_own_row_and_at_most_fifteen_seconds(self, lab: Lab) -> None:
        lab.exec("compute-2", ("pkill", "-STOP", "-x", "slurmd")).check()
        try:
            started = time.monotonic()
            result = check_nodes(lab)
            seconds = time.monotonic() - started
        finally:
            lab.exec("compute-2", ("pkill", "-CONT", "-x", "slurmd")).check()
        assert (result.returncode, seconds < 16) == (3, True), result
        assert result.stdout.splitlines()[-1] == "proved on 1 of 2 nodes"
        first, second = result.stderr.splitlines()
        assert first == f"  ok   {ONE}: all checks"
        assert second.startswith(f"  FAIL {TWO}: job: the node does not answer")

    @pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 143)])
    def test_a_signal_cancels_the_jobs_at_once(self, lab: Lab, name: str, code: int) -> None:
        profile(lab, "sleep 100\n")
        result = lab.exec("head", ("python3", "-c", INTERRUPT, name), timeout=60)
        assert result.stdout.splitlines()[-1] == f"{code} True", result

    def test_slurms_own_reason_is_shown_and_the_time_limit_of_the_partition_is_kept(self, lab: Lab) -> None:
        partition(lab, "State=INACTIVE")
        inactive = findings(check_nodes(lab, "all", "--json"))
        partition(lab, "State=DOWN")
        down = findings(check_nodes(lab, "all", "--json"))
        partition(lab, "State=UP", "AllowGroups=daemon")
        group = findings(check_nodes(lab, "all", "--json"))
        spare = ("partitionname=spare", f"nodes={ONE},{TWO}", "hidden=yes")
        lab.exec("head", (f"{SLURM}/scontrol", "create", *spare)).check()
        hidden = check_nodes(lab)
        lab.exec("head", (f"{SLURM}/scontrol", "delete", spare[0])).check()
        assert hidden.returncode == 0, hidden
        partition(lab, "AllowGroups=ALL", "MaxTime=0:40")
        short = check_nodes(lab)
        partition(lab, "MaxTime=INFINITE")
        for found, reason in (
            (inactive, "(inactive or drain)"),
            (down, "PartitionDown"),
            (group, "group not permitted"),
        ):
            assert [[one["check"] for one in node] for node in found.values()] == [["job"], ["job"]]
            assert all(reason in node[0]["why"] for node in found.values()), found
        assert short.returncode == 0, short

    def test_a_node_in_maintenance_is_not_down(self, lab: Lab) -> None:
        create = (
            "create",
            "reservation",
            "reservationname=m",
            "starttime=now",
            "duration=10",
            "user=root",
            "flags=maint",
        )
        lab.exec("head", (f"{SLURM}/scontrol", *create, f"nodes={TWO}")).check()
        try:
            until(
                "Slurm shows it", lambda: "maint" in lab.exec("head", (f"{SLURM}/sinfo", "-h", "-o", "%T")).stdout, 20
            )
            result = check_nodes(lab)
        finally:
            lab.exec("head", (f"{SLURM}/scontrol", "delete", "reservationname=m")).check()
        assert (result.returncode, f"{TWO}: not checked: in maintenance (maint)" in result.stdout) == (0, True), result

    def test_a_report_is_that_of_the_node_on_which_the_job_ran(self, lab: Lab) -> None:
        profile(lab, FORGE.replace("NODE", ONE))
        found = findings(check_nodes(lab, f"{TWO},{ONE},{TWO}", "--json"))
        assert list(found) == [ONE, TWO]
        assert found[TWO] == []
        (forged,) = found[ONE]
        assert "another program of ec2-user wrote into the output" in forged["why"]

    def test_an_empty_list_of_nodes_is_a_mistake(self, lab: Lab) -> None:
        for text in ("", ",", " "):
            assert check_nodes(lab, text).returncode == 2


FIVE = {
    "layout": "shard",
    "storge": {"mount": "/shared"},
    "install": {"budget": -1},
    "packages": [
        {"name": "a'b", "version": "1", "prefix": "/opt/x"},
        {"name": "b", "version": "1", "source": "http://x/y"},
    ],
}


@pytest.fixture
def intact(lab: Lab, booted: dict[str, list[Result]]) -> Iterator[str]:
    """The files on shared storage are the same before and after the test."""
    command = (
        "sh",
        "-c",
        "cd /shared/petal && find root state/desired.json archive -printf '%p %T@ %l\\n' | sort | sha256sum",
    )
    before = lab.exec("head", command).check().stdout
    yield before
    assert lab.exec("head", command).check().stdout == before


@pytest.mark.usefixtures("intact")
class TestTrouble:
    def test_five_configuration_mistakes_are_reported_together(self, lab: Lab) -> None:
        lab.write("head", "/tmp/five.yaml", json.dumps(FIVE))
        result = petal(lab, "head", "plan", "--config", "/tmp/five.yaml")
        assert result.returncode == 78
        for path in ("layout:", "storge:", "install.budget:", "packages[0].name:", "packages[1].source:"):
            assert path in result.stderr

    def test_a_hook_survives_a_configuration_with_mistakes(self, lab: Lab) -> None:
        lab.write("head", "/tmp/five.yaml", json.dumps(FIVE))
        result = hook(lab, "head", "--config", "/tmp/five.yaml")
        assert result.returncode == 0
        assert "storge: unknown key" in result.stdout
        run = last_run(lab, "head")
        assert (run["status"], run["exit"]) == ("degraded", 78)
        assert hook(lab, "head", "--config", "/tmp/five.yaml", "--strict").returncode == 78

    @pytest.mark.parametrize(
        ("change", "code"),
        [({"sha256": "0" * 63 + "a"}, "fetch-checksum"), ({"source": "s3://petal/no/such.tar.gz"}, "fetch-missing")],
        ids=["wrong checksum", "missing object"],
    )
    def test_only_the_package_fails_that_cannot_be_fetched(
        self, lab: Lab, config: dict[str, Any], change: dict[str, str], code: str
    ) -> None:
        other = {**config["packages"][0], "name": "other", **change}
        text = json.dumps({**config, "packages": [other]})
        """The desired state follows the administrator; the software of the users stays."""
        keep, restore = ("cp", "-p", WANTED, "/root/wanted"), ("cp", "-p", "/root/wanted", WANTED)
        lab.exec("head", keep).check()
        lab.write("head", "/tmp/other.yaml", text)
        result = hook(lab, "head", "--config", "/tmp/other.yaml")
        lab.exec("head", restore).check()
        assert result.returncode == 0
        run = last_run(lab, "head")
        outcomes = {step["name"]: step for step in run["steps"]}
        assert outcomes["packages"]["error"]["code"] == code
        assert outcomes["packages"]["error"]["remedy"]
        assert outcomes["publish"]["outcome"] == "blocked"
        assert run["status"] == "degraded"

    def test_the_first_hook_run_again_does_not_undo_a_later_configuration(self, lab: Lab) -> None:
        """Its Args are those of the cluster's creation."""
        lab.write("head", "/tmp/other.json", json.dumps({"stack": "none"}))
        result = lab.exec("head", ("petal-node", "hook", "configured", "--config", "/tmp/other.json"))
        assert result.returncode == 0
        assert "installed packages: 2" in result.stdout

    def test_a_missing_configuration_object_is_reported(self, lab: Lab) -> None:
        result = hook(lab, "head", "--config", "s3://petal/no/petal.yaml")
        assert result.returncode == 0
        assert "does not exist" in result.stdout
        assert last_run(lab, "head")["errors"][0]["code"] == "fetch-missing"

    @pytest.mark.parametrize("node", ["head", "compute-2"])
    def test_missing_shared_storage_is_reported(self, lab: Lab, node: str) -> None:
        lab.exec(node, ("umount", "/opt/petal")).check()
        lab.exec(node, ("umount", "/shared")).check()
        try:
            result = lab.phase(node, "configured")
            run = last_run(lab, node)
        finally:
            lab.exec(node, ("mount", "/shared")).check()
            petal(lab, node, "bootstrap").check()
        assert result.returncode == 0
        assert "/shared is not mounted" in result.stdout
        assert run["status"] == "degraded"
        assert next(step for step in run["steps"] if step["name"] == "storage")["outcome"] == "blocked"

    def test_an_archive_with_a_wrong_checksum_is_refused(self, lab: Lab) -> None:
        lab.exec("compute-1", ("cp", "-a", "/opt/petal-node", "/opt/before")).check()
        lab.exec("compute-1", ("rm", "-rf", "/opt/petal-node")).check()
        script = lab.exec(
            "compute-1",
            ("sh", "-c", "cat > /tmp/hook.sh && chmod +x /tmp/hook.sh"),
            stdin=(DIST / "on_node_configured.sh").read_bytes(),
        )
        assert script.ok
        uri = lab.put_bytes(stack.BUCKET, "evil/petal-node", b"#!/bin/sh\ntouch /tmp/executed\n")
        digest = hashlib.sha256(b"another").hexdigest()
        # On a busy machine the AWS CLI alone takes longer than the 6 s that the hook of a compute node has.
        env = {"AWS_ENDPOINT_URL": "http://s3:5000", "PETAL_FETCH_SECONDS": "60"}
        argv = ("/tmp/hook.sh", "--package", uri, "--sha256", digest, "--config", "s3://petal/petal-node/petal.yaml")
        try:
            result = lab.exec("compute-1", argv, env=env)
            strict = lab.exec("compute-1", (*argv, "--strict"), env=env)
        finally:
            lab.exec("compute-1", ("sh", "-c", "rm -rf /opt/petal-node; mv /opt/before /opt/petal-node")).check()
        assert (result.returncode, strict.returncode) == (0, 1)
        assert "[fetch-checksum]: expected" in result.stdout
        log = lab.exec("compute-1", ("tail", "-n", "1", "/var/log/petal-node.log")).stdout
        assert "[fetch-checksum]: expected" in log
        assert not lab.exec("compute-1", ("test", "-e", "/tmp/executed")).ok
