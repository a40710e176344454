"""What petal-node says of specs, against real Spack: every claim that it makes is one that Spack makes too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootstrap.spack.vet.recipes import Repository
from bootstrap.spack.vet.versions import takes
from bootstrap.spack.vet.vetting import Asked, Vetting
from tests.lab import stack
from tests.spack.conftest import spack_tree

# One recipe of so many is compared; Spack takes minutes to load all 8,600, where the same was found with each release.
EVERY = int(os.environ.get("PETAL_COMPARE_EVERY", "25"))
# Spack's own reading without its solver: what input_spec_version_check and its like ask (lib/spack/.../asp.py).
ORACLE = """
import json, sys
import spack.repo, spack.spec, spack.version
asked = json.load(open(sys.argv[1]))
said = {"packages": {}, "specs": {}, "versions": {}}
names = sorted(spack.repo.PATH.all_package_names(include_virtuals=True))  # else it loads every recipe to tell them
said["names"] = names
said["virtuals"] = [
    virtual for virtual, provider in asked["virtuals"].items()
    if virtual in spack.repo.PATH.get_pkg_class(provider).provided_virtual_names()
]
for name in names[:: asked["every"]]:
    recipe = spack.repo.PATH.get_pkg_class(name)
    said["packages"][name] = {
        "versions": {str(version): bool(info.get("deprecated")) for version, info in recipe.versions.items()},
        "variants": list(recipe.variant_names()),
        "provides": list(recipe.provided_virtual_names()),
    }
def right(text):
    for node in spack.spec.Spec(text).traverse():
        if node.name in said["virtuals"]:
            continue
        if not spack.repo.PATH.exists(node.name):
            return False
        recipe = spack.repo.PATH.get_pkg_class(node.name)
        usable = [version for version, info in recipe.versions.items() if not info.get("deprecated")]
        if not any(version.satisfies(node.versions) for version in usable):
            return False
        try:
            spack.spec.Spec.ensure_valid_variants(node)
        except spack.error.SpackError:
            return False
    return True
for text in asked["specs"]:
    said["specs"][text] = right(text)
for constraint, version in asked["versions"]:
    fits = spack.version.Version(version).satisfies(spack.version.VersionList([spack.version.ver(constraint)]))
    said["versions"][constraint + " " + version] = fits
