"""Specs against recipes: versions as Spack orders them, what a recipe says without being run, and who is told what."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bootstrap.core.errors import ConfigError, ExitCode, SpackError
from bootstrap.core.model import Outcome, Status, Verdict
from bootstrap.engine import converge as engine
from bootstrap.engine.run import exit_of
from bootstrap.spack.program import ensure, locate
from bootstrap.spack.vet.preflight import MEMORY, check_memory
from bootstrap.spack.vet.recipes import Repository
from bootstrap.spack.vet.specs import Node, read_spec
from bootstrap.spack.vet.versions import nearest, takes
from bootstrap.spack.vet.vetting import Vetting, expanded
from bootstrap.steps.spack import SpackStack
from tests.world import World, with_spack

GIT = """
from spack_repo.builtin.build_systems.autotools import AutotoolsPackage
from spack.package import *

class Git(AutotoolsPackage):
    version("main", branch="main")
    version("2.48.1", sha256="0")
    version("2.40.4", sha256="0")
    with default_args(deprecated=True):
        version("2.39.1", sha256="0")
        version("2.39.2", sha256="0", deprecated=False)
    version("2.30.0", sha256="0", deprecated=True)
    variant("tcltk", default=False, description="gui")
"""
COMPUTED = """
class Computed(Package):
    for release in ("1", "2"):
        version(release, sha256="0")
        variant("of" + release, default=True, description="")
"""
CHILD = """
from ..git.package import Git

class GitChild(Git):
    version("3", sha256="0")
