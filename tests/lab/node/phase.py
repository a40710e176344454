#!/usr/bin/env python3
"""One phase of a lab node's boot, in ParallelCluster's order: init start config configured finalize.

The sources of the order and of each phase's result: the user data of the head node (cfn-init's
``chefPrepEnv -> shellRunPreInstall -> chefConfig -> shellRunPostInstall -> chefFinalize``) and of compute and
login nodes (resources/compute_node/user_data.sh). ``updated`` is what cfn-hup runs on update-cluster.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

VERSION = "3.16.1"
# The exact environment of a hook's parent: no HOME, no LANG (the bootstrap scripts do not set it), no
# Slurm and no modules on PATH. The lab adds AWS_ENDPOINT_URL for its S3.
PYTHONS = "/opt/parallelcluster/pyenv/versions/3.14.6/envs/"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/sbin:/bin:/usr/sbin:/usr/bin:/opt/aws/bin",
    "_region": "us-east-1",
    "parallelcluster_version": "aws-parallelcluster-" + VERSION,
    "cookbook_version": "aws-parallelcluster-cookbook-" + VERSION,
    "chef_version": "18.4.12",
    "CFN_BOOTSTRAP_VIRTUALENV_PATH": PYTHONS + "cfn_bootstrap_virtualenv",
    "AWS_ENDPOINT_URL": "http://s3:5000",
}
EVENTS = {"start": "-preinstall", "configured": "-postinstall", "updated": "-postupdate"}
HAS_SLURM = Path("/opt/slurm/sbin").is_dir()


def role() -> str:
    """Return HeadNode, LoginNode or ComputeFleet."""
    return str(json.loads(Path("/etc/lab/node.json").read_text(encoding="utf-8"))["role"])


def run(*argv: str) -> None:
    """Run one command; its failure ends the phase."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def mount(source: str, target: str, mode: int = 0o755) -> None:
    """Bind-mount persistently, like the cookbook by a line in fstab."""
    Path(source).mkdir(parents=True, exist_ok=True)
    Path(target).mkdir(parents=True, exist_ok=True)
    if os.path.ismount(target):
        return
    Path(source).chmod(mode)
    table = Path("/etc/fstab")
    line = f"{source} {target} none bind 0 0\n"
    known = table.read_text(encoding="utf-8") if table.exists() else ""
    if line not in known:
        table.write_text(known + line, encoding="utf-8")
    run("mount", target)


def home() -> None:
    """Give the cluster user a home directory in the shared /home; several nodes may create it at the same time."""
    place = Path("/home/ec2-user")
    try:
        place.mkdir(mode=0o755)
    except FileExistsError:
        return
    shutil.copytree("/etc/skel", place, dirs_exist_ok=True)
    for path in [place, *place.rglob("*")]:
        os.chown(path, 1000, 1000)


def init() -> None:
    """Emulate cinc's ``init``: the node's facts, /home, ParallelCluster's own shared directories."""
    run(sys.executable, "/opt/lab/facts.py")
    mount("/lab/cluster/home", "/home")
    mount("/lab/cluster/shared", "/opt/parallelcluster/shared")
    if role() in ("HeadNode", "LoginNode"):
        mount("/lab/cluster/shared_login_nodes", "/opt/parallelcluster/shared_login_nodes")
    home()


def munge() -> None:
    """Take the cluster's key (ParallelCluster: shared/.munge/.munge.key) and start munged."""
    key = Path("/etc/munge/munge.key")
    key.parent.mkdir(exist_ok=True)
    shutil.copyfile("/opt/parallelcluster/shared/.munge/.munge.key", key)
    key.chmod(0o400)
    shutil.chown(key, "munge", "munge")
    run("systemctl", "-q", "enable", "--now", "munge")


def config() -> None:
    """Emulate cinc's ``config``: SharedStorage (1777), munge, and slurmctld on the head node."""
    mount("/lab/shared", "/shared", 0o1777)
    storages = "ebs:\n- mount_dir: /shared\n  volume_id: vol-0123456789abcdef1\nraid: []\nefs: []\nfsx: []\n"
    Path("/etc/parallelcluster/shared_storages_data.yaml").write_text(storages, encoding="utf-8")
    if not HAS_SLURM:
        return
    munge()
    if role() == "HeadNode":
        state = Path("/var/spool/slurm.state")
        state.mkdir(exist_ok=True)
        shutil.chown(state, "slurm", "slurm")
        run("systemctl", "-q", "enable", "--now", "slurmctld")
        until("slurmctld answers", lambda: slurm("ping").returncode == 0)


def finalize() -> None:
    """Emulate cinc's ``finalize``: start slurmd on compute nodes. No job can run on them before that."""
    if role() != "ComputeFleet" or not HAS_SLURM:
        return
    run("systemctl", "-q", "enable", "--now", "slurmd")
    name = os.uname().nodename
    until("the node has registered", lambda: registered(slurm("show", "node", name).stdout))
    slurm("update", f"nodename={name}", "state=resume")


def registered(text: str) -> bool:
    """Return whether ``scontrol show node`` shows a node that has reported to slurmctld."""
    found = re.search(r"\bState=(\S+)", text)
    return found is not None and not re.search("UNKNOWN|NOT_RESPONDING", found.group(1))


def slurm(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run scontrol."""
    command = ["/opt/slurm/bin/scontrol", *argv]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def until(what: str, condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll a condition up to a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"lab: not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def hook(event: str) -> int:
    """Run a custom action as the node's boot does: same environment, directory and destination of its output.

    On the head cfn-init takes stdout through a pipe, waits for its end and logs it afterwards; on the others
    it goes to cloud-init-output.log as it comes.
    """
    command = ["/opt/parallelcluster/scripts/fetch_and_run", event]
    if role() == "HeadNode":
        where = "/etc/chef" if event == "-postupdate" else "/opt/parallelcluster/tmp"
        done = subprocess.run(
            command, cwd=where, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False
        )
        with Path("/var/log/cfn-init-cmd.log").open("ab") as log:
            log.write(done.stdout)
        sys.stdout.buffer.write(done.stdout)
        return done.returncode
    log_file = Path("/var/log/cloud-init-output.log")
    start = log_file.stat().st_size if log_file.exists() else 0
    with log_file.open("ab") as log:
        code = subprocess.run(
            command, cwd="/etc/chef", env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=log, check=False
        ).returncode
    sys.stdout.buffer.write(log_file.read_bytes()[start:])
    return code


def main(argv: list[str]) -> int:
    """Run the named phase."""
    os.umask(0o022)
    phases: dict[str, Callable[[], None]] = {"init": init, "config": config, "finalize": finalize}
    if len(argv) != 1 or argv[0] not in (*phases, *EVENTS):
        print("usage: phase " + "|".join((*phases, *EVENTS)), file=sys.stderr)
        return 64
    if argv[0] in EVENTS:
        return hook(EVENTS[argv[0]])
    phases[argv[0]]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
