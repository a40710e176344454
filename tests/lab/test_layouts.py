"""The layouts: build a machine image, start a cluster from it, change the layout; no package is built twice."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import stack_lmod
from tests.lab.cluster import NODES, Lab, Result
from tests.lab.layouts import BUILDER, LMOD, S3, TCL_MODULES, bake, bring_up, config_of, image_without_lmod
from tests.lab.test_product import answer, petal

PROGRAM = r"""
#include <stdio.h>
#include <sigsegv.h>
int main(void) { printf("libsigsegv %d.%d\n", libsigsegv_version >> 8, libsigsegv_version & 255); return 0; }
"""
JOB = r"""
cd "$(mktemp -d)" && module load libsigsegv && top=$LIBSIGSEGV_ROOT
gcc ~/uses.c -o uses -I"$top/include" -L"$top/lib" -lsigsegv -Wl,-rpath,"$top/lib" && ./uses
"""
RECIPE = f"""
from spack_repo.builtin.build_systems.generic import Package

from spack.package import *


class Own(Package):
    has_code = False
    version("1")
    depends_on("c", type="build")
    depends_on("libsigsegv")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("uses.c", "w") as file:
            file.write(r'''{PROGRAM}''')
        Executable(spack_cc)("uses.c", "-lsigsegv", "-o", join_path(prefix.bin, "own"))
"""
BUILDS = "module load spack && spack repo add ~/spack_repo/own && spack install own && module load own && own"
LOADS = "module load spack && module load own && own && spack find --format '{name} {prefix}' libsigsegv own"
COMPUTES = ("compute-1", "compute-2")


@pytest.fixture(scope="module")
def baked(lab: Lab) -> Iterator[Lab]:
    """A cluster with the layout ``ami``, whose nodes start from an image that includes the release."""
    reason = stack_lmod.missing()
    if reason:
        pytest.skip(reason)
    lab.image = image_without_lmod(lab)
    lab.fresh()
    config = config_of(lab)
    assert bake(lab, "hybrid", config) == {
        "self-install": "changed", "spack-program": "changed", "lmod": "skipped", "shell": "skipped",
    }  # fmt: skip
    assert not lab.exec(BUILDER, ("test", "-e", "/opt/petal")).ok
    outcomes = bake(lab, "ami", config)
    assert {name for name, outcome in outcomes.items() if outcome == "changed"} == {
        "root", "packages", "spack", "lmod-pack", "lmod", "module-tree", "publish", "shell",
    }  # fmt: skip
    assert not lab.exec(BUILDER, ("test", "-e", "/shared/petal")).ok
    lab.image = lab.bake(BUILDER)
    try:
        lab.fresh()
        bring_up(lab, {**config_of(lab), "layout": "ami"})
        yield lab
    finally:
        lab.image = None
        lab.fresh()
        subprocess.run(["docker", "image", "rm", "-f", f"{lab.name}-baked"], check=True, stdout=subprocess.DEVNULL)


def typed(lab: Lab, config: dict[str, Any], verb: str) -> Result:
    """Run a verb on the head node with another configuration."""
    lab.write("head", "/tmp/typed.yaml", json.dumps(config))
    argv = ("petal-node", verb, "--config", "/tmp/typed.yaml", "--json")
    return lab.exec("head", argv, env=S3, timeout=200)


def switch(lab: Lab, layout: str) -> Result:
    """Change the layout on the head node, let the other nodes follow, and prove it by a job on both compute nodes."""
    done = typed(lab, {**current_config(lab), "layout": layout}, "bootstrap").check()
    for node in NODES[1:]:
        petal(lab, node, "bootstrap").check()
    petal(lab, "head", "check", "--nodes", "all").check()
    return done


def current_config(lab: Lab) -> dict[str, Any]:
    config: dict[str, Any] = answer(petal(lab, "head", "plan", "--json"))["data"]["config"]
    return config


def built(lab: Lab, node: str = "head") -> str:
    """The build time of the libsigsegv that users see."""
    script = "cat /opt/petal/store/linux-*/libsigsegv-2.14-*/.spack/install_times.json"
    return lab.exec(node, ("sh", "-c", script)).check().stdout


def is_mount(lab: Lab, node: str) -> bool:
    return lab.exec(node, ("mountpoint", "-q", "/opt/petal")).ok


def test_a_cluster_uses_the_release_of_its_image(baked: Lab) -> None:
    data = answer(petal(baked, "head", "status", "--json"))["data"]
    assert data["proved"] == 2, data["proof"]
    assert not any(is_mount(baked, node) for node in NODES)
    assert baked.exec("head", ("sh", "-c", "ls -A /shared/petal/root/store")).check().stdout == ""
    steps = {step["name"]: step for step in answer(petal(baked, "head", "plan", "--json"))["data"]["steps"]}
    assert steps["spack"]["reason"] == "the machine image contains it"
    assert steps["root"]["reason"].startswith("the machine image has release ")


def test_the_image_includes_the_stacks_lmod_and_keeps_environment_modules(baked: Lab) -> None:
    """``module`` is Lmod's, also in a nested shell, and reads Tcl modules. No distribution package was installed."""
    for node in NODES:
        query = ("dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", TCL_MODULES, *LMOD)
        packages = [line for line in baked.exec(node, query).stdout.splitlines() if not line.endswith("not-installed")]
        assert packages == [f"{TCL_MODULES} installed"]
        command = baked.shell(node, "bash -lc 'echo $LMOD_CMD'").check().stdout
        assert command.startswith("/opt/petal-node/lmod/"), command
        script = "bash -lc 'module --version; module load null libsigsegv; module list; printenv LIBSIGSEGV_ROOT' 2>&1"
        output = baked.shell(node, script).check().stdout
        assert "Modules based on Lua" in output
        assert "/opt/petal/store/" in output
        assert {"null", "libsigsegv/2.14"} <= set(output.split())
        of_tcl = ". /usr/share/modules/init/sh; module load null; module list"
        assert "Currently Loaded Modulefiles" in baked.exec(node, ("sh", "-c", f"({of_tcl}) 2>&1")).check().stdout


