"""MPI between two compute nodes through Slurm (``check.mpi``): it works, and each fault gives an accurate finding.

Each fault is a real one on nodes that otherwise work: plugins, libraries and packets that are missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.lab import engine, faults, stack
from tests.lab.cluster import HOSTNAMES, Lab
from tests.lab.faults import sh

ONE, TWO = "compute-1", "compute-2"
BOTH = (ONE, TWO)
FIRST, SECOND = HOSTNAMES[ONE], HOSTNAMES[TWO]
CONFIG = "/root/mpi.json"
CHECK = {"load": ["openmpi"], "run": [], "mpi": True}
PREFIX = "/opt/amazon/openmpi"
HIDDEN = "/root/hidden"
PORTS = "1024-2000"  # the lowest port of Debian's Open MPI: btl_tcp_port_min_v4
MPICH = "/opt/mpich"
# As in proof.SCRIPT, with an MPI that has no module.
RANK = f"PATH={MPICH}/bin:$PATH exec petal-node mpi-rank"


class Broken(NamedTuple):
    """A fault: its nodes, the commands that inject and undo it, and texts of the finding."""

    nodes: Sequence[str]
    make: str
    back: str
    message: str
    why: str


def away(*files: str) -> tuple[str, str]:
    """Commands that move files and links (globs of a shell) away and back."""
    listed = " ".join(files)
    make = f"mkdir {HIDDEN} && for file in {listed}; do echo $file >>{HIDDEN}.list && mv $file {HIDDEN}/; done"
    back = f"while read -r file; do mv {HIDDEN}/${{file##*/}} $file; done <{HIDDEN}.list; rm -r {HIDDEN} {HIDDEN}.list"
    return make, back


PLUGIN = away("/usr/lib/*/slurm-wlm/mpi_pmix*.so")
LIBPMIX = away("$(readlink -f /usr/lib/*/pmix2/lib/libpmix.so.2)")
OWN = "/home/ec2-user/.pmix"
CLEAN = "/etc/profile.d/zzz-clean.sh"
LIBMPI = "$(readlink -f /usr/lib/*/libmpi.so.40)"
RULE = f"ip rule add pref 10 ipproto 6 {{}} {PORTS} blackhole"
WITHOUT_PMIX = f"mv {PREFIX}/lib {PREFIX}/hidden && ln -s {MPICH}/lib {PREFIX}/lib"
# A hang takes a minute: one is tested here, the other (no route to the node) in tests/unit/mpi_jobs/blackhole.txt.
FAULTS = {
    "no plugin anywhere": Broken(
        ("head", *BOTH), *PLUGIN, "Slurm: srun --mpi=list has no pmix plugin", "cannot find mpi plugin for mpi/pmix"
    ),
    "no plugin on the nodes": Broken(
        BOTH, *PLUGIN, f"Slurm: {FIRST} and {SECOND} did not start the task", "cannot find mpi plugin for mpi/pmix"
    ),
    "no libpmix on a node": Broken(
        (TWO,), *LIBPMIX, f"Slurm: {SECOND} did not start the task", "can not load PMIx library"
    ),
    "PMIx that cannot be used": Broken(
        (ONE,), f"mkdir {OWN} && echo psquash=none-of-these >{OWN}/mca-params.conf", f"rm -r {OWN}",
        "stopped in MPI_Init (Open MPI v4.1.4, PMIx 4.2.2", "pmix_psquash_base_select failed",
    ),
    "PMIx that a profile takes away": Broken(
        (TWO,), f"echo 'unset \"${{!PMIX_@}}\"' >{CLEAN}", f"rm {CLEAN}",
        f"PMIx: the rank on {SECOND} has no PMIX_RANK", "SLURM_MPI_TYPE is pmix",
    ),
    "unreadable library": Broken(
        BOTH, f"chmod 600 {LIBMPI}", f"chmod 644 {LIBMPI}",
        f"MPI: its library cannot be loaded on {FIRST}", "Permission denied",
    ),
    "missing dependency": Broken(
        (TWO,), *away("$(readlink -f /usr/lib/*/libopen-rte.so.40)"),
        f"MPI: its library cannot be loaded on {SECOND}", "libopen-rte.so.40: cannot open shared object file",
    ),
    "no library": Broken(
        BOTH, *away(f"{PREFIX}/lib/libmpi.so"),
        f"MPI: the module brings no MPI library on {FIRST}", f"no libmpi.so in {PREFIX}/lib, ",
    ),
    "Open MPI without its PMIx": Broken(
        (TWO,), *away("/usr/lib/*/openmpi/lib/openmpi3/mca_pmix_ext3x.so"),
        f"MPI: rank 1 on {SECOND} stopped in MPI_Init", "getting job size failed",
    ),
    "packets to MPI's ports refused": Broken(
        BOTH, RULE.format("dport"), "ip rule del pref 10",
        "stopped in the first exchange (MPI_Allreduce)", "Unable to connect to the peer",
    ),
    "packets from MPI's ports lost": Broken(
        BOTH, RULE.format("sport"), "ip rule del pref 10",
        "hangs in the first exchange (MPI_Allreduce)", "no end within 60 s",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def talking(cluster: Lab) -> Lab:
    """The cluster with its second compute node, configured to prove MPI."""
    for result in cluster.boot(TWO):
        result.check()
    cluster.wait_idle()
    engine.until(f"{TWO} is ready", lambda: faults.is_ready(cluster, TWO), 60)
    wanted = json.loads(cluster.read("head", "/shared/petal/state/desired.json"))["config"]
    cluster.write("head", CONFIG, json.dumps({**wanted, "check": {**wanted["check"], **CHECK}}))
    cluster.exec("head", ("petal-node", "bootstrap", "--config", CONFIG)).check()
    cluster.wait_idle()  # a proof of the boot service may still run
    return cluster


@pytest.fixture(scope="module")
def mpich(talking: Lab) -> Lab:
    """Debian's MPICH without PMIx on both nodes; only the library, because two MPIs cannot be installed in /usr."""
    if not shutil.which("apt-get"):
        pytest.skip("apt-get, which fetches Debian's libmpich12, is not installed")
    place = stack.lab_cache() / "debs-mpich"
    place.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(["apt-get", "-qq", "download", "libmpich12"], cwd=place, capture_output=True, check=False)
    package = next(iter(place.glob("libmpich12_4.0*.deb")), None)
    if package is None:
        pytest.skip(f"bookworm's libmpich12 cannot be fetched: {done.stderr.decode().strip()}")
    for node in BOTH:
        install(talking, node, package)
    return talking


