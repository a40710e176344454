"""The hook scripts for real, in dash and bash: how long they look for the archive, and what goes on after them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.real.hooks import ARCHIVE, ROOT, Hook, failed, fake_aws, ran_the_archive, until

DNA = '{"cluster": {"node_type": "%s", "region": "us-east-1"}}'
SLEEPS = """case $* in *shared/petal*) echo $$ >>%s; exec sleep 300 ;; *) exec %s "$@" ;; esac
"""


@pytest.mark.parametrize(
    ("place", "text", "arguments"),
    [
        ("etc/chef/dna.json", DNA % "ComputeFleet", []),
        ("etc/parallelcluster/cfnconfig", 'cfn_node_type="LoginNode"\n', []),
        ("etc/parallelcluster/cfnconfig", "cfn_node_type=HeadNode\n", ["--role", "compute"]),
        ("etc/parallelcluster/cfnconfig", "cfn_node_type=HeadNode\n", ["--role=login"]),
    ],
    ids=["compute", "login", "--role compute", "--role=login"],
)
def test_hooks_of_other_nodes_end_within_10_s_whatever_hangs(hook, tmp_path, place, text, arguments):
    """Shared storage never answers and neither does S3."""
    pids = tmp_path / "pids"
    hook.stand_in("timeout", SLEEPS % (pids, shutil.which("timeout")))
    hook.write(place, text)
    fake_aws(hook, tmp_path, "sleep 300")
    hook.env["PETAL_FETCH_SECONDS"] = ""
    ran = hook.fetch("s3://bucket/key", *arguments)
    failed(hook, ran, "archive-unreachable")
    assert ran.seconds < 10
    for pid in pids.read_text().split():
        os.kill(int(pid), signal.SIGKILL)


def test_a_head_node_has_a_minute(hook, tmp_path):
    """It gets its archive long after another node would have given up."""
    began = tmp_path / "began"
    body = f"[ -e {began} ] || date +%s >{began}\n"
    body += f'[ $(($(date +%s) - $(cat {began}))) -ge 9 ] || {{ echo "Connection reset" >&2; exit 1; }}\n'
    fake_aws(hook, tmp_path, body + f'cp {hook.archive} "$target"')
    hook.write("etc/chef/dna.json", DNA % "HeadNode")
    hook.env["PETAL_FETCH_SECONDS"] = ""
    ran = hook.fetch("s3://bucket/key")
    ran_the_archive(hook, ran)
    assert ran.seconds > 8


def test_the_tool_is_told_when_the_hook_began(hook):
    before = float(Path("/proc/uptime").read_text().split()[0])
    ran = hook.fetch(hook.archive.as_uri())
    after = float(Path("/proc/uptime").read_text().split()[0])
    (told,) = re.findall(r"started \[(.*)\]", ran.out)
    assert before <= float(told) <= after


@pytest.fixture
def unit(hook, tmp_path):
    """systemd runs here, and this file holds how the unit would be started."""
    (hook.prefix / "run/systemd/system").mkdir(parents=True)
    hook.stand_in("systemctl", "exit 5\n")
    hook.stand_in("systemd-run", f'echo "$*" >{tmp_path}/unit\n')
    hook.env["PETAL_FETCH_SECONDS"] = "1"
    return tmp_path / "unit"


@contextmanager
def started(hook: Hook, unit: Path) -> Iterator[subprocess.Popen]:
    """Does what systemd does with the unit."""
    command = unit.read_text().split()
    assert command[:3] == ["--quiet", "--collect", "--no-block"]
    assert re.fullmatch(r"--unit=petal-node-fetch-[\w.-]+", command[3])
    argv = [hook.shell, *command[5:]]
    process = subprocess.Popen(argv, env={"PATH": "/bin"}, stdin=subprocess.DEVNULL, cwd="/", start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def told_later(hook: Hook) -> str:
    log = hook.prefix / "var/log/petal-node-worker.log"
    return log.read_text("ascii") if log.exists() else ""


@pytest.mark.parametrize("answer", ["Could not connect", "(403) Forbidden", "(404) Not Found"])
def test_a_unit_goes_on_where_the_hook_gave_up(hook, tmp_path, unit, answer):
    """The deleted script, the environment, every argument; and no answer is the last one for it."""
    ready = tmp_path / "ready"
    fake_aws(hook, tmp_path, f'[ -e {ready} ] || {{ echo "{answer}" >&2; exit 1; }}\ncp {hook.archive} "$target"')
    hook.env["AWS_ENDPOINT_URL"] = "http://it's here:5000"
    ran = hook.fetch("s3://bucket/key", "a'b", "$(x)", "")
    assert ran.code == 0
    assert "goes on trying for 60 minutes" in ran.out
    hook.script.unlink()
    with started(hook, unit) as later:
        until(lambda: "trying again" in told_later(hook))
        ready.touch()
        assert later.wait(30) == 0
    told = told_later(hook)
    assert re.findall(r"argument \[(.*)\]", told)[2:] == [
        *hook.arguments("s3://bucket/key", "a'b", "$(x)", ""), "--root", str(hook.prefix),
    ]  # fmt: skip
    assert "started [unset]" in told
    assert "--endpoint-url http://it's here:5000" in (tmp_path / "aws.log").read_text()
    assert hook.left_over() == [hook.sha256]


def test_the_unit_keeps_no_key_on_the_disk(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "Could not connect" >&2; exit 1')
    hook.env |= {"AWS_SECRET_ACCESS_KEY": "s3cret", "AWS_SESSION_TOKEN": "t0ken", "AWS_REGION": "eu-west-1"}
    assert hook.fetch("s3://bucket/key").code == 0
    (start,) = (hook.home / "incoming").glob("*/start.sh")
    kept = start.read_text()
    assert "eu-west-1" in kept
    assert "s3cret" not in kept
    assert "t0ken" not in kept


def test_the_unit_also_finds_what_the_head_node_puts_on_shared_storage(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "(403) Forbidden" >&2; exit 1')
    assert hook.fetch("s3://bucket/key").code == 0
    with started(hook, unit) as later:
        until(lambda: "trying again" in told_later(hook))
        hook.write(f"shared/petal/archive/{hook.sha256}", ARCHIVE)
        assert later.wait(30) == 0
    assert "argument [configured]" in told_later(hook)


def test_the_unit_looks_away_from_a_mount_that_hangs_until_it_answers(hook, tmp_path, unit):
    pids = tmp_path / "pids"
    hook.stand_in("timeout", SLEEPS % (pids, shutil.which("timeout")))
    fake_aws(hook, tmp_path, 'echo "Could not connect" >&2; exit 1')
    assert hook.fetch("s3://bucket/key").code == 0
    before = len(pids.read_text().split())
    with started(hook, unit):
        until(lambda: told_later(hook).count("trying again") >= 3)
    hung = pids.read_text().split()
    for pid in hung:
        with suppress(ProcessLookupError):  # those of the unit's session are gone already
            os.kill(int(pid), signal.SIGKILL)
    assert len(hung) == before + 1


def test_a_strict_hook_leaves_nothing_behind_it(hook, tmp_path, unit):
    fake_aws(hook, tmp_path, 'echo "Could not connect" >&2; exit 1')
    failed(hook, hook.fetch("s3://bucket/key", "--strict"), "archive-unreachable", exit_code=1)
    assert not unit.exists()


def test_a_checkout_s_script_is_kept_whole(hook, tmp_path, unit):
    hook.script = ROOT / "actions/on_node_configured.sh"
    assert hook.fetch(f"file://{tmp_path}/none").code == 0
    (kept,) = (hook.home / "incoming").iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["common.sh", "fetch.sh", "hook.sh", "start.sh"]
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in [kept, *kept.iterdir()])
