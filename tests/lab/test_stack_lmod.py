"""Nodes whose image has Tcl environment-modules and no Lmod: the stack builds Lmod, each node copies it to its disk.

The tests load modules in every kind of shell on such a node.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.lab import stack, stack_lmod
from tests.lab.cluster import NODES, Lab, Result
from tests.lab.demo import job
from tests.lab.layouts import S3, TCL_MODULES, bring_up, image_without_lmod
from tests.lab.test_product import answer, petal

COPY = "/opt/petal-node/lmod/in-use"
USER = ("runuser", "-u", "ec2-user", "--", "env", "-i", "HOME=/home/ec2-user", "USER=ec2-user", "PATH=/usr/bin:/bin")
# Loads a module of the release and one of the image, and prints the path of the first one's program.
LOADS = "module load null bzip2 && command -v bzip2 && module -t list"
# The ways to start a shell on a node.
WAYS = {
    "bash, login": ("bash", "-lc", LOADS),
    "bash, interactive": ("bash", "-ic", LOADS),
    "bash, a command over ssh": ("env", "SSH_CLIENT=192.0.2.1 5 22", "SHLVL=0", "bash", "-c", LOADS),
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
    """A booted and proved cluster."""
    reason = stack_lmod.missing()
    if reason:
        pytest.skip(reason)
    lab.image = image_without_lmod(lab)
    try:
        lab.fresh()
        bring_up(lab, stack.lab_config(lab, spack=True, shown=stack_lmod.SHOWN))
        yield lab
    finally:
        lab.image = None
        lab.fresh()


def root(lab: Lab, node: str, script: str) -> Result:
    """Run a script as root."""
    return lab.exec(node, ("sh", "-c", script))


def typed(lab: Lab, node: str, *argv: str) -> str:
    """Return stdout and stderr of a command."""
    return lab.exec(node, ("sh", "-c", 'exec "$@" 2>&1', "sh", *argv)).check().stdout


def loaded_both(output: str) -> bool:
    """Return whether the output of ``LOADS`` has the release's program and both modules."""
    return "/opt/petal/store/" in output and {"null", "bzip2/1.0.8"} <= set(output.split())


def test_every_node_uses_its_own_copy_and_the_image_is_unchanged(cluster: Lab) -> None:
    data = answer(petal(cluster, "head", "status", "--json"))["data"]
    assert data["proved"] == 2
    for node in NODES:
        command = cluster.exec(node, (*USER, "bash", "-lc", "echo $LMOD_CMD; module --version 2>&1")).check().stdout
        assert f"Version {stack_lmod.VERSION}" in command
        assert command.startswith("/opt/petal-node/lmod/")
        leads = root(cluster, node, f"grep -rl -e /opt/petal/ -e /shared/petal {COPY}/; find {COPY}/ -lname '/*' -ls")
        assert leads.stdout == ""
        there = cluster.exec(node, ("dpkg-query", "-W", "-f", "${db:Status-Status}", TCL_MODULES)).check().stdout
        assert there == "installed"
        of_tcl = ". /usr/share/modules/init/sh; module load null; module list"
        assert "Currently Loaded Modulefiles" in cluster.exec(node, ("sh", "-c", f"({of_tcl}) 2>&1")).check().stdout


def test_a_job_runs_a_real_package_that_real_spack_has_built(cluster: Lab) -> None:
    """The stack comes from S3: Spack 1.1.1, the real recipe, Debian's tarball of the real source."""
    check = {"load": ["hello", "openmpi", "bzip2"], "run": ["hello", "mpirun --version", *stack.BZIP2.run]}
    assert job(cluster, {"check": check}).check().stderr.count("block-sorting file compressor.  Version 1.0.8") == 2
    shown = typed(cluster, "compute-1", *USER, "bash", "-lc", "module show bzip2")
    assert re.search(r"/opt/petal/store/linux-debian\d+-x86_64_v3/bzip2-1.0.8-", shown)
    assert petal(cluster, "head", "plan", "--exit-code").returncode == 0


@pytest.mark.parametrize("way", WAYS)
def test_a_shell_loads_modules_of_the_release_and_of_the_image(cluster: Lab, way: str) -> None:
    """The environment has no variables of an earlier shell."""
    output = typed(cluster, "compute-1", *USER, *WAYS[way])
    assert loaded_both(output), output


@pytest.fixture(scope="module")
def jobs(cluster: Lab) -> dict[str, str]:
    """The output of each of ``JOBS``, submitted from a login shell, as users do."""
    files = {program: f"/home/ec2-user/job-{number}" for number, program in enumerate(JOBS)}
    for program, file in files.items():
        cluster.write("head", file, f"#!/bin/{program}\n{JOBS[program]}\n")
    ids = "$(cd && for job in job-?; do sbatch --parsable -o $job.out $job; done | paste -sd:)"
    typed(cluster, "head", *USER, "bash", "-lc", f"srun --dependency=afterany:{ids} true")
    return {program: cluster.read("head", f"{file}.out") for program, file in files.items()}