json.dump(said, open(sys.argv[2], "w"))
"""
# As petal's seeds ask for them, and more: right ones and wrong ones.
SPECS = (Path(__file__).parent / "specs.txt").read_text(encoding="utf-8").split()
CONSTRAINTS = (
    "1.2", "1.2:", ":1.2", "1.2:1.4", "=1.2", "1.2,2", "1.2b", "1.2beta", "1.2rc1:", ":1.2alpha2", "main",
    ":develop", "2023-01", "1.2-3:", ":", "a",
)  # fmt: skip
VERSIONS = (
    "1", "1.1", "1.2", "1.2.0", "1.2.9", "1.20", "1.3", "1.4.5", "1.5", "2", "1.2b", "1.2b3", "1.2c", "1.2beta",
    "1.2beta0", "1.2beta1", "1.2-rc1", "1.2rc2", "1.2alpha", "1_2", "1.2-3", "1.2-4", "main", "develop", "master",
    "stable", "2023-01", "2023-01-02", "2023-02", "a", "b", "1.z",
)  # fmt: skip


def oracle(tree: Path, repository: Repository, place: Path) -> dict[str, Any]:
    """Asks real Spack, whose bytecode is kept between runs."""
    recipes = repository.root
    virtuals = {virtual: providers[0] for virtual, providers in repository.virtuals.items()}
    asked = {
        "every": EVERY,
        "virtuals": virtuals,
        "specs": SPECS,
        "versions": [[c, v] for c in CONSTRAINTS for v in VERSIONS],
    }
    (place / "asked.json").write_text(json.dumps(asked))
    (place / "ask.py").write_text(ORACLE)
    scope = place / "scope"
    scope.mkdir()
    repos: Any = {"builtin": str(recipes)} if "spack_repo" in recipes.parts else [str(recipes)]
    (scope / "repos.yaml").write_text(json.dumps({"repos:": repos}))
    (scope / "config.yaml").write_text(json.dumps({"config": {"misc_cache": str(place / "misc")}}))
    env = {
        "PATH": "/usr/bin:/bin", "HOME": str(place), "LANG": "C.UTF-8", "SPACK_PYTHON": sys.executable,
        "SPACK_DISABLE_LOCAL_CONFIG": "1",
        "SPACK_USER_CACHE_PATH": str(place / "user"), "PYTHONPYCACHEPREFIX": str(stack.lab_cache() / "pycache"),
    }  # fmt: skip
    argv = [str(tree / "bin" / "spack"), "-C", str(scope), "python", str(place / "ask.py")]
    argv += [str(place / "asked.json"), str(place / "said.json")]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, Any] = json.loads((place / "said.json").read_text())
    return said


@pytest.fixture(scope="module", params=["1.1.1", "0.23.0"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repository, dict[str, Any]]:
    """The recipes, and what Spack says of them."""
    tree = spack_tree(request.param)
    recipes = tree / "var" / "spack" / "repos" / "builtin"
    if request.param == "1.1.1":
        recipes = tree.with_name(stack.RECIPES) / "repos" / "spack_repo" / "builtin"
    if not recipes.is_dir():
        pytest.skip(f"no recipes for Spack {request.param}: {recipes} is not there (make spack fetches them)")
    repository = Repository(recipes)
    return repository, oracle(tree, repository, tmp_path_factory.mktemp("oracle"))


def test_the_same_packages_are_known(both: tuple[Repository, dict[str, Any]]) -> None:
    repository, said = both
    virtuals = set(said["virtuals"])
    assert len(said["names"]) > 8000
    assert repository.names == set(said["names"])
    assert set(repository.virtuals) == virtuals
    provided = {virtual for facts in said["packages"].values() for virtual in facts["provides"]}
    assert provided <= virtuals
    assert len(virtuals) > 40


def test_no_version_and_no_variant_that_spack_has_is_ever_called_unknown(
    both: tuple[Repository, dict[str, Any]],
) -> None:
    repository, said = both
    vetting = Vetting(repository)
    known = 0
    for name, facts in said["packages"].items():
        specs = [f"{name}@={version}" for version, deprecated in facts["versions"].items() if not deprecated]
        specs += [f"{name} {variant}=x" for variant in facts["variants"]]
        assert vetting.judge(Asked(name, spec) for spec in specs).mistakes == ()
        recipe = repository.recipe(name)
        assert recipe is not None
        known += recipe.versions_known and recipe.variants_known
        if recipe.versions_known:
            assert set(facts["versions"]) <= set(recipe.versions), name
    assert known > 0.97 * len(said["packages"])  # so that keeping silent is no way to be right


def test_every_verdict_is_spacks(both: tuple[Repository, dict[str, Any]]) -> None:
    repository, said = both
    vetting = Vetting(repository)
    ours = {spec: not vetting.judge([Asked("s", spec)]).mistakes for spec in SPECS}
    assert {spec for spec, right in ours.items() if not right and said["specs"][spec]} == set(), "false alarms"
    missed = {spec for spec, right in ours.items() if right and not said["specs"][spec]}
    computed = {spec for spec in missed if not getattr(repository.recipe(spec.split("@")[0]), "versions_known", True)}
    assert missed == computed
    assert sum(not right for right in ours.values()) > 15


def test_constraints_take_the_versions_that_spack_takes(both: tuple[Repository, dict[str, Any]]) -> None:
    _, said = both
    ours = {f"{c} {v}": takes(c, v) for c in CONSTRAINTS for v in VERSIONS}
    assert ours == said["versions"]
