"""The real hook scripts in dash and bash: how long they search the archive, and the unit that continues after them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.real.hooks import ARCHIVE, Hook, failed, fake_aws, ran_the_archive

DNA = '{"cluster": {"node_type": "%s", "region": "us-east-1"}}'
OTHER_NODES: dict[str, tuple[str, str, list[str]]] = {
    "compute": ("etc/chef/dna.json", DNA % "ComputeFleet", []),
    "login": ("etc/parallelcluster/cfnconfig", 'cfn_node_type="LoginNode"\n', []),
    "role compute": ("etc/parallelcluster/cfnconfig", "cfn_node_type=HeadNode\n", ["--role", "compute"]),
    "role=login": ("etc/parallelcluster/cfnconfig", "cfn_node_type=HeadNode\n", ["--role=login"]),
}
SLEEPS = """case $* in *shared/petal*) echo $$ >>%s; exec sleep 300 ;; *) exec %s "$@" ;; esac
"""


def test_hooks_of_other_nodes_end_within_10_s_if_storage_and_s3_hang(hook, tmp_path):
    """Neither shared storage nor S3 answers. All nodes boot at once."""
    pids = tmp_path / "pids"
    hook.substitute("timeout", SLEEPS % (pids, shutil.which("timeout")))
    fake_aws(hook, tmp_path, "sleep 300")
    hook.env["PETAL_FETCH_SECONDS"] = ""
    nodes = {name: replace(hook, prefix=tmp_path / name) for name in OTHER_NODES}
    for name, (place, text, _) in OTHER_NODES.items():
        nodes[name].write(place, text)
    with ThreadPoolExecutor(len(nodes)) as pool:
        done = pool.map(lambda name: nodes[name].fetch("s3://bucket/key", *OTHER_NODES[name][2]), nodes)
        for name, ran in zip(nodes, done):
            failed(nodes[name], ran, "fetch-unreachable")
            assert ran.seconds < 10, name
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_a_head_node_waits_longer_for_its_archive(hook, tmp_path):
    """It gets its archive after the time limit of other nodes."""
    fake_aws(hook, tmp_path, f'sleep 7; cp {hook.archive} "$target"')
    hook.write("etc/chef/dna.json", DNA % "HeadNode")
    hook.env["PETAL_FETCH_SECONDS"] = ""
    ran = hook.fetch("s3://bucket/key")
    ran_the_archive(hook, ran)
    assert ran.seconds > 7


def test_the_tool_gets_the_start_time_of_the_hook(hook):
    before = float(Path("/proc/uptime").read_text().split()[0])
    ran = hook.fetch(hook.archive.as_uri())
    after = float(Path("/proc/uptime").read_text().split()[0])
    (started,) = re.findall(r"started \[(.*)\]", ran.out)
    assert before <= float(started) <= after


@pytest.fixture
def unit(hook):
    """Emulate systemd-run by a script that records its call in this file."""
    (hook.prefix / "run/systemd/system").mkdir(parents=True)
    hook.substitute("systemctl", f'echo "$*" >>{hook.prefix}/systemctl\n')
    hook.env["PETAL_FETCH_SECONDS"] = "1"
    return hook.prefix / "etc/systemd/system/petal-node-hook.service"


def start(hook: Hook, unit: Path) -> subprocess.CompletedProcess[str]:
    """Start the unit like systemd."""
    (command,) = re.findall("ExecStart=(.*)", unit.read_text())
    argv = [hook.shell, *command.split()[1:]]
    return subprocess.run(
        argv,
        env={"PATH": "/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize("answer", ["Could not connect", "(403) Forbidden", "(404) Not Found"])
def test_a_unit_repeats_the_hook_until_the_archive_can_be_fetched(hook, tmp_path, unit, answer):
    """The unit has a copy of the script, the environment and every argument, and it retries after any answer."""
    ready = tmp_path / "ready"
    fake_aws(hook, tmp_path, f'[ -e {ready} ] || {{ echo "{answer}" >&2; exit 1; }}\ncp {hook.archive} "$target"')
    hook.env["AWS_ENDPOINT_URL"] = "http://it's here:5000"
    ran = hook.fetch("s3://bucket/key", "a'b", "$(x)", "c\\nd", "")
    assert ran.code == 0
    assert "journalctl -u petal-node-hook.service" in ran.out
    assert (hook.prefix / "systemctl").read_text().endswith("--no-block restart petal-node-hook.service\n")
    assert (unit.parent / "multi-user.target.wants/petal-node-hook.service").resolve() == unit  # enabled at boot
    hook.script.unlink()
    again = start(hook, unit)
    assert again.returncode == 75  # on-failure: systemd restarts it
    assert answer in again.stdout
    assert len(hook.log()) == 1
    ready.touch()
    done = start(hook, unit)
    assert done.returncode == 0, done
    assert re.findall(r"argument \[(.*)\]", done.stdout)[2:] == [
        *hook.arguments("s3://bucket/key", "a'b", "$(x)", "c\\nd", ""),
        "--root",
        str(hook.prefix),
    ]
    assert re.search(r"started \[\d", done.stdout)  # this start, not the one before
    assert "--endpoint-url http://it's here:5000" in (tmp_path / "aws.log").read_text()
    assert hook.left_over() == [hook.sha256]
    assert [path for path in unit.parent.rglob("*") if not path.is_dir()] == []


def test_the_unit_has_limits_and_restarts(unit, hook, tmp_path):
    """Names of keys and sections as in systemd.unit(5) and systemd.service(5)."""
    assert hook.fetch(f"file://{tmp_path}/none").code == 0
    text = unit.read_text()
    sections = {part.partition("]")[0]: part.split()[1:] for part in text.split("[")[1:]}
    assert {"StartLimitIntervalSec=1d", "StartLimitBurst=120"} < set(sections["Unit"])
    assert {"Restart=on-failure", "RestartSec=30s", "TimeoutStopSec=10s"} < set(sections["Service"])
    assert sections["Install"] == ["WantedBy=multi-user.target"]
    analyze = shutil.which("systemd-analyze")
    if analyze:
        done = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
        assert [line for line in done.stderr.splitlines() if unit.name in line] == []


def test_the_unit_writes_no_aws_key_to_the_disk(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "Could not connect" >&2; exit 1')
    hook.env |= {"AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_SESSION_TOKEN": "t0ken", "AWS_REGION": "eu-west-1"}
    assert hook.fetch("s3://bucket/key").code == 0
    kept = hook.home / "incoming/retry"
    text = (kept / "start.sh").read_text()
    assert "eu-west-1" in text
    assert "s3cret" not in text
    assert "t0ken" not in text
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in [kept, *kept.iterdir()])


def test_the_unit_also_finds_the_archive_on_shared_storage(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "(403) Forbidden" >&2; exit 1')
    assert hook.fetch("s3://bucket/key").code == 0
    hook.write(f"shared/petal/archive/{hook.sha256}", ARCHIVE)
    done = start(hook, unit)
    assert done.returncode == 0
    assert "argument [configured]" in done.stdout


def test_a_later_hook_with_the_archive_removes_the_unit(hook, tmp_path, unit):
    assert hook.fetch(f"file://{tmp_path}/none").code == 0
    hook.env["PETAL_FETCH_SECONDS"] = "60"  # one is enough for the failure, and not always for the archive
    ran_out = hook.fetch(hook.archive.as_uri()).out
    assert "argument [configured]" in ran_out
    assert not unit.exists()
    assert hook.left_over() == [hook.sha256]
    assert (hook.prefix / "systemctl").read_text().endswith("--no-block stop petal-node-hook.service\n")


def test_a_strict_hook_leaves_no_unit(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "Could not connect" >&2; exit 1')
    failed(hook, hook.fetch("s3://bucket/key", "--strict"), "fetch-unreachable", exit_code=1)
    assert not unit.exists()