@pytest.mark.parametrize("program", JOBS)
def test_a_batch_job_loads_modules_in_any_shell(jobs: dict[str, str], program: str) -> None:
    assert loaded_both(jobs[program]), jobs[program]


@pytest.mark.parametrize("begins", ["bash -c", "bash -lc", "zsh -c", "fish -c"])
def test_srun_loads_modules_in_any_shell(cluster: Lab, begins: str) -> None:
    what = LOADS.replace("&&", ";and") if begins.startswith("fish") else LOADS
    output = typed(cluster, "head", *USER, "bash", "-lc", f"srun {begins} '{what}'")
    assert loaded_both(output), output


def test_a_root_shell_loads_modules_and_its_start_reads_nothing_on_shared_storage(cluster: Lab) -> None:
    assert loaded_both(typed(cluster, "compute-1", *USER, "sudo", "-i", "bash", "-lc", LOADS))
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


def test_a_non_login_sh_has_no_module_command(cluster: Lab) -> None:
    """docs/modules.md documents a line for such shells."""
    assert cluster.exec("compute-1", (*USER, "dash", "-c", "module load bzip2")).returncode == 127


@pytest.fixture
def without_spack(cluster: Lab) -> Iterator[None]:
    """Hide Spack, and mount the root read-only on the nodes."""
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
def test_a_job_runs_without_spack_and_with_a_read_only_root(cluster: Lab, user: str) -> None:
    """It needs no home directory either: one of the users has none."""
    assert not root(cluster, "compute-1", "ls -d /opt/petal/spack || touch /opt/petal/new").ok
    script = f"srun -N2 --chdir=/ bash -lc '{LOADS}; echo text | bzip2 | bunzip2'"
    output = typed(
        cluster, "head", "runuser", "-u", user, "--", "env", "-i", "PATH=/usr/bin:/bin", "bash", "-lc", script
    )
    assert loaded_both(output), output
    assert output.count("text\n") == 2
    assert output.count("/opt/petal/store/") == 2


def test_a_missing_or_damaged_copy_is_repaired(cluster: Lab) -> None:
    damages = {
        "missing": f"rm -r $(readlink -f {COPY})",
        "incomplete": f"rm -r {COPY}/.complete {COPY}/lua-*/lib",
        "without its link": f"rm {COPY}",
        "not executable": f"chmod -x {COPY}/lmod-*/lmod/lmod/libexec/lmod",
    }
    for name, script in damages.items():
        root(cluster, "compute-1", script).check()
        assert not petal(cluster, "compute-1", "check").ok, name
        petal(cluster, "compute-1", "repair").check()
        petal(cluster, "compute-1", "check").check()


def test_a_damaged_lmod_archive_is_reported_and_packed_again_after_its_removal(cluster: Lab) -> None:
    archive = root(cluster, "head", "ls /opt/petal/releases/*/lmod/*/*.tar.gz").check().stdout.strip()
    root(cluster, "head", f"cp {archive} /tmp/before; truncate -s 100000 {archive}").check()
    root(cluster, "compute-2", f"rm -r $(readlink -f {COPY})").check()
    done = petal(cluster, "compute-2", "bootstrap", "--json")
    steps = {step["name"]: step for step in answer(done)["data"]["steps"]}
    assert (steps["lmod"]["outcome"], steps["lmod"]["error"]["code"]) == ("failed", "lmod-incomplete")
    assert steps["lmod"]["error"]["remedy"][0] == f"rm {archive}"
    root(cluster, "head", f"rm {archive}").check()
    petal(cluster, "head", "bootstrap").check()
    petal(cluster, "compute-2", "bootstrap").check()
    petal(cluster, "compute-2", "check").check()


def test_a_second_bootstrap_with_the_same_configuration_changes_nothing(cluster: Lab) -> None:
    """The head node's copy does not count as an Lmod of the image, so the stack keeps its Lmod."""
    before = answer(petal(cluster, "head", "status", "--json"))["data"]["current"]
    again = ("petal-node", "bootstrap", "--config", "s3://petal/petal-node/petal.yaml", "--json")
    done = cluster.exec("head", again, env=S3, timeout=120).check()
    run = json.loads(done.stdout)["data"]
    assert run["status"] == "ok", [step for step in run["steps"] if step["outcome"] == "changed"]
    assert answer(petal(cluster, "head", "status", "--json"))["data"]["current"] == before


def test_a_new_node_gets_lmod_from_the_release_in_its_first_hook(cluster: Lab) -> None:
    cluster.replace("compute-1")
    cluster.boot("compute-1")
    assert loaded_both(typed(cluster, "compute-1", *USER, "bash", "-lc", LOADS))