def install(lab: Lab, node: str, package: Path) -> None:
    script = (
        f"cat >/root/mpich.deb && dpkg-deb -x /root/mpich.deb /root/mpich && mkdir -p {MPICH}/bin {MPICH}/lib && "
        f"cp -a /root/mpich/usr/lib/*/libmpich.so.12* {MPICH}/lib/ && ln -s /bin/true {MPICH}/bin/mpirun"
    )
    lab.exec(node, ("sh", "-c", script), stdin=package.read_bytes()).check()


def mpi_finding(lab: Lab) -> dict[str, Any]:
    """The MPI finding of ``check --nodes all``."""
    result = lab.exec("head", ("petal-node", "check", "--nodes", "all", "--json"))
    envelope = json.loads(result.stdout)
    (finding,) = envelope["data"]["between"]
    assert result.returncode in (0, 3), envelope
    assert result.returncode == 3 or finding["severity"] != "fail", envelope
    found: dict[str, Any] = finding
    return found


@contextmanager
def broken(lab: Lab, nodes: Sequence[str], make: str, back: str) -> Iterator[None]:
    """Inject a fault on some nodes and undo it; the last test verifies that MPI works again after all faults."""
    try:
        for node in nodes:
            sh(lab, node, make)
        yield
    finally:
        for node in nodes:
            sh(lab, node, back)
    lab.wait_idle()


