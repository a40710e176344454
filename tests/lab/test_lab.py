"""The lab itself: ParallelCluster's contract with a custom action, and a working cluster."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.lab.cluster import HOSTNAMES, NODES, Action, Actions, Lab, Result

HERE = Path(__file__).parent
ROLES = {"head": "HeadNode", "login-1": "LoginNode", "compute-1": "ComputeFleet", "compute-2": "ComputeFleet"}
# One of each kind of text that a shell, YAML or a list could break.
ODD_ARGS = ("two words", 'a "quoted" word', "it's", "$HOME `id` \\n", "*", "", "#no comment", "ümläut: x")
HELLO = """#include <mpi.h>
#include <stdio.h>
#include <unistd.h>
int main(int c, char **v) {
    int rank, size, sum; char host[99];
    MPI_Init(&c, &v); MPI_Comm_rank(MPI_COMM_WORLD, &rank); MPI_Comm_size(MPI_COMM_WORLD, &size);
    MPI_Allreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD); gethostname(host, 99);
    printf("%s %d/%d sum %d\\n", host, rank, size, sum); MPI_Finalize(); return 0;
}
"""


def probed(lab: Lab, node: str, event: str, what: str) -> str:
    """Return the files that the probe hook has written."""
    return lab.read(node, f"/var/log/parallelcluster/probe/{event}/{what}").strip()


@pytest.fixture(scope="module")
def booted(lab: Lab) -> dict[str, list[Result]]:
    """Boot all nodes of a new lab with the probe as their hooks."""
    lab.fresh()
    url = lab.put("petal", "hooks/v1/probe.sh", HERE / "probe.sh")
    lab.set_custom_actions(
        {
            event: Action(url, ("--event", event, *ODD_ARGS))
            for event in ("OnNodeStart", "OnNodeConfigured", "OnNodeUpdated")
        }
    )
    return lab.boot_all()


@pytest.mark.usefixtures("booted")
class TestHook:
    """The environment in which a hook starts (custom_action_executor.py, fetch_and_run, the nodes' user data)."""

    def test_every_phase_succeeds(self, booted: dict[str, list[Result]]) -> None:
        """All nodes boot."""
        failed = [result for results in booted.values() for result in results if not result.ok]
        assert not failed
        assert all(len(results) == 5 for results in booted.values())

    @pytest.mark.parametrize("node", NODES)
    def test_environment(self, lab: Lab, node: str) -> None:
        """Exactly the documented variables: no HOME, no LANG, no Slurm on PATH, nothing from cfnconfig."""
        text = probed(lab, node, "OnNodeConfigured", "environ")
        env = dict(item.split("=", 1) for item in text.split("\0") if item)
        events = {
            f"cfn_{event}{tail}" for event in ("preinstall", "postinstall", "postupdate") for tail in ("", "_args")
        }
        # bash (fetch_and_run) exports the first three; Python (the executor), started without a locale, makes
        # its own C.UTF-8 and exports it (PEP 538): a ParallelCluster hook has it too.
        shell = {"PWD", "SHLVL", "_", "LC_CTYPE"}
        assert set(env) - shell == events | {
            "PATH",
            "_region",
            "parallelcluster_version",
            "cookbook_version",
            "chef_version",
            "CFN_BOOTSTRAP_VIRTUALENV_PATH",
            "AWS_ENDPOINT_URL",
        }
        assert env["PATH"] == "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin:/opt/aws/bin"
        assert probed(lab, node, "OnNodeConfigured", "srun") == "none"
        assert probed(lab, node, "OnNodeConfigured", "uid") == "0"

    @pytest.mark.parametrize("node", NODES)
    def test_args_arrive_intact(self, lab: Lab, node: str) -> None:
        """No shell is between the cluster YAML and argv."""
        text = lab.read(node, "/var/log/parallelcluster/probe/OnNodeStart/args")
        assert tuple(text.split("\0")[:-1]) == ("--event", "OnNodeStart", *ODD_ARGS)

    @pytest.mark.parametrize("node", NODES)
    def test_file_and_directory(self, lab: Lab, node: str) -> None:
        """A random name without extension, deleted after success; stderr is a pipe; cwd by node type."""
        name = probed(lab, node, "OnNodeStart", "name")
        assert name.startswith("/opt/parallelcluster/tmp/")
        assert "." not in name
        assert lab.exec(node, ("ls", "-A", "/opt/parallelcluster/tmp")).check().stdout == ""
        assert probed(lab, node, "OnNodeStart", "stderr").startswith("pipe:")
        where = "/opt/parallelcluster/tmp" if node == "head" else "/etc/chef"
        assert probed(lab, node, "OnNodeStart", "cwd") == where

    @pytest.mark.parametrize("node", NODES)
    def test_storage_appears_between_the_hooks(self, lab: Lab, node: str) -> None:
        """/shared is missing at OnNodeStart, and mounted with mode 1777 at OnNodeConfigured."""
        assert probed(lab, node, "OnNodeStart", "shared") == "absent"
        assert probed(lab, node, "OnNodeConfigured", "shared") == "mounted"
        assert lab.exec(node, ("stat", "-c", "%a %U", "/shared")).stdout.split() == ["1777", "root"]

    def test_no_compute_node_has_registered_at_the_heads_configured_hook(self, lab: Lab) -> None:
        """Slurmctld is up, and no node has reported yet."""
        assert "is UP" in probed(lab, "head", "OnNodeConfigured", "ping")
        states = dict(line.split() for line in probed(lab, "head", "OnNodeConfigured", "sinfo").splitlines())
        assert set(states) == {HOSTNAMES["compute-1"], HOSTNAMES["compute-2"]}
        assert all(state.rstrip("*") == "unknown" for state in states.values()), states

    def test_compute_configured_has_no_slurmd(self, lab: Lab) -> None:
        """A compute node's slurmd starts after its OnNodeConfigured."""
        assert probed(lab, "compute-1", "OnNodeConfigured", "slurmd") == "inactive"

    def test_output(self, booted: dict[str, list[Result]]) -> None:
        """Stdout of a hook reaches the node's log; stderr of a successful hook does not."""
        for results in booted.values():
            assert "probe: OnNodeStart" in results[1].stdout
            assert "hidden from the node's log" not in results[1].stdout + results[1].stderr

    def test_updated(self, lab: Lab) -> None:
        """OnNodeUpdated runs on head and login nodes; a queue has no such event, and nothing runs there."""
        for node in ("head", "login-1"):
            assert "probe: OnNodeUpdated" in lab.phase(node, "updated").check().stdout
            assert probed(lab, node, "OnNodeUpdated", "cwd") == "/etc/chef"
        assert lab.phase("compute-1", "updated").check().stdout == ""


@pytest.mark.usefixtures("booted")
class TestCluster:
    """Nodes with working Slurm, node facts and systemd."""

    @pytest.mark.parametrize("node", NODES)
    def test_facts(self, lab: Lab, node: str) -> None:
        """Each role has exactly the keys of its role."""
        cluster = json.loads(lab.read(node, "/etc/chef/dna.json"))["cluster"]
        assert cluster["node_type"] == ROLES[node]
        assert cluster["ebs_shared_dirs"] == "/shared"
        assert ("cluster_name" in cluster) == (node != "head")
        assert ("scheduler_queue_name" in cluster) == node.startswith("compute")
        assert ("pool_name" in cluster) == (node == "login-1")
        cfnconfig = lab.read(node, "/opt/parallelcluster/cfnconfig")
        assert f"cfn_node_type={ROLES[node]}\n" in cfnconfig
        assert ("cfn_head_node=" in cfnconfig) == node.startswith("compute")

    def test_job_on_every_node(self, lab: Lab) -> None:
        """An ordinary user's job runs on both compute nodes, from head and login."""
        lab.wait_idle()
        for node in ("head", "login-1"):
            out = lab.srun("-N2", "hostname", node=node).check().stdout
            assert sorted(out.split()) == [HOSTNAMES["compute-1"], HOSTNAMES["compute-2"]]

    def test_mpi_on_two_nodes(self, lab: Lab) -> None:
        """Slurm starts an MPI program by PMIx, and mpirun works from the EFA installer's prefix."""
        lab.wait_idle()
        assert "pmix" in lab.srun("--mpi=list", node="compute-1").check().stdout
        lab.write("head", "/shared/hello.c", HELLO)
        compiler = "/opt/amazon/openmpi/bin/mpicc"
        lab.exec("head", (compiler, "/shared/hello.c", "-o", "/shared/hello")).check()
        for _ in range(3):  # Debian's Open MPI crashed once at its start, on a busy machine
            done = lab.srun("-N2", "--kill-on-bad-exit", "--mpi=pmix", "/shared/hello")
            if "Segmentation fault" not in done.stderr:
                break
        out = done.check().stdout
        assert sorted(out.splitlines()) == [
            f"{HOSTNAMES['compute-1']} 0/2 sum 1",
            f"{HOSTNAMES['compute-2']} 1/2 sum 1",
        ]
        script = "cd; salloc -Q -N2 --ntasks-per-node=1 /opt/amazon/openmpi/bin/mpirun -n 2 /shared/hello"
        assert sorted(lab.shell("login-1", script).check().stdout.splitlines()) == sorted(out.splitlines())

    @pytest.mark.parametrize("node", NODES)
    def test_metadata_requires_a_token(self, lab: Lab, node: str) -> None:
        """IMDSv1 is refused; with a token the facts of the instance are there."""
        base = "http://169.254.169.254/latest"
        code = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", base + "/meta-data/instance-id")
        assert lab.exec(node, code).stdout == "401"
        script = (
            't=$(curl -sf -X PUT -H "X-aws-ec2-metadata-token-ttl-seconds: 60" $1/api/token); shift; '
            'for url; do curl -sf -H "X-aws-ec2-metadata-token: $t" "$url" && echo; done'
        )
        paths = (
            "meta-data/instance-id",
            "meta-data/placement/region",
            "meta-data/tags/instance/parallelcluster:node-type",
        )
        urls = [f"{base}/{path}" for path in paths]
        out = lab.exec(node, ("sh", "-c", script, "imds", base, *urls)).check()
        instance, region, kind = out.stdout.split()
        assert instance.startswith("i-")
        assert region == "us-east-1"
        assert kind == ROLES[node].replace("ComputeFleet", "Compute")

    def test_s3_with_instance_credentials(self, lab: Lab) -> None:
        """The AWS CLI gets credentials from the metadata service and S3's address from the endpoint variable."""
        env = {"AWS_ENDPOINT_URL": "http://s3:5000"}
        out = lab.exec("compute-1", ("aws", "s3", "cp", "s3://petal/hooks/v1/probe.sh", "-"), env=env).check()
        assert out.stdout == (HERE / "probe.sh").read_text(encoding="utf-8")

    def test_systemd(self, lab: Lab) -> None:
        """Transient services, timers and bind mount units work; units see the lab's S3."""
        run = ("systemd-run", "-q", "--wait", "--pipe", "env")
        assert "AWS_ENDPOINT_URL=http://s3:5000" in lab.exec("login-1", run).check().stdout
        unit = (
            "[Unit]\nDescription=test\n[Mount]\nWhat=/shared/backing\nWhere=/opt/lab-test\nType=none\n"
            "Options=bind\n[Install]\nWantedBy=remote-fs.target\n"
        )
        lab.exec("head", ("mkdir", "-p", "/shared/backing", "/opt/lab-test")).check()
        lab.write("head", "/etc/systemd/system/opt-lab\\x2dtest.mount", unit)
        lab.exec("head", ("systemctl", "enable", "--now", "opt-lab\\x2dtest.mount")).check()
        lab.exec("head", ("mountpoint", "/opt/lab-test")).check()
        timer = (
            "systemd-run",
            "-q",
            "--on-active=0.1s",
            "--timer-property=AccuracySec=50ms",
            "touch",
            "/opt/lab-test/timer-ran",
        )
        lab.exec("head", timer).check()
        deadline = time.monotonic() + 10
        while not lab.exec("compute-2", ("test", "-e", "/shared/backing/timer-ran")).ok:
            assert time.monotonic() < deadline, "the timer did not run"

    def test_restart_keeps_the_node(self, lab: Lab) -> None:
        """After a reboot mounts, the user's mount units and daemons are active again; hooks do not run."""
        before = probed(lab, "head", "OnNodeStart", "name")
        lab.restart("head")
        lab.restart("compute-1")
        lab.exec("head", ("mountpoint", "/opt/lab-test")).check()
        assert probed(lab, "head", "OnNodeStart", "name") == before
        lab.wait_idle()
        assert lab.srun("-N2", "hostname").ok


class TestFailure:
    """The files and exit codes after a failed hook."""

    @pytest.fixture(autouse=True)
    def hook(self, lab: Lab, booted: dict[str, list[Result]]) -> None:
        """Set a failing hook with CRLF line ends, which the executor converts."""
        del booted
        text = "#!/bin/sh\r\necho out\r\necho 'it broke' >&2\r\nexit 7\r\n"
        url = lab.put_bytes("petal", "hooks/bad.sh", text.encode())
        lab.set_custom_actions({"OnNodeStart": [Action(url), Action(url)]})

    @pytest.mark.parametrize("node", ["compute-2", "login-1"])
    def test_event(self, lab: Lab, node: str) -> None:
        """Compute and login nodes write an event with the hook's stderr, and exit 1."""
        done = lab.phase(node, "start")
        assert done.returncode == 1
        assert "out" in done.stdout
        event = json.loads(lab.read(node, "/var/log/parallelcluster/bootstrap_error_msg"))
        assert event["detail"]["error"] == {"exit_code": 7, "stderr": "it broke\n"}
        assert event["message"] == "Failed to execute OnNodeStart script 1, return code: 7."
        left = lab.exec(node, ("ls", "/opt/parallelcluster/tmp")).stdout.split()
        assert len(left) == 2  # the failed script and the script that never ran

    def test_head(self, lab: Lab) -> None:
        """The head leaves one line for CloudFormation, without the hook's stderr."""
        done = lab.phase("head", "start")
        text = lab.read("head", "/var/log/parallelcluster/bootstrap_error_msg")
        assert done.returncode == 1
        assert "return code: 7" in text
        assert "it broke" not in text + done.stdout + done.stderr

    def test_missing_object(self, lab: Lab) -> None:
        """All scripts are fetched before one runs; a missing object fails the event."""
        good = lab.put_bytes("petal", "hooks/good.sh", b"#!/bin/sh\ntouch /ran\n")
        lab.set_custom_actions({"OnNodeStart": [Action(good), Action("s3://petal/hooks/none.sh")]})
        done = lab.phase("compute-2", "start")
        assert done.returncode == 1
        assert not lab.exec("compute-2", ("test", "-e", "/ran")).ok
        event = json.loads(lab.read("compute-2", "/var/log/parallelcluster/bootstrap_error_msg"))
        assert event["detail"]["stage"] == "downloading"
        assert event["detail"]["step"] == 2

    @pytest.mark.parametrize(
        ("text", "name"),
        [
            (b"#!/bin/sh\nprintf '\\377' >&2\n", "UnicodeDecodeError"),
            (b"echo no shebang\n", "OSError"),
            (b"#!/no/such/interpreter\n", "FileNotFoundError"),
        ],
    )
    def test_not_a_script_failure(self, lab: Lab, text: bytes, name: str) -> None:
        """Stderr that is not UTF-8, no shebang, no interpreter: a traceback, exit 1, no event."""
        lab.exec("compute-2", ("rm", "-f", "/var/log/parallelcluster/bootstrap_error_msg")).check()
        lab.set_custom_actions({"OnNodeStart": Action(lab.put_bytes("petal", "hooks/odd", text))})
        done = lab.phase("compute-2", "start")
        assert done.returncode == 1
        assert name in done.stderr
        assert not lab.exec("compute-2", ("test", "-e", "/var/log/parallelcluster/bootstrap_error_msg")).ok


def test_cluster_config_loads_in_pcluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """ParallelCluster's schema accepts the lab's cluster configuration (if pcluster is installed)."""
    reason = "aws-parallelcluster is not installed"
    schema = pytest.importorskip("pcluster.schemas.cluster_schema", reason=reason)
    yaml = pytest.importorskip("yaml")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    lab = Lab("petal-schema")
    monkeypatch.setattr(lab, "write", lambda *_argv: None)
    action = Action("s3://petal/x.sh", ODD_ARGS)
    actions: Actions = {"OnNodeStart": [action], "OnNodeConfigured": action, "OnNodeUpdated": action}
    text = lab.set_custom_actions(actions)
    assert schema.ClusterSchema(cluster_name="petal-schema").load(yaml.safe_load(text))