def test_a_users_job_compiles_and_runs_a_program_with_a_library_of_spack(baked: Lab) -> None:
    """On a compute node the compiler finds the library by the module's variables, and the program finds it too."""
    baked.write("head", "/home/ec2-user/uses.c", PROGRAM)
    done = baked.srun("-w", "queue1-st-c5-1", "bash", "-lc", JOB)
    assert done.check().stdout == "libsigsegv 2.14\n"


def test_a_user_installs_a_package_in_a_job_and_runs_it_on_another_node(baked: Lab) -> None:
    """Spack, the store and its library are the image's; the user's package goes into the user's home."""
    repo = "/home/ec2-user/spack_repo/own"
    baked.write("head", f"{repo}/repo.yaml", "repo: {namespace: own, api: v2.0}\n")
    baked.write("head", f"{repo}/packages/own/package.py", RECIPE)
    built = baked.srun("-w", "queue1-st-c5-1", "bash", "-lc", BUILDS).check().stdout
    assert built.splitlines()[-1] == "libsigsegv 2.14"
    assert_own_runs(baked)


def assert_own_runs(lab: Lab) -> None:
    found = lab.srun("-w", "queue1-st-c5-2", "bash", "-lc", LOADS).check().stdout
    version, *lines = found.splitlines()
    assert version == "libsigsegv 2.14"
    places = dict(line.split() for line in lines)
    assert places["libsigsegv"].startswith("/opt/petal/store/")
    assert places["own"].startswith("/home/ec2-user/spack/1.1/store/")


def test_a_release_that_is_missing_in_the_image_is_not_installed_on_the_head_only(baked: Lab) -> None:
    config = current_config(baked)
    other = {**config, "packages": config["packages"][:1], "check": {}}
    done = typed(baked, other, "plan")
    root = next(step for step in answer(done)["data"]["steps"] if step["name"] == "root")
    assert root["outcome"] == "blocked"
    assert "the machine image has release" in root["reason"]
    assert "bootstrap --layout ami" in root["remedy"][0]


def test_an_image_build_on_a_cluster_node_is_refused(baked: Lab) -> None:
    done = petal(baked, "head", "bootstrap", "--layout", "ami")
    assert done.returncode == 2
    assert "this is the head node of a cluster" in done.stderr


def test_a_change_of_the_layout_builds_nothing(baked: Lab) -> None:
    before, release = built(baked), answer(petal(baked, "head", "status", "--json"))["data"]["current"]
    moved = switch(baked, "shared")
    steps = {step["name"]: step["outcome"] for step in answer(moved)["data"]["steps"]}
    assert (steps["seed-from-image"], steps["root"], steps["spack"], steps["packages"]) == (
        "changed",
        "changed",
        "ok",
        "ok",
    )
    assert all(is_mount(baked, node) for node in NODES)
    assert {built(baked, node) for node in NODES} == {before}
    assert_own_runs(baked)
    switch(baked, "hybrid")
    assert built(baked) == before
    switch(baked, "ami")
    assert not any(is_mount(baked, node) for node in NODES)
    assert {built(baked, node) for node in NODES} == {before}
    assert answer(petal(baked, "head", "status", "--json"))["data"]["current"] == release


def test_the_layout_hybrid_installs_with_the_images_spack(baked: Lab) -> None:
    """The objects of Spack, recipes and clingo are removed, so no other source exists."""
    config = current_config(baked)
    for origin in (config["spack"], config["spack"]["recipes"], *config["spack"]["clingo"]):
        bucket, _, key = origin["source"].removeprefix("s3://").partition("/")
        baked.delete(bucket, key)
    config = {**config, "layout": "hybrid", "packages": config["packages"][:1], "check": {"run": ["hello"]}}
    done = typed(baked, config, "bootstrap").check()
    assert answer(done)["data"]["status"] == "changed"
    assert baked.exec("head", ("sh", "-c", "ls -A /opt/petal/spack")).check().stdout == ""
