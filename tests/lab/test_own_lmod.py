"""Nodes whose image has Tcl environment-modules and no Lmod: the stack builds one, and each node has it on its disk.

And every way into a shell that a user has on such a node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab import own_lmod, stack
from tests.lab.cluster import NODES, Lab, Result
from tests.lab.demo import job
from tests.lab.layouts import S3, TCL_MODULES, bring_up, image_without_lmod
from tests.lab.test_product import answer, petal

COPY = "/opt/petal-node/lmod/in-use"
USER = ("runuser", "-u", "ec2-user", "--", "env", "-i", "HOME=/home/ec2-user", "USER=ec2-user", "PATH=/usr/bin:/bin")
# Loads a module of the release and one of the image's, and says where the program of the first lies.
LOADS = "module load null bzip2 && command -v bzip2 && module -t list"
# How a shell may begin on a node, and what it says is Lmod's in each.
WAYS = {
    "bash, login": ("bash", "-lc", LOADS),
    "bash, interactive": ("bash", "-ic", LOADS),
    "bash, a script in a login": ("bash", "-lc", f"bash -c '{LOADS}'"),
    "zsh, login": ("zsh", "-lc", LOADS),
    "zsh, interactive": ("zsh", "-ic", LOADS),
    "zsh, a script": ("zsh", "-c", LOADS),
    "tcsh, login": ("sh", "-c", "echo 'module load null bzip2; which bzip2; module -t list' | tcsh -l"),
    "tcsh, a script": ("tcsh", "-c", "module load null bzip2; which bzip2; module -t list"),
    "fish": ("fish", "-c", "module load null bzip2; and command -v bzip2; and module -t list"),
    "sh, with its line": ("dash", "-c", f". /etc/profile.d/zz-petal.sh; {LOADS}"),
}
JOBS = {
    "bash": LOADS,
    "bash -l": LOADS,
    "zsh": LOADS,
    "tcsh": "module load null bzip2\nwhich bzip2\nmodule -t list",
    "fish": LOADS.replace("&&", ";and"),
    "sh": f". /etc/profile.d/zz-petal.sh\n{LOADS}",
}


@pytest.fixture(scope="module")
def cluster(lab: Lab) -> Iterator[Lab]:
    """A cluster that has come up, and proved it."""
    reason = own_lmod.missing()
    if reason:
        pytest.skip(f"no real Spack: {reason}")
    lab.image = image_without_lmod(lab)
    try:
        lab.fresh()
        bring_up(lab, stack.lab_config(lab, spack=True, shown=own_lmod.SHOWN))
        yield lab
    finally:
        lab.image = None
        lab.fresh()


def root(lab: Lab, node: str, script: str) -> Result:
    """What root types."""
    return lab.exec(node, ("sh", "-c", script))


def typed(lab: Lab, node: str, *argv: str) -> str:
    """What a command says, stderr among it."""
    return lab.exec(node, ("sh", "-c", 'exec "$@" 2>&1', "sh", *argv)).check().stdout


def loads(said: str) -> bool:
    """What ``LOADS`` printed: the release's program, and both modules."""
    return "/opt/petal/store/" in said and {"null", "bzip2/1.0.8"} <= set(said.split())


def test_every_node_uses_its_own_copy_and_the_image_is_as_it_was(cluster: Lab) -> None:
    data = answer(petal(cluster, "head", "status", "--json"))["data"]
    assert data["proved"] == 2
    for node in NODES:
        command = cluster.exec(node, (*USER, "bash", "-lc", "echo $LMOD_CMD; module --version 2>&1")).check().stdout
        assert f"Version {own_lmod.VERSION}" in command
        assert command.startswith("/opt/petal-node/lmod/")
        leads = root(cluster, node, f"grep -rl -e /opt/petal/ -e /shared/petal {COPY}/; find {COPY}/ -lname '/*' -ls")
        assert leads.stdout == ""
        there = cluster.exec(node, ("dpkg-query", "-W", "-f", "${db:Status-Status}", TCL_MODULES)).check().stdout
        assert there == "installed"
        of_tcl = ". /usr/share/modules/init/sh; module load null; module list"
        assert "Currently Loaded Modulefiles" in cluster.exec(node, ("sh", "-c", f"({of_tcl}) 2>&1")).check().stdout


