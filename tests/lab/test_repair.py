"""Real faults on a healthy cluster: the right check finds each, repair corrects it or explains why it does not.

Everything else is the same before and after, and on a healthy node repair changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.lab import engine, faults, release_stack, stack
from tests.lab.cluster import Lab
from tests.lab.demo import publish

TOOL = "/opt/petal-node/0.1.0/petal-node"
STATE = "/shared/petal/state"
RELEASE = "/opt/petal/releases/$(jq -r .release /shared/petal/state/desired.json)"
HELLO = "$(echo /opt/petal/store/*/hello-*)"
PIECE = "$(echo /opt/petal/store/*/piece-*)"
CORE = f"{RELEASE}/modules/*/Core"
# The content of everything that users and the cluster use, except files that each run writes, and except times.
HAVE = r"""
readlink /opt/petal/current /usr/local/bin/petal-node; findmnt -rno TARGET,FSTYPE,OPTIONS / /shared /opt/petal
systemctl is-enabled petal-node-converge.service opt-petal.mount; systemctl is-active munge
find /opt/petal-node/init /etc/profile.d /etc/fish /etc/systemd/system -type f | sort | xargs sha256sum
cd /shared/petal && find . \( -path ./lock -o -path ./build -o -name .spack -o -name .spack-db -o -name .petal-db \) \
    -prune -o -printf '%p %y %m %u %l\n' | grep -vE 'state/(stack|proof|nodes/.*).json|\.bad' | sort