def test_two_nodes_communicate_through_the_mpi_of_the_release(talking: Lab) -> None:
    finding = mpi_finding(talking)
    assert (finding["check"], finding["severity"]) == ("mpi:openmpi/4.1", "ok")
    assert finding["message"].startswith(f"2 ranks on {FIRST} and {SECOND} sent each other 4 MiB in 0.")
    assert "with Open MPI v4.1.4, PMIx 4.2.2" in finding["message"]
    text = talking.exec("head", ("petal-node", "check", "--nodes", "all")).check().stdout
    assert "between the nodes:\n  ok   mpi:openmpi/4.1: 2 ranks" in text


def test_the_job_runs_as_an_ordinary_user(talking: Lab) -> None:
    """The software runs like a user's job, without any variable of root in its environment."""
    seen = "/tmp/who-runs-mpi"
    script = f'[ -z "$SLURM_PROCID" ] || {{ id -un; env; }} >{seen}'
    with broken(talking, (ONE,), f"echo '{script}' >{CLEAN}", f"rm {CLEAN} {seen}"):
        mpi_finding(talking)
        user, *env = talking.read(ONE, seen).splitlines()
    assert user == "ec2-user"
    assert "HOME=/home/ec2-user" in env
    assert not [line for line in env if "root" in line]


@pytest.mark.parametrize("name", FAULTS)
def test_the_finding_names_the_fault(talking: Lab, name: str) -> None:
    nodes, make, back, message, why = FAULTS[name]
    with broken(talking, nodes, make, back):
        finding = mpi_finding(talking)
        in_log = talking.shell("head", finding["remedy"][1]).stdout if "slurmd.log" in finding["remedy"][1] else ""
    assert finding["severity"] == "fail"
    assert message in finding["message"], finding
    assert why in in_log or why in finding["why"], finding
    assert finding["message"].split(":")[0] in ("Slurm", "PMIx", "MPI")
    assert finding["remedy"][-1].startswith("srun --mpi=pmix -N2 -n2 -w "), finding


def test_the_finding_for_an_mpi_without_pmix_says_that_each_rank_is_alone(mpich: Lab) -> None:
    with broken(mpich, BOTH, WITHOUT_PMIX, f"rm {PREFIX}/lib && mv {PREFIX}/hidden {PREFIX}/lib"):
        finding = mpi_finding(mpich)
    assert finding["message"].startswith("MPI: each rank is alone: MPICH Version: 4.0.2 does not use the PMIx")
    assert f"MPI_Comm_size is 1 on {FIRST}" in finding["why"]


def test_ranks_of_mpich_communicate(mpich: Lab) -> None:
    """This is the other ABI, started by PMI-2, which this MPICH supports."""
    done = mpich.srun("--mpi=pmi2", "-N2", "-n2", "--chdir=/", "--export=HOME", "/bin/bash", "-lc", RANK).check()
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(line["rank"] for line in reports if line["stage"] == "done") == [0, 1]
    assert {line["size"] for line in reports if line["stage"] == "exchange"} == {2}
    assert {line["version"] for line in reports if line["stage"] == "init"} == {"MPICH Version: 4.0.2"}


def test_the_remedy_can_be_run(talking: Lab) -> None:
    nodes, make, back, *_ = FAULTS["unreadable library"]
    with broken(talking, nodes, make, back):
        finding = mpi_finding(talking)
        repeated = talking.shell("head", finding["remedy"][-1])
    assert "Permission denied" in repeated.stdout
    assert repeated.returncode == 1
    assert talking.shell("head", finding["remedy"][-1]).check().stdout.count('"stage": "done"') == 2


def test_no_mpi_job_is_started_with_one_usable_node(talking: Lab) -> None:
    state = "/opt/slurm/bin/scontrol update nodename=" + SECOND + " state="
    with broken(talking, ("head",), f"{state}drain reason=test", f"{state}resume"):
        result = talking.exec("head", ("petal-node", "check", "--nodes", "all", "--json"))
        (finding,) = json.loads(result.stdout)["data"]["between"]
    assert (finding["check"], finding["severity"]) == ("mpi", "skip")
    assert "two nodes of one queue are needed, and 1 can be used" in finding["message"]


def test_the_mpi_job_succeeds_after_all_faults_are_undone(talking: Lab) -> None:
    assert mpi_finding(talking)["severity"] == "ok"