def test_real_spack_has_built_a_real_package_and_a_job_runs_it(cluster: Lab) -> None:
    """The stack comes from S3: Spack 1.1.1, the real recipe, Debian's tarball of the real source."""
    check = {"load": ["hello", "openmpi", "bzip2"], "run": ["hello", "mpirun --version", *stack.BZIP2.run]}
    assert job(cluster, {"check": check}).check().stderr.count("block-sorting file compressor.  Version 1.0.8") == 2
    shown = typed(cluster, "compute-1", *USER, "bash", "-lc", "module show bzip2")
    assert re.search(r"/opt/petal/store/linux-debian\d+-x86_64_v3/bzip2-1.0.8-", shown)
    assert petal(cluster, "head", "plan", "--exit-code").returncode == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_shell_on_a_node_loads_the_releases_modules_and_the_images(cluster: Lab, way: str) -> None:
    """With nothing in its environment from a shell before it."""
    said = typed(cluster, "compute-1", *USER, *WAYS[way])
    assert loads(said), said


@pytest.fixture(scope="module")
def jobs(cluster: Lab) -> dict[str, str]:
    """What each of ``JOBS`` printed. They are submitted from a login shell, as users do."""
    files = {program: f"/home/ec2-user/job-{number}" for number, program in enumerate(JOBS)}
    for program, file in files.items():
        cluster.write("head", file, f"#!/bin/{program}\n{JOBS[program]}\n")
    ids = "$(cd && for job in job-?; do sbatch --parsable -o $job.out $job; done | paste -sd:)"
    typed(cluster, "head", *USER, "bash", "-lc", f"srun --dependency=afterany:{ids} true")
    return {program: cluster.read("head", f"{file}.out") for program, file in files.items()}


@pytest.mark.parametrize("program", JOBS)
def test_a_batch_job_in_any_shell(jobs: dict[str, str], program: str) -> None:
    assert loads(jobs[program]), jobs[program]


@pytest.mark.parametrize("begins", ["bash -c", "bash -lc", "zsh -c", "fish -c"])
def test_srun_in_any_shell(cluster: Lab, begins: str) -> None:
    what = LOADS.replace("&&", ";and") if begins.startswith("fish") else LOADS
    said = typed(cluster, "head", *USER, "bash", "-lc", f"srun {begins} '{what}'")
    assert loads(said), said


def test_root_by_sudo_has_them_too_and_its_shell_looks_at_nothing_that_is_shared(cluster: Lab) -> None:
    assert loads(typed(cluster, "compute-1", *USER, "sudo", "-i", "bash", "-lc", LOADS))
    traced = "strace -f -e trace=%file -o /tmp/trace env -i HOME=/root bash -lc 'module --version' 2>/dev/null"
    root(cluster, "compute-1", traced).check()
    looked = root(cluster, "compute-1", "grep -c . /tmp/trace; grep -e '\"/opt/petal/' -e '\"/shared' /tmp/trace")
    number, *shared = looked.stdout.splitlines()
    assert int(number) > 50
    assert shared == []


def test_no_shell_starts_python_or_spack(cluster: Lab) -> None:
    login = " ".join((*USER, "bash", "-lc", "true"))
    root(cluster, "compute-1", f"strace -f -e trace=execve -o /tmp/execs {login}").check()
    started = root(cluster, "compute-1", "grep -o 'execve(\"[^\"]*' /tmp/execs").check().stdout.splitlines()
    assert any(line.endswith("/bash") for line in started)
    assert [line for line in started if "python" in line or "spack" in line] == []


def test_sh_without_the_line_has_no_module(cluster: Lab) -> None:
    """The other half of what docs/modules.md says of it."""
    assert cluster.exec("compute-1", (*USER, "dash", "-c", "module load bzip2")).returncode == 127


