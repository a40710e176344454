"""Real Spack and all of its recipes: the included stacks, and messages about seeds in petal's format."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.config.load import parse
from bootstrap.core.errors import SpackError
from bootstrap.core.model import Role
from bootstrap.core.options import Options
from bootstrap.engine.prepare import prepare
from bootstrap.host.system import System
from bootstrap.spack import environments
from bootstrap.spack.program import ensure
from bootstrap.spack.workspace import open_spack
from tests.lab import stack
from tests.spack.conftest import Site
from tests.spack.stacks import CASES, checked, recorded, shipped, solve
from tests.world import services

SEED = """
cluster: {name: chem, region: us-east-1}
compute: {head_node: t3.large, queues: [{name: c, instance_types: [c6a.4xlarge], min_count: 0, max_count: 4}]}
software:
  spack_packages: [scalapack@2.2.0, git@2.40.0, pnetcdf@1.12.3, bonnie++@2.00a, gcc@12.5.0, gcc@13.4.0, zlib]
users: [{name: user1, uid: 5001, gid: 5001}]
"""


@pytest.mark.usefixtures("full_recipes")
@pytest.mark.parametrize("name", shipped())
def test_every_spec_of_the_included_stacks_is_valid(name: str, tmp_path: Path) -> None:
    assert checked(name, tmp_path, stack.lab_cache() / "stacks") == {"problems": [], "advice": []}


def test_specs_of_the_starter_are_solved_with_the_recorded_versions(
    full_recipes: Path, clingo: list[Path], tmp_path: Path
) -> None:
    """With 8,000 recipes, the externals of a ParallelCluster image, and the scope of an install. To solve all specs of
    a stack takes minutes; ``make stacks`` does that."""
    case = next(case for case in CASES if case.machine == platform.machine())
    some = frozenset({"cmake", "openmpi"})
    solved = solve("starter", case, tmp_path, clingo, stack.lab_cache() / "stacks", some)
    roots = recorded()["starter"][case.name]["roots"]
    assert solved.roots == {name: roots[name] for name in some}
    assert "openmpi@5.0.6" in solved.externals


@pytest.mark.usefixtures("full_recipes")
def test_a_seed_is_a_valid_stack_and_unknown_names_get_suggestions(tmp_path: Path) -> None:
    (tmp_path / "seed.yaml").write_text(SEED)
    read = parse(f"stack: {tmp_path}/seed.yaml\nspack: {{source: /s, recipes: {{source: /r}}}}\n")
    specs = environments.load(read, tmp_path, None)["specs"]
    answer = checked("starter", tmp_path, stack.lab_cache() / "stacks", specs)
    assert answer["problems"] == [
        [1, "git has no version 2.40.0 (near it: git@2.40.4, git@2.48.1)"],
        [2, "there is no package pnetcdf, did you mean 'parallel-netcdf'?"],
        [3, "there is no package bonnie++, did you mean 'bonniepp'?"],
        [5, "gcc@13.4.0 and gcc@12.5.0 exclude each other in one stack (concretizer: unify: true)"],
    ]
    (advice,) = answer["advice"]
    assert advice.startswith("scalapack is provided by ")


def test_spack_also_refuses_two_versions_of_a_package(sites: Callable[[str], Site], tmp_path: Path) -> None:
    prefix = tmp_path / "head"
    (prefix / "shared").mkdir(parents=True)
    (tmp_path / "petal.yaml").write_text(sites("1.1.1").config)
    options = Options("plan", str(tmp_path / "petal.yaml"), root=prefix, role=Role.HEAD)
    ctx = prepare(options, services(System()))
    spack = open_spack(ctx, ctx.targets[0])
    ensure(spack.program, ctx.paths, None)
    spack.write_environment(["probe@1", "probe@:1"], {})
    spack.concretize()
    spack.write_environment(["probe@1", "probe@2"], {})
    with pytest.raises(SpackError) as caught:
        spack.concretize()
    assert caught.value.code == "spack-concretize"