"""
BUNDLE = 'class Meta(BundlePackage):\n    version("1")\n'
SCALAPACK = (
    'class NetlibScalapack(Package):\n    version("2.2", sha256="0")\n    provides("scalapack@2:", when="@2:")\n'
)
MODERN = {
    "git": GIT,
    "computed": COMPUTED,
    "git_child": CHILD,
    "_7zip": 'class _7zip(Package):\n    version("16", sha256="0")\n',
    "_pass": 'class Pass(Package):\n    version("1.7", sha256="0")\n',
    "meta": BUNDLE,
    "netlib_scalapack": SCALAPACK,
    "py_multiqc": 'class PyMultiqc(PythonPackage):\n    version("1.28", sha256="0")\n',
    "broken": "class Broken(:\n",
}


def write(root: Path, packages: dict[str, str], api: str) -> Repository:
    (root / "packages").mkdir(parents=True)
    (root / "repo.yaml").write_text(f"repo:\n  namespace: builtin\n{api}")
    for name, text in packages.items():
        (root / "packages" / name).mkdir()
        (root / "packages" / name / "package.py").write_text(text)
    return Repository(root)


@pytest.fixture
def modern(tmp_path: Path) -> Repository:
    root = tmp_path / "repos" / "spack_repo" / "builtin"
    repository = write(root, MODERN, "  api: v2.2\n")
    (root / "packages" / "__init__.py").touch()
    (root / "build_systems").mkdir()
    variant = 'class AutotoolsPackage:\n    variant("from_autotools", default=True, description="")\n'
    (root / "build_systems" / "autotools.py").write_text(variant)
    return repository


@pytest.fixture
def older(tmp_path: Path) -> Repository:
    """The layout of 0.23: names as they are, build systems in Spack itself."""
    text = GIT.replace("from spack_repo.builtin.build_systems.autotools import AutotoolsPackage\n", "")
    child = CHILD.replace("from ..git.package", "from spack.pkg.builtin.git")
    packages = {"git": text, "git-child": child, "7zip": MODERN["_7zip"]}
    repository = write(tmp_path / "spack" / "var" / "spack" / "repos" / "builtin", packages, "")
    systems = tmp_path / "spack" / "lib" / "spack" / "spack" / "build_systems"
    systems.mkdir(parents=True)
    (systems / "cuda.py").write_text('class CudaPackage:\n    variant("cuda", default=False, description="")\n')
    return repository


# -------------------------------------------------------------------------------------------------------- versions


@pytest.mark.parametrize(
    ("constraint", "fitting", "others"),
    [
        ("3.10", ["3.10", "3.10.19", "3.10.0rc1"], ["3.1", "3.11", "3.100"]),
        ("1.2:", ["1.2", "1.3", "2", "main", "develop"], ["1.1", "1.2rc1", "alpha"]),
        (":1.4", ["1.4", "1.4.9", "0.1"], ["1.5", "main"]),
        ("1.2:1.4", ["1.2", "1.3", "1.4.5"], ["1.1.9", "1.5"]),
        (":", ["1", "main"], []),
        ("=1.2", ["1.2", "1_2"], ["1.2.0", "1.2.1"]),
        ("1.2,1.4", ["1.2.9", "1.4"], ["1.3"]),
        ("1.2, 2:", ["1.2.9", "2.1"], ["1.3"]),
        ("main", ["main"], ["1.0", "master", "develop"]),
        ("1.2b", ["1.2b", "1.2b3"], ["1.2a", "1.2c", "1.2"]),
        ("1.2beta", ["1.2beta"], ["1.2", "1.2beta0", "1.2beta1"]),
        ("git.abc=1.2", ["9"], []),
        ("a" * 40, ["9"], []),
    ],
)
def test_a_constraint_takes_what_spack_takes(constraint: str, fitting: list[str], others: list[str]) -> None:
    assert [version for version in [*fitting, *others] if takes(constraint, version)] == fitting


def test_the_nearest_versions_are_those_beside_and_the_newest() -> None:
    known = ["main", "1.0", "2.40.4", "2.39.4", "2.48.1", "2.41"]
    assert nearest("2.40.0", known) == ("2.39.4", "2.40.4", "2.48.1")
    assert nearest("=9", known) == ("2.48.1",)
    assert nearest("1", ["main"]) == ()


# ----------------------------------------------------------------------------------------------------------- specs


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("git@2.40.0", [Node("git", "2.40.0")]),
        ("hdf5@1.14, 1.12: +mpi~szip api=v18", [Node("hdf5", "1.14, 1.12:", ("mpi", "szip", "api"))]),
        ("a@1 ^b@=2 fabrics=ofi %gcc@9 +of_gcc", [Node("a", "1"), Node("b", "=2", ("fabrics",))]),
        ("a ^[virtuals=mpi] mpich@3 ^blas=openblas", [Node("a"), Node("mpich", "3"), Node("openblas")]),
        ("a cflags='-O3 -g' ++b c==d", [Node("a", "", ("cflags",))]),
        ("builtin.a@git.main=1.2", [Node("builtin.a", "git.main=1.2")]),
        ("a@1.2: target=x86_64_v3", [Node("a", "1.2:", ("target",))]),
        ("a b", []),
        ("^a", []),
        ("a/abcdef", []),
        ("./a.json", []),
        ("a@", []),
        ("a+", []),
    ],
)
def test_a_spec_is_read_or_left_to_spack(text: str, nodes: list[Node]) -> None:
    assert list(read_spec(text)) == nodes


# --------------------------------------------------------------------------------------------------------- recipes


def test_a_recipe_is_read_without_being_run(modern: Repository) -> None:
    git = modern.recipe("git")
    assert git is not None
    assert git.versions == {
        "main": False,
        "2.48.1": False,
        "2.40.4": False,
        "2.39.1": True,
        "2.39.2": False,
        "2.30.0": True,
    }
    assert {"tcltk", "from_autotools"} <= git.variants
    assert git.versions_known
    assert git.variants_known


def test_what_is_computed_is_not_known(modern: Repository) -> None:
    for name in ("computed", "broken"):
        recipe = modern.recipe(name)
        assert recipe is not None
        assert not recipe.versions_known
        assert not recipe.variants_known


@pytest.mark.parametrize("layout", ["modern", "older"])
def test_both_layouts(layout: str, request: pytest.FixtureRequest) -> None:
    repository: Repository = request.getfixturevalue(layout)
    child, zip7 = repository.recipe("git-child"), repository.recipe("7zip")
    assert child is not None
    assert zip7 is not None
    assert {"3", "2.48.1"} <= set(child.versions)
    assert "tcltk" in child.variants
    assert set(zip7.versions) == {"16"}


def test_spack_0_23_brings_every_build_system_to_every_recipe(older: Repository) -> None:
    git = older.recipe("git")
    assert git is not None
    assert "cuda" in git.variants


def test_names_that_python_reserves(modern: Repository) -> None:
    assert {"pass", "7zip", "netlib-scalapack"} <= modern.names
    assert modern.recipe("pass") is not None
    assert modern.recipe("netlib_scalapack") is None
    assert modern.recipe("../git") is None


# --------------------------------------------------------------------------------------------------------- vetting


def test_every_mistake_of_every_spec_is_told_with_its_place(modern: Repository) -> None:
    specs = ["git@2.40.0", "multiqc", "gti", "git@2.30.0", "git+tcltkk", "meta ^git@7", "git@=2.40.1"]
    assert Vetting(modern).judge(expanded("spack.specs", specs)).mistakes == (
        ("spack.specs[0]", "git has no version 2.40.0 (near it: git@2.39.2, git@2.40.4, git@2.48.1)"),
        ("spack.specs[1]", "there is no package multiqc, did you mean 'py-multiqc'?"),
        ("spack.specs[2]", "there is no package gti, did you mean 'git'?"),
        (
            "spack.specs[3]",
            "git 2.30.0 is deprecated, and Spack does not take it (near it: git@2.39.2, git@2.48.1)",
        ),
        ("spack.specs[4]", "git has no variant tcltkk, did you mean 'tcltk'?"),
        ("spack.specs[5]", "git has no version 7 (near it: git@2.48.1)"),
        ("spack.specs[6]", "git has no version 2.40.1 (near it: git@2.39.2, git@2.40.4, git@2.48.1)"),
    )


@pytest.mark.parametrize(
    "spec",
    [
        "git", "git@2.40", "git@2.39", "git@main", "git@git.v9", "git@git.v9=9", "git@:2.48 +tcltk target=zen3",
        "builtin.git",
        "other.git@9", "computed@9+x", "broken@9+x", "meta@=9", "git cflags=-O3 build_system=autotools", "scalapack@2",
        "git %nosuch@9", "git ++nosuch", "git@9 /abc", "git@2.30:", "$nosuch", "meta ^scalapack",
    ],
)  # fmt: skip
def test_no_claim_is_made_of_what_may_be_right(spec: str, modern: Repository) -> None:
    assert Vetting(modern).judge(expanded("spack.specs", [spec])).mistakes == ()


def test_a_virtual_package_is_no_mistake_and_named(modern: Repository) -> None:
    verdict = Vetting(modern).judge(expanded("spack.specs", ["scalapack", "git"]))
    assert verdict.mistakes == ()
    assert verdict.advice == ("scalapack is what netlib-scalapack provide, and Spack would choose: name one",)


def test_two_versions_of_one_package_are_no_stack(modern: Repository) -> None:
    specs = ["git@2.48.1", "git@2.40:", "git+tcltk", "git@2.40.4", "git@99", "computed@1", "computed@2"]
    judged = Vetting(modern).judge_stack(expanded("s", specs))
    said = dict(judged.mistakes)
    assert said.pop("s[3]") == "git@2.40.4 cannot stand beside git@2.48.1 in one stack"
    assert set(said) == {"s[4]"}, "and that one does not exist"
    assert not Vetting(modern, {"git": ["9.1"]}).judge_stack(expanded("s", ["git@9", "git@9.1"])).mistakes


def test_names_that_others_use_lead_to_spacks_own(modern: Repository) -> None:
    (modern.root / "packages" / "bonniepp").mkdir()
    said = dict(Vetting(modern).judge(expanded("s", ["bonnie++@2.00a", "pnetcdf", "x++@1"])).mistakes)
    assert said["s[0]"] == "there is no package bonnie++, did you mean 'bonniepp'?"
    assert "parallel-netcdf" not in said["s[1]"], "which these recipes do not have"
    assert "s[2]" not in said, "what cannot be read is Spack's to judge"


def test_what_the_system_carries_counts_as_a_version(modern: Repository) -> None:
    judged = Vetting(modern, {"git": ["9.1", "2.30.0"]}).judge(expanded("s", ["git@9", "git@2.30.0", "git@8"]))
    assert [place for place, _ in judged.mistakes] == ["s[2]"]


def test_definitions_are_followed_and_matrices_are_not() -> None:
    definitions = [{"tools": ["a@1", "$more"]}, {"more": ["b", "$tools"]}, {"never": ["c"]}]
    found = [(asked.place, asked.text) for asked in expanded("s", ["$tools", {"matrix": [["x"]]}, "d"], definitions)]
    assert found == [
        ("s: definitions tools[0]", "a@1"),
        ("s: definitions tools: definitions more[0]", "b"),
        ("s[2]", "d"),
    ]


# -------------------------------------------------------------------------------------------------------- the step


def fetched(world: World) -> None:
    ctx = world.context
    ensure(ctx.config, locate(ctx.config, ctx.paths), ctx.paths, None)


def test_plan_and_run_refuse_before_anything_is_solved(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw@9.9, fttw]")
    world = World(tmp_path / "node", config_text=text, environment={"specs": ["ftw"]})
    assert SpackStack().probe(world.context).verdict is Verdict.CHANGE  # no recipes here yet
    with pytest.raises(ConfigError) as caught:
        SpackStack().apply(world.context)
    assert caught.value.code == "spec-unknown"
    assert caught.value.exit is ExitCode.CONFIG
    assert [path for path, _ in caught.value.problems] == ["stack none: specs[0]", "spack.specs[0]", "spack.specs[1]"]
    assert not [argv for argv in world.system.commands if "concretize" in argv]

    probe = SpackStack().probe(world.context)
    assert probe.verdict is Verdict.BLOCKED
    assert probe.error is not None
    assert probe.error["code"] == "spec-unknown"
    reports = engine.plan([SpackStack()], world.context)
    assert engine.status_of(reports) is Status.FAILED
    assert exit_of(reports, Status.FAILED) == ExitCode.CONFIG
    assert engine.converge([SpackStack()], world.context, lambda _: None)[0].outcome is Outcome.BLOCKED


def test_what_is_right_is_planned(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    fetched(world)
    assert SpackStack().probe(world.context).changes == ("install fftw",)


def test_externals_and_the_compiler_are_versions_too(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw@9.9]")
    packages = {"fftw": {"externals": [{"spec": "fftw@9.9", "prefix": "/usr"}], "version": ["9.8"]}}
    world = World(tmp_path / "node", config_text=text, environment={"packages": packages})
    fetched(world)
    assert SpackStack().probe(world.context).verdict is Verdict.CHANGE


def test_a_lockfile_is_believed_whatever_the_recipes_say(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    SpackStack().apply(world.context)
    world.system.memory = 0
    for recipe in world.paths.root.rglob("packages/fftw/package.py"):
        recipe.write_text("")
    shutil.rmtree(world.paths.store)
    SpackStack().apply(world.context)


@pytest.mark.parametrize(
    ("recipes", "memory", "refused"),
    [(9, 64 << 20, False), (9, 0, True), (8200, MEMORY - 1, True), (9000, MEMORY, False)],
)
def test_memory_is_asked_for_by_the_number_of_recipes(
    recipes: int, memory: int, *, refused: bool, tmp_path: Path
) -> None:
    root = tmp_path / "builtin"
    (root / "packages").mkdir(parents=True)
    (root / "repo.yaml").write_text("repo: {}\n")
    for number in range(recipes):
        (root / "packages" / f"p{number}").mkdir()
    world = World(tmp_path / "node")
    world.system.memory = memory
    if not refused:
        check_memory(world.context, root)
        return
    with pytest.raises(SpackError) as caught:
        check_memory(world.context, root)
    assert caught.value.code == "spack-memory"
    assert caught.value.remedy
