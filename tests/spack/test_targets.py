"""Real Spack 1.1.1 builds for the CPUs of the queues: enforced targets, a module tree per target, preferred GPUs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cluster.targets import UNKNOWN_TO_SPACK, own_cpu, runnable
from bootstrap.core.model import Outcome, Role, RunRecord, StepReport
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.engine.run import run
from bootstrap.host.files import sha256_of
from bootstrap.host.system import System
from bootstrap.state.release import read_manifest
from tests.lab import recipes
from tests.spack.conftest import VERSIONS, Site, spack_tree
from tests.world import services

RUNS = iter(range(1000))
QUEUES = "Scheduling: {Scheduler: slurm, SlurmQueues: [%s]}\n"
QUEUE = "{Name: %s, ComputeResources: [{Name: r, InstanceType: %s}]}"
GPU_APP = """\
from spack_repo.builtin.build_systems.bundle import BundlePackage
from spack_repo.builtin.build_systems.cuda import CudaPackage

from spack.package import *


class GpuApp(BundlePackage, CudaPackage):
    version("1")
    conflicts("cuda_arch=none", when="+cuda")
"""
CHOICES = """\
{imports}from spack.package import *


class Probe(Package):
    has_code = False
    version("1")
    variant("asked", default=False)
    variant("liked", default=False)
    variant("cuda_arch", default="none", values=("none", "80", "90"), multi=True)

    def install(self, spec, prefix):
        touch(prefix.done)
"""
BUNDLE = """\
from spack_repo.builtin.build_systems.bundle import BundlePackage

from spack.package import *


class {name}(BundlePackage):
    version("{version}")
{more}"""
CUDA = """\
    variant("allow-unsupported-compilers", default=False)