@pytest.fixture
def without_spack(cluster: Lab) -> Iterator[None]:
    """Nobody finds Spack, and the nodes may only read."""
    nodes = ("compute-1", "compute-2")
    root(cluster, "head", "mv /shared/petal/root/spack /shared/petal/root/.spack-away").check()
    for node in nodes:
        root(cluster, node, "mount -o remount,bind,ro /opt/petal").check()
    yield
    for node in nodes:
        root(cluster, node, "mount -o remount,bind,rw /opt/petal").check()
    root(cluster, "head", "mv /shared/petal/root/.spack-away /shared/petal/root/spack").check()


@pytest.mark.usefixtures("without_spack")
@pytest.mark.parametrize("user", ["ec2-user", "nobody"])
def test_a_job_needs_no_spack_and_writes_nothing(cluster: Lab, user: str) -> None:
    """And no home: that of ``nobody`` is not there."""
    assert not root(cluster, "compute-1", "ls -d /opt/petal/spack || touch /opt/petal/new").ok
    script = f"srun -N2 --chdir=/ bash -lc '{LOADS}; echo text | bzip2 | bunzip2'"
    said = typed(cluster, "head", "runuser", "-u", user, "--", "env", "-i", "PATH=/usr/bin:/bin", "bash", "-lc", script)
    assert loads(said), said
    assert said.count("text\n") == 2
    assert said.count("/opt/petal/store/") == 2


def test_a_missing_or_damaged_copy_is_repaired(cluster: Lab) -> None:
    broken = {
        "gone": f"rm -r $(readlink -f {COPY})",
        "half": f"rm -r {COPY}/.complete {COPY}/lua-*/lib",
        "without its link": f"rm {COPY}",
        "dead": f"chmod -x {COPY}/lmod-*/lmod/lmod/libexec/lmod",
    }
    for what, script in broken.items():
        root(cluster, "compute-1", script).check()
        assert not petal(cluster, "compute-1", "check").ok, what
        petal(cluster, "compute-1", "repair").check()
        petal(cluster, "compute-1", "check").check()


def test_a_damaged_archive_is_an_error_and_is_packed_again(cluster: Lab) -> None:
    archive = root(cluster, "head", "ls /opt/petal/releases/*/lmod/*/*.tar.gz").check().stdout.strip()
    root(cluster, "head", f"cp {archive} /tmp/before; truncate -s 100000 {archive}").check()
    root(cluster, "compute-2", f"rm -r $(readlink -f {COPY})").check()
    done = petal(cluster, "compute-2", "bootstrap", "--json")
    steps = {step["name"]: step for step in answer(done)["data"]["steps"]}
    assert (steps["lmod"]["outcome"], steps["lmod"]["error"]["code"]) == ("failed", "lmod-incomplete")
    (remedy, *_) = steps["lmod"]["error"]["remedy"]
    assert remedy.startswith(f"rm {archive};")
    root(cluster, "head", f"rm {archive}").check()
    petal(cluster, "head", "bootstrap").check()
    petal(cluster, "compute-2", "bootstrap").check()
    petal(cluster, "compute-2", "check").check()


def test_a_second_bootstrap_with_the_same_configuration_changes_nothing(cluster: Lab) -> None:
    """The head node's copy is no Lmod of its image's: the stack keeps its Lmod, and nothing changes."""
    before = answer(petal(cluster, "head", "status", "--json"))["data"]["current"]
    again = ("petal-node", "bootstrap", "--config", "s3://petal/petal-node/petal.yaml", "--json")
    done = cluster.exec("head", again, env=S3, timeout=120).check()
    run = json.loads(done.stdout)["data"]
    assert run["status"] == "ok", [step for step in run["steps"] if step["outcome"] == "changed"]
    assert answer(petal(cluster, "head", "status", "--json"))["data"]["current"] == before


def test_a_new_node_has_it_from_the_release_at_its_first_hook(cluster: Lab) -> None:
    cluster.replace("compute-1")
    cluster.boot("compute-1")
    assert loads(typed(cluster, "compute-1", *USER, "bash", "-lc", LOADS))
