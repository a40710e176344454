"""Real Spack uses the store of a deleted head node, and builds further packages on top of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bootstrap.core.model import Outcome, RunRecord
from bootstrap.core.paths import Paths
from bootstrap.host.files import remove_tree
from bootstrap.state.release import current_release
from tests.lab.recipes import PACKAGES
from tests.spack.conftest import RECIPE, Site
from tests.spack.test_spack import bootstrap, steps, store_of


def new_head(prefix: Path) -> None:
    """A new head node of the cluster with a new disk; only shared storage remains of the previous one."""
    for path in prefix.iterdir() if prefix.is_dir() else ():
        if path.name != "shared":
            remove_tree(path)
    dna = prefix / "etc" / "chef" / "dna.json"
    dna.parent.mkdir(parents=True)
    dna.write_text(json.dumps({"cluster": {"stack_name": "demo", "region": "us-east-1", "node_type": "HeadNode"}}))


def spack_ran(prefix: Path) -> bool:
    return bool(list(Paths(prefix).log.parent.rglob("spack-*.log")))


def made(store: Path) -> dict[str, int]:
    """Every prefix with the time of its newest file, in nanoseconds."""
    return {path.parts[-3]: path.stat().st_mtime_ns for path in store.glob("linux-*/*/.spack/install_manifest.json")}


@pytest.fixture
def site(sites: Callable[[str], Site], tmp_path: Path) -> Site:
    """A site with a second recipe, of an independent package."""
    site = sites("1.1.1")
    (tree,) = (tmp_path / "recipes").iterdir()
    recipe = PACKAGES.recipe(tree / PACKAGES.repository, "extra")
    recipe.parent.mkdir()
    recipe.write_text(RECIPE.format(imports=PACKAGES.imports).replace("class Probe", "class Extra"))
    return site


def test_a_store_from_a_snapshot_is_used_and_extended(site: Site, tmp_path: Path) -> None:
    prefix = tmp_path / "head"
    new_head(prefix)
    first = bootstrap(prefix, site.config)
    assert first.status.value == "changed", first
    before = made(store_of(prefix, "1.1.1"))

    _assert_the_same_release_is_found(prefix, site, first, before)
    _assert_another_release_builds_new_packages_only(prefix, site, first, before)


def _assert_the_same_release_is_found(prefix: Path, site: Site, first: RunRecord, before: dict[str, int]) -> None:
    new_head(prefix)
    again = bootstrap(prefix, site.config)
    assert {
        name: step.outcome for name, step in steps(again).items() if name in ("spack", "module-tree", "publish")
    } == {
        "spack": Outcome.OK,
        "module-tree": Outcome.OK,
        "publish": Outcome.OK,
    }
    assert again.release == first.release
    assert not spack_ran(prefix)
    assert made(store_of(prefix, "1.1.1")) == before


def _assert_another_release_builds_new_packages_only(
    prefix: Path, site: Site, first: RunRecord, before: dict[str, int]
) -> None:
    new_head(prefix)
    more = site.config.replace("specs: [probe]", "specs: [probe, extra]")
    upgraded = bootstrap(prefix, more)
    assert steps(upgraded)["spack"].outcome is Outcome.CHANGED, upgraded
    after = made(store_of(prefix, "1.1.1"))
    assert {name: after[name] for name in before} == before
    assert [name.rpartition("-")[0] for name in set(after) - set(before)] == ["extra-2"]
    paths = Paths(prefix)
    assert current_release(paths) == upgraded.release != first.release
    back = bootstrap(prefix, site.config)
    assert steps(back)["spack"].outcome is steps(back)["module-tree"].outcome is Outcome.OK
    assert current_release(paths) == first.release