"""


def bootstrap(prefix: Path, config: str, *queues: tuple[str, str]) -> RunRecord:
    """Run the head node below ``prefix`` in a cluster with these queues."""
    (prefix / "shared").mkdir(parents=True, exist_ok=True)
    cluster = prefix / "opt/parallelcluster/shared/cluster-config.yaml"
    cluster.parent.mkdir(parents=True, exist_ok=True)
    cluster.write_text(QUEUES % ", ".join(QUEUE % queue for queue in queues))
    path = prefix.with_suffix(".yaml")
    path.write_text(config)
    options = Options("bootstrap", str(path), root=prefix, role=Role.HEAD)
    return run(options, services(System(), run_id=f"targets-{next(RUNS)}"))


def steps(record: RunRecord) -> dict[str, StepReport]:
    return {step.name: step for step in record.steps}


def concrete(lockfile: Path) -> dict[str, Any]:
    """The concrete specs of a lockfile by name."""
    return {spec["name"]: spec for spec in json.loads(lockfile.read_text())["concrete_specs"].values()}


def target_of(spec: dict[str, Any]) -> str:
    target = spec["arch"]["target"]
    return str(target["name"] if isinstance(target, dict) else target)


def needs(*targets: str) -> None:
    if os.uname().machine != "x86_64" or not set(targets) <= set(runnable(own_cpu())):
        pytest.skip(f"the CPU of this machine does not support {' and '.join(targets)}")


def test_a_list_of_targets_builds_a_module_tree_for_each_in_one_store(config_text: str, tmp_path: Path) -> None:
    needs("x86_64_v3", "x86_64_v2")
    prefix, config = tmp_path / "head", config_text + "  target: [x86_64_v3, x86_64_v2]\n"
    record = bootstrap(prefix, config, ("q1", "c6a.large"))
    assert record.status.value == "changed", record
    assert record.release is not None

    paths = Paths(prefix)
    manifest = read_manifest(paths, record.release)
    assert manifest is not None
    assert [tree.target for tree in manifest.trees] == ["x86_64_v3", "x86_64_v2"]
    prefixes = set()
    for tree in manifest.trees:
        assert [module.name for module in tree.modules] == ["libsigsegv/2.14", "spack/1.1.1"]
        text = (paths.current / "modules" / tree.name / tree.modules[0].path).read_text()
        (package,) = [
            path for path in paths.store.glob(f"linux-*-{tree.target}/libsigsegv-2.14-*") if str(path) in text
        ]
        prefixes.add(package)
        built = concrete(paths.release(record.release) / f"spack-{tree.target}.lock")
        assert target_of(built["libsigsegv"]) == tree.target
    assert len(prefixes) == 2

    again = bootstrap(prefix, config, ("q1", "c6a.large"))
    assert again.release == record.release
    assert {step.outcome for step in again.steps} <= {Outcome.OK, Outcome.SKIPPED}


@pytest.fixture
def gpu_config(config_text: str, full_recipes: Path, small_recipes: Path, tmp_path: Path) -> str:
    """A stack of a package with CUDA, one without, and one with another requirement."""
    tree = tmp_path / "recipes" / "tree"
    recipes.subset(full_recipes, tree, ("libsigsegv",))
    own = tree / "repos/spack_repo/builtin/packages"
    texts = {"gpu_app": GPU_APP, "cuda": BUNDLE.format(name="Cuda", version="12.8", more=CUDA)}
    texts["tied_app"] = BUNDLE.format(name="TiedApp", version="1", more="")
    for name, text in texts.items():
        (own / name).mkdir()
        (own / name / "package.py").write_text(text)
    archive = tmp_path / "recipes" / "recipes.tar.gz"
    recipes.pack(tree, archive)
    environment = tmp_path / "spack.yaml"
    environment.write_text(
        environment.read_text()
        .replace("[libsigsegv@2.14]", "[libsigsegv@2.14, gpu-app+cuda, tied-app]")
        .replace("packages: {", 'packages: {tied-app: {require: ["@1"]}, ')
    )
    text = config_text.replace(str(small_recipes), str(archive))
    return text.replace(sha256_of(small_recipes), sha256_of(archive))


def test_the_target_auto_is_common_to_all_queues_and_their_gpus_are_preferred(gpu_config: str, tmp_path: Path) -> None:
    needs("x86_64_v3")
    prefix = tmp_path / "head"
    record = bootstrap(prefix, gpu_config, ("q1", "p4d.24xlarge"), ("q2", "p5.48xlarge"), ("q3", "c7i.large"))
    assert record.status.value == "changed", record
    assert record.release is not None
    specs = concrete(Paths(prefix).release(record.release) / "spack.lock")
    assert {target_of(specs[name]) for name in ("libsigsegv", "gpu-app", "tied-app")} == {"x86_64_v3"}
    assert sorted(specs["gpu-app"]["parameters"]["cuda_arch"]) == ["80", "90"]
    assert "cuda_arch" not in specs["libsigsegv"]["parameters"]

    plain = bootstrap(tmp_path / "other", gpu_config, ("q1", "c6a.large"))
    assert plain.release != record.release
    error = steps(plain)["spack"].error
    assert error is not None, "gpu-app+cuda needs a cuda_arch, and no queue has a GPU"
    assert "cuda_arch" in error["why"]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_requirement_of_a_stack_for_all_packages_is_combined_with_ours(
    version: str, sites: Callable[[str], Site], tmp_path: Path
) -> None:
    """The stack's requirement is a string. Spack would replace it by our list instead of joining both."""
    needs("x86_64_v3")
    site = sites(version)
    site.add("probe", CHOICES)
    site.add("other", CHOICES.replace("Probe", "Other"))
    packages = {"all": {"require": "+asked", "variants": "+liked"}, "other": {"require": "~asked"}}
    environment = tmp_path / "spack.yaml"
    environment.write_text(json.dumps({"spack": {"specs": ["probe", "other"], "packages": packages}}))
    prefix, config = tmp_path / "head", f"stack: {environment}\n{site.config}"
    record = bootstrap(prefix, config, ("q1", "p4d.24xlarge"), ("q2", "c6a.large"))
    assert record.status.value == "changed", record
    assert record.release is not None
    specs = concrete(Paths(prefix).release(record.release) / "spack.lock")
    chosen = {
        name: {key: specs[name]["parameters"][key] for key in ("asked", "liked", "cuda_arch")}
        for name in ("probe", "other")
    }
    assert chosen == {
        "probe": {"asked": True, "liked": True, "cuda_arch": ["80"]},
        "other": {"asked": False, "liked": True, "cuda_arch": ["80"]},
    }
    assert {target_of(specs[name]) for name in chosen} == {"x86_64_v3"}


def test_exactly_the_names_missing_in_spacks_archspec_are_refused() -> None:
    import archspec.cpu

    table = spack_tree("1.1.1") / "lib/spack/spack/vendor/archspec/json/cpu/microarchitectures.json"
    names = json.loads(table.read_text())["microarchitectures"]
    assert set(archspec.cpu.TARGETS) - set(names) == UNKNOWN_TO_SPACK
