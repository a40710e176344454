"""How long a cluster check takes in addition to Slurm and the nodes: with two real nodes and with 200 recorded reports.

It uses a separate lab. First slurmctld gets 998 more nodes, which are powered off as ParallelCluster's dynamic nodes
are; each has a report on a storage that needs 1 ms an operation. Then wrappers of sinfo and srun emulate 200 nodes: a
job prints the report of one node as recorded on a real node. Everything else is petal-node: gathering, the table, JSON
and the HTML page.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time

from tests.lab import stack
from tests.lab.cluster import HOSTNAMES, Lab
from tests.lab.demo import publish, wait_for_proof
from tests.lab.engine import print_progress

NODES = 200
DYNAMIC = 998
CONF = "/opt/slurm/etc/slurm.conf"
QUEUE2 = f"""
NodeName=queue2-dy-c5-[1-{DYNAMIC}] CPUs=2 RealMemory=1000 State=CLOUD
PartitionName=queue2 Nodes=queue2-dy-c5-[1-{DYNAMIC}] MaxTime=INFINITE State=UP
SuspendProgram=/bin/true
ResumeProgram=/bin/true
SuspendTime=600
TreeWidth=65533
PrivateData=cloud
"""
# The directory of the reports, with one of each node that is powered off, becomes slow.
SLOW_REPORTS = f"""
set -e
cd /shared/petal/state/nodes
for number in $(seq {DYNAMIC}); do
  sed "s/{HOSTNAMES["compute-1"]}/queue2-dy-c5-$number/g" {HOSTNAMES["compute-1"]}.json >queue2-dy-c5-$number.json
done
cp -a . /root/nodes
systemd-run --quiet --unit=slow python3 /opt/lab/badfs.py slow "$PWD" /root/nodes
until grep -q "badfs $PWD " /proc/mounts; do sleep 0.1; done
"""
RECORDED = "/shared/recorded"
SINFO = f"""#!/bin/sh
i=1; while [ $i -le {NODES} ]; do echo "many-st-c5-$i|idle|queue1*|none"; i=$((i + 1)); done
"""
# Prints the report of the node that petal-node's srun command names, with the nonce of the command.
SRUN = f"""#!/bin/sh
for word; do case $word in --nodelist=many-st-c5-*) number=${{word##*-}};; esac; done
exec sed "s/^[^ ]*/$word/" {RECORDED}/$number
"""
TIMES = r"""
import json, subprocess, sys, time
def once(argv):
    started = time.perf_counter()
    subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
    return time.perf_counter() - started
print(json.dumps([once(sys.argv[2:]) for _ in range(int(sys.argv[1]))]))
"""


def timed(lab: Lab, node: str, runs: int, *argv: str, user: str = "root") -> list[float]:
    """Return the seconds of each run, measured in the node."""
    result = lab.exec(node, ("python3", "-c", TIMES, str(runs), *argv), user=user, timeout=900).check()
    times: list[float] = json.loads(result.stdout)
    return times


def of_two_nodes(lab: Lab, runs: int) -> tuple[float, float, float]:
    """Return medians: the check of both nodes, ``srun -N2 true``, and the slower node's check as the job runs it."""
    whole = timed(lab, "head", runs, "petal-node", "check", "--nodes", "all")
    bare = timed(lab, "head", runs, "/opt/slurm/bin/srun", "-N2", "true", user="ec2-user")
    own = [
        timed(lab, node, runs, "petal-node", "check", "--lines", "nonce", user="ec2-user")
        for node in ("compute-1", "compute-2")
    ]
    return statistics.median(whole), statistics.median(bare), max(map(statistics.median, own))


def of_powered_off(lab: Lab, runs: int) -> tuple[float, float]:
    """Return the medians of ``check --nodes all`` and ``status`` of a cluster with 1,000 nodes of which two run."""
    for node in ("head", "compute-1", "compute-2"):
        lab.write(node, CONF, lab.read(node, CONF) + QUEUE2)
    lab.exec("head", ("systemctl", "restart", "slurmctld")).check()
    for node in ("compute-1", "compute-2"):
        lab.exec(node, ("systemctl", "restart", "slurmd")).check()
    lab.exec("head", ("sh", "-c", SLOW_REPORTS)).check()
    lab.wait_idle()
    shown = lab.exec("head", ("petal-node", "check", "--nodes", "all"))
    if f"proved on 2 of 2 nodes, {DYNAMIC} not checked" not in shown.stdout or shown.stdout.count("\n") > 40:
        raise SystemExit(
            f"bench-check: that is no check of {DYNAMIC + 2} nodes:\n{shown.stdout[-2000:]}\n{shown.stderr}"
        )
    verbs = (("check", "--nodes", "all"), ("status",))
    whole, state = (statistics.median(timed(lab, "head", runs, "petal-node", *verb)) for verb in verbs)
    lab.exec("head", ("sh", "-c", "systemctl stop slow; umount -l /shared/petal/state/nodes")).check()
    return whole, state


def record(lab: Lab) -> None:
    """Record the report of a real node under 200 names; every tenth report has a different failure."""
    lines = lab.exec("compute-1", ("petal-node", "check", "--lines", "nonce"), user="ec2-user").check().stdout
    files = {}
    for number in range(1, NODES + 1):
        text = lines.replace(HOSTNAMES["compute-1"], f"many-st-c5-{number}")
        if number % 10 == 0:
            text = text.replace(
                '"severity": "ok", "message": "loads', f'"severity": "fail", "message": "{number}: loads'
            )
        files[str(number)] = text.encode()
    lab.unpack("head", RECORDED, files)
    for name, script in (("sinfo", SINFO), ("srun", SRUN)):
        lab.exec("head", ("mv", f"/opt/slurm/bin/{name}", f"/opt/slurm/bin/{name}.real")).check()
        lab.write("head", f"/opt/slurm/bin/{name}", script, "755")


def of_many(lab: Lab, runs: int) -> float:
    """Return the median of the check of 200 nodes."""
    page = "/tmp/check.html"
    told = lab.exec("head", ("petal-node", "check", "--nodes", "all", "--html", page))
    if f"proved on {NODES - NODES // 10} of {NODES} nodes" not in told.stdout:
        raise SystemExit(f"bench-check: that is no check of {NODES} nodes:\n{told.stdout[-2000:]}\n{told.stderr}")
    return statistics.median(timed(lab, "head", runs, "petal-node", "check", "--nodes", "all", "--html", page))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=7)
    options = parser.parse_args()
    lab = Lab("petal-bench-check")
    started = time.monotonic()
    lab.ensure_engine()
    lab.build_images()
    lab.fresh()
    try:
        publish(lab, stack.lab_config(lab, spack=False))
        lab.boot_all()
        lab.wait_idle()
        wait_for_proof(lab)
        print_progress(f"a cluster of two compute nodes is there after {time.monotonic() - started:.0f} s")
        whole, bare, own = of_two_nodes(lab, options.runs)
        print(f"2 nodes: check --nodes all {whole:.2f} s, srun -N2 true {bare:.2f} s, slowest own check {own:.2f} s")
        print(f"2 nodes: {whole - bare - own:.2f} s more than both together (limit 2)")
        large, state = of_powered_off(lab, options.runs)
        print(f"1,000 nodes, 2 of them on: check --nodes all {large:.2f} s (limit 5), status {state:.2f} s (limit 2)")
        record(lab)
        print(f"{NODES} nodes: check --nodes all with its page {of_many(lab, options.runs):.2f} s (limit 10)")
    finally:
        lab.down()
    return 0


if __name__ == "__main__":
    sys.exit(main())