find state/desired.json root/store/*/*/bin -type f | sort | xargs sha256sum
for file in $(find root/releases/*/modules -type f | sort); do # Spack writes the day into each
    echo "$file $(grep -v '^-- Module file created by spack' $file | sha256sum)"
done
"""
OVER_SHARED = "mount -t tmpfs -o mode=1777 other /shared"
KILLED = """
rm /etc/profile.d/zz-petal.sh
python3 - <<'END'
import fcntl, glob, json, os, signal, subprocess, time
lock = open("/var/lib/petal-node/node.lock", "r+")
fcntl.lockf(lock, fcntl.LOCK_EX)
run = subprocess.Popen(["petal-node", "bootstrap"], stdout=subprocess.DEVNULL, start_new_session=True)
def waits():
    newest = max(glob.glob("/var/lib/petal-node/runs/*.json"))
    steps = json.load(open(newest))["steps"]
    return any(step["name"] == "shell" and step["outcome"] == "waiting" for step in steps)
while not waits():
    time.sleep(0.05)
os.killpg(run.pid, signal.SIGKILL)
END
"""


@dataclass(frozen=True)
class Fault:
    """How to inject a fault, the finding of check, and the result of repair.

    Args:
        make: a script that root runs on the node.
        check: the check of the first warning or failure.
        ends: ``repaired``, ``yes`` (only with --yes), ``refused`` (reported with a remedy that contains ``try_``).
        back: a script that undoes a refused fault.
        env: put before petal-node.
    """

    node: str
    make: str
    check: str
    words: str
    ends: str = "repaired"
    back: str = ""
    try_: str = ""
    petal: str = "petal-node"
    spack: bool = False


C, H = "compute-1", "head"
FAULTS: dict[str, Fault] = {
    # mounts
    "storage unmounted": Fault(
        C,
        "systemctl stop opt-petal.mount; umount /shared",
        "hidden-mounts",
        "/shared is not mounted, and /etc/fstab has it",
    ),
    "root unbound": Fault(C, "systemctl stop opt-petal.mount", "root", "/opt/petal is not bound to shared storage yet"),
    "root not kept": Fault(C, "systemctl -q disable opt-petal.mount", "root", "a reboot would lose the mount"),
    "root's unit changed": Fault(
        C, "echo '# x' >>/etc/systemd/system/opt-petal.mount", "root", "a reboot would lose the mount"
    ),
    "another file system over the storage": Fault(
        C, OVER_SHARED, "hidden-mounts", "/shared is hidden by", "refused", "umount /shared", "umount --lazy /shared"
    ),
    "the same on the head node": Fault(
        H, OVER_SHARED, "hidden-mounts", "/shared is hidden by", "refused", "umount /shared", "umount --lazy /shared"
    ),
    "another file system over the root": Fault(
        C,
        "mount -t tmpfs other /opt/petal",
        "hidden-mounts",
        "/opt/petal is hidden by",
        "refused",
        "umount /opt/petal",
        "umount --lazy /opt/petal",
    ),
    "the root mounted noexec": Fault(
        C,
        "mount -o remount,bind,noexec /opt/petal",
        "mount-options",
        "/opt/petal is mounted noexec",
        "refused",
        "mount -o remount,bind,exec /opt/petal",
        "remount,exec",
    ),
    "the head's storage read-only": Fault(
        H,
        "mount -o remount,bind,ro /shared",
        "storage",
        "is mounted read-only",
        "refused",
        "mount -o remount,bind,rw /shared",
        "findmnt",
    ),
    # the node itself
    "stub of the init files lost": Fault(
        C, "rm /etc/profile.d/zz-petal.sh", "shell", "1 init files are missing or differ"
    ),
    "init file edited": Fault(
        C, "echo 'module() { :; }' >>/opt/petal-node/init/petal.sh", "shell", "1 init files are missing or differ"
    ),
    "link of the command": Fault(
        C, "ln -sfn /nowhere /usr/local/bin/petal-node", "self-install", "does not lead to this", petal=TOOL
    ),
    "boot service disabled": Fault(
        C, "systemctl -q disable petal-node-converge.service", "boot-service", "is not enabled"
    ),
    "boot service edited": Fault(
        H, "echo '# x' >>/etc/systemd/system/petal-node-converge.service", "boot-service", "units are missing or differ"
    ),
    "munged dead": Fault(
        C,
        "systemctl stop munge",
        "munge",
        "munged does not answer",
        "refused",
        "systemctl start munge slurmd",
        "systemctl restart munge",
    ),
    "slurmctld dead": Fault(
        H,
        "systemctl stop slurmctld",
        "slurm",
        "slurmctld does not run on this node",
        "refused",
        "systemctl start slurmctld; until /opt/slurm/bin/scontrol ping | grep -q UP; do sleep 0.2; done",
        "systemctl restart slurmctld",
    ),
    "a run killed": Fault(C, KILLED, "killed-run", "was killed in the step shell"),
    "Lmod gone": Fault(
        C,
        "mv /usr/share/lmod /usr/share/lmod.away",
        "lmod",
        "this node has no Lmod",
        "refused",
        "mv /usr/share/lmod.away /usr/share/lmod",
        "modules: {lmod: stack} in the configuration"
        if stack.no_spack() is None
        else "name a stack in the configuration",
    ),
    "a profile resets MODULEPATH": Fault(
        C,
        "echo 'MODULEPATH=/nowhere' >/etc/profile.d/zzz.sh",
        "modules",
        "does not look into the release",
        "refused",
        "rm /etc/profile.d/zzz.sh",
        "type module",
    ),
    "a profile takes module away": Fault(
        C,
        "echo 'unset -f module; unset BASH_ENV' >/etc/profile.d/zzz.sh",
        "modules",
        "has no module command",
        "refused",
        "rm /etc/profile.d/zzz.sh",
        "type module",
    ),
    "a library of the system gone": Fault(
        C,
        "mkdir /root/away; mv /lib/x86_64-linux-gnu/libopen-rte.so.40* /root/away/",
        "run:mpirun --version",
        "libopen-rte.so.40",
        "refused",
        "mv /root/away/* /lib/x86_64-linux-gnu/; rmdir /root/away",
        "module load",
    ),
    "/tmp full": Fault(
        C,
        "mount -t tmpfs -o size=64k,mode=1777 tmp /tmp; head -c 64k /dev/zero >/tmp/x",
        "disk-space",
        "/tmp has 0 MiB left",
        "refused",
        "umount /tmp",
        "du -xah",
    ),
    "/tmp without inodes": Fault(
        C,
        "mount -t tmpfs -o nr_inodes=2,mode=1777 tmp /tmp; touch /tmp/x",
        "disk-space",
        "of its inodes left",
        "refused",
        "umount /tmp",
        "df -i",
    ),
    # the cluster's storage
    "state writable for all": Fault(H, f"chmod 777 {STATE}", "permissions", "has mode 0777"),
    "a program writable for all": Fault(
        H, f"chmod 777 {HELLO}/bin/hello", "permissions", "bin/hello has mode 0777", "yes"
    ),
    "a release given to a user": Fault(
        H,
        f"chown -R ec2-user {RELEASE}",
        "permissions",
        "belongs to user 1000",
        "refused",
        "chown -Rh --from=1000 root:root /shared/petal",
        "chown -Rh --from=1000 root:root /shared/petal",
    ),
    "token lost": Fault(H, f"rm {STATE}/token.json", "records", "token.json, the storage token, is missing"),
    "token damaged": Fault(H, f"echo x >{STATE}/token.json", "records", "token.json is damaged"),
    "desired.json damaged": Fault(
        H,
        f"head -c 40 {STATE}/desired.json >/tmp/w; cp /tmp/w {STATE}/desired.json; rm /tmp/w",
        "records",
        "desired.json is damaged",
    ),
    "install record damaged": Fault(H, f"echo '[' >{STATE}/stack.json", "records", "stack.json is damaged"),
    "a node's report damaged": Fault(
        H, f"echo '{{}}' >{STATE}/nodes/queue1-st-c5-1.json", "records", "queue1-st-c5-1.json is damaged"
    ),
    "archive lost": Fault(H, "rm /shared/petal/archive/*", "desired-state", "the archive is not on shared storage"),
    "locks' directory lost": Fault(H, "rm -r /shared/petal/lock", "storage", "is not prepared"),
    # the release
    "half a release": Fault(H, f"rm {RELEASE}/manifest.json", "release", "manifest.json is missing"),
    "manifest damaged": Fault(H, f"echo '{{' >{RELEASE}/manifest.json", "records", "manifest.json is damaged"),
    "current lost": Fault(H, "rm /opt/petal/current", "release", "no release is published yet"),
    "current leads nowhere": Fault(
        H, "ln -sfn releases/0123 /opt/petal/current", "release", "release 0123 is incomplete"
    ),
    "a module file lost": Fault(H, f"rm {CORE}/hello/*.lua", "module-tree", "missing or empty"),
    "a module file damaged": Fault(
        H, f"sed -i 1i'error(' {CORE}/hello/*.lua", "module-files-changed", "/Core/hello/", "yes"
    ),
    "a module file empty": Fault(H, f"truncate -s 0 $(echo {CORE}/hello/*.lua)", "module-tree", "missing or empty"),
    # packages
    "a program lost": Fault(H, f"rm {HELLO}/bin/hello", "package-files", "bin/hello is missing"),
    "a program edited": Fault(H, f"echo >>{HELLO}/bin/hello", "package-files", "hello 1.0: /", "yes"),
    "a package lost": Fault(H, f"rm -r {HELLO}", "packages", "missing packages: "),
    "Spack's database lost": Fault(
        H,
        "rm /opt/petal/store/.spack-db/index.json",
        "spack-database",
        "is missing, but the store contains",
        spack=True,
    ),
    "Spack's database damaged": Fault(
        H, "echo >/opt/petal/store/.spack-db/index.json", "spack-database", "is not JSON", spack=True
    ),
    "an install that was cut off": Fault(
        H,
        f"p={PIECE}; mkdir -p $p-half/.spack $p-half/bin",
        "partial-installs",
        "1 interrupted installs left files in the store: piece",
        spack=True,
    ),
    "a file of a Spack package lost": Fault(
        H, f"rm {PIECE}/share/7", "package-files", "share/7 is missing", "yes", spack=True
    ),
    "a Spack package edited": Fault(H, f"echo >>{PIECE}/bin/piece", "package-files", "piece@1: /", "yes", spack=True),
    "a Spack package lost": Fault(H, f"rm -r {PIECE}", "spack", "missing packages: 1 of 2", spack=True),
}


def boot(lab: Lab) -> None:
    """Boot a new head node, with Spack's packages if Spack is in the cache, and a new compute node."""
    lab.fresh()
    bucket = stack.Bucket(lab)
    config = stack.lab_config(lab, spack=False)
    if stack.no_spack() is None:
        small = release_stack.config(bucket, release_stack.spack_section(lab, bucket), 1)
        config = {
            **small,
            "packages": config["packages"],
            "check": {**small["check"], "load": ["hello", "openmpi", "piece"]},
        }
        config["check"]["run"] = ["hello", "piece", "mpirun --version"]
        bucket.send()
    publish(lab, config)
    for node in (H, C, "compute-2"):  # the proof of the head node's run waits a minute for a node that does not boot
        for result in lab.boot(node):
            result.check()
        engine.until(f"{node} is ready", lambda node=node: faults.is_ready(lab, node), 300)  # type: ignore[misc]
        engine.until(f"{node} has no timer", lambda node=node: not faults.has_timer(lab, node), 60)  # type: ignore[misc]
    for node in (H, C):  # the head node's worker waits for nodes, and abandoned files stay until it ends
        engine.until(f"the runs of {node} have ended", lambda node=node: have_ended(lab, node), 300)  # type: ignore[misc]


def have_ended(lab: Lab, node: str) -> bool:
    return all(record["finished"] for record in faults.records(lab, node))


@pytest.fixture(scope="module")
def booted(lab: Lab) -> Lab:
    boot(lab)
    return lab


@pytest.fixture
def cluster(booted: Lab, request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A healthy cluster. A failed test may leave its fault, so the next test gets a new cluster."""
    failures = request.session.testsfailed
    yield booted
    if request.session.testsfailed > failures:
        boot(booted)


def have(lab: Lab, node: str) -> str:
    return lab.exec(node, ("sh", "-c", HAVE)).stdout


def envelope(lab: Lab, node: str, script: str) -> dict[str, Any]:
    """The JSON in the last line of a script's output."""
    done = lab.exec(node, ("bash", "-c", script))
    lines = done.stdout.splitlines()
    assert lines, done
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


def troubles(findings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [finding for finding in findings if finding["severity"] in ("warn", "fail")]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found_by_its_check_and_repaired_or_refused(cluster: Lab, name: str) -> None:
    fault, node = FAULTS[name], FAULTS[name].node
    if fault.spack and stack.no_spack() is not None:
        pytest.skip(str(stack.no_spack()))
    before = have(cluster, node)
    answer = envelope(cluster, node, f"{fault.make}\n{fault.petal} check --json")
    assert answer["status"] == "degraded", answer
    first = troubles(answer["data"]["findings"])[0]
    assert (first["check"], fault.words in first["message"] + first["why"]) == (fault.check, True), first
    assert first["remedy"]
    if fault.ends != "repaired":
        left = envelope(cluster, node, f"{fault.petal} repair --json")
        assert left["exit_code"] == 3, left
        again = troubles(left["data"]["findings"])[0]
        assert (again["check"], again["message"]) == (first["check"], first["message"])
        assert not [step for step in left["data"]["steps"] if step["outcome"] == "changed"], left
    if fault.ends == "refused":
        assert any(fault.try_ in line for line in first["remedy"]), first["remedy"]
        cluster.exec(node, ("sh", "-c", fault.back)).check()
        assert cluster.exec(node, ("petal-node", "check", "--quiet")).returncode == 0
    else:
        repaired = envelope(cluster, node, f"{fault.petal} repair {'--yes' if fault.ends == 'yes' else ''} --json")
        run = repaired["data"]
        changes = [(step["name"], step["outcome"], step["reason"]) for step in run["steps"] if step["outcome"] != "ok"]
        assert troubles(run["findings"]) == [], changes
        assert repaired["exit_code"] == 0, changes
        assert [step["name"] for step in run["steps"] if step["outcome"] == "changed"]
    assert have(cluster, node) == before


def test_hanging_mounts_over_storage_and_root_are_reported_with_the_umount_commands(cluster: Lab) -> None:
    """Every access to shared storage hangs, and check and repair still answer."""
    faults.require_fuse(cluster, C)
    before = have(cluster, C)
    faults.sh(cluster, C, faults.mount_bad_file_system("deaf", *faults.BOTH))
    try:
        answer = envelope(cluster, C, "petal-node check --json")
        first = troubles(answer["data"]["findings"])[0]
        assert (first["check"], "fuse.deaf" in first["message"]) == ("hidden-mounts", True), first
        refused = envelope(cluster, C, "petal-node repair --yes --json")
        assert (refused["exit_code"], troubles(refused["data"]["findings"])[0]["check"]) == (3, "hidden-mounts")
        for point in ("/shared", "/opt/petal"):
            named = troubles(envelope(cluster, C, "petal-node check --json")["data"]["findings"])[0]
            (command,) = (line.split("    ")[0] for line in named["remedy"] if line.startswith("umount"))
            assert command == f"umount --lazy {point}"
            faults.sh(cluster, C, command)
        repaired = envelope(cluster, C, "petal-node repair --json")
        assert (repaired["exit_code"], troubles(repaired["data"]["findings"])) == (0, [])
    finally:
        cluster.exec(C, ("sh", "-c", "systemctl stop badfs0 badfs1"))
    assert have(cluster, C) == before


SMALL = """
mount -t tmpfs -o size=96M small /mnt && mkdir -p /mnt/lib /mnt/scratch/spack/stage/x /var/cache/petal-node/scratch
cp -a /var/lib/petal-node/. /mnt/lib && mount --bind /mnt/lib /var/lib/petal-node
mount --bind /mnt/scratch /var/cache/petal-node/scratch
head -c 96M /dev/zero >/mnt/scratch/spack/stage/x/y; echo x >/var/lib/petal-node/full && exit 1
rm -f /var/lib/petal-node/full
"""
BIG = """
cp -a /mnt/lib /root/ && umount /var/lib/petal-node /var/cache/petal-node/scratch /mnt
cp -a /root/lib/. /var/lib/petal-node && rm -r /root/lib
"""


def test_repair_frees_a_disk_that_is_full_of_abandoned_builds(cluster: Lab) -> None:
    """The disk is so full that repair cannot write its record when it starts."""
    before = have(cluster, C)
    faults.sh(cluster, C, SMALL)
    try:
        repaired = envelope(cluster, C, "petal-node repair --json")
        assert (repaired["exit_code"], troubles(repaired["data"]["findings"])) == (0, [])
        kept = json.loads(cluster.exec(C, ("petal-node", "status", "--json")).stdout)["data"]["runs"]
        assert repaired["run_id"] in [run["run_id"] for run in kept]  # a record by a fast clock may be first
    finally:
        faults.sh(cluster, C, BIG)
    assert have(cluster, C) == before


@pytest.mark.parametrize("node", [H, C])
def test_repair_changes_nothing_on_a_healthy_node_and_users_can_work(cluster: Lab, node: str) -> None:
    before = have(cluster, node)
    planned = cluster.exec(node, ("petal-node", "repair", "--dry-run"))
    assert (planned.returncode, "~" in planned.stdout) == (0, False), planned
    done = envelope(cluster, node, "petal-node repair --deep --json")
    assert done["exit_code"] == 0
    assert {step["outcome"] for step in done["data"]["steps"]} <= {"ok", "skipped"}
    assert have(cluster, node) == before
    faults.assert_users_can_work(cluster, node)


def test_a_dry_run_prints_the_repairs_and_changes_nothing(cluster: Lab) -> None:
    faults.sh(cluster, C, "mv /etc/profile.d/zz-petal.sh /root/")
    planned = cluster.exec(C, ("petal-node", "repair", "--dry-run"))
    assert planned.returncode == 3
    assert "write /etc/profile.d/zz-petal.sh" in planned.stdout
    assert not cluster.exec(C, ("test", "-e", "/etc/profile.d/zz-petal.sh")).ok
    faults.sh(cluster, C, "mv /root/zz-petal.sh /etc/profile.d/")
    assert cluster.exec(C, ("petal-node", "repair"), user="ec2-user").returncode == 77


def test_a_damaged_package_stays_missing_until_it_can_be_built_again(cluster: Lab) -> None:
    if stack.no_spack() is not None:
        pytest.skip(str(stack.no_spack()))
    recipe = "$(find /opt/petal/spack -path '*/piece/package.py')"
    before = have(cluster, H)
    faults.sh(cluster, H, f"echo >>{PIECE}/bin/piece; cp {recipe} /root/; sed -i 's/mkdirp/no_such_thing/' {recipe}")
    try:
        failed = envelope(cluster, H, "petal-node repair --yes --json")
        outcomes = {step["name"]: step["outcome"] for step in failed["data"]["steps"]}
        assert (failed["exit_code"], outcomes["package-files"], outcomes["spack"]) == (
            1,
            "changed",
            "failed",
        ), outcomes
        (missing,) = (one for one in failed["data"]["findings"] if one["check"] == "spack")
        assert missing["severity"] == "fail"
    finally:
        faults.sh(cluster, H, f"cp /root/package.py {recipe}; rm /root/package.py")
    repaired = envelope(cluster, H, "petal-node repair --json")
    assert (repaired["exit_code"], troubles(repaired["data"]["findings"])) == (0, [])
    assert have(cluster, H) == before
