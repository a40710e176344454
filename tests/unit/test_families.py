"""Common properties and differences of the supported families of Spack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bootstrap.config.load import from_mapping, parse
from bootstrap.config.model import SPACK_VERSIONS, SpackConfig
from bootstrap.core.errors import ConfigError, SpackError
from bootstrap.host.files import sha256_of
from bootstrap.spack import program
from bootstrap.spack.externals import Compiler
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.scope import NOTHING, Places, Site, write_scope
from bootstrap.state.release import release_id
from tests.world import HOST, World, tarball

COMPILER = Compiler("12.2.0", {"c": "/usr/bin/gcc", "cxx": "/usr/bin/g++"})
# Spack's own defaults of these sections are replaced, not extended.
PINNED = {
    "bootstrap": ("sources:", "trusted:"),
    "config": ("build_stage:",),
    "modules": ("core_compilers:", "enable:", "exclude:", "hierarchy:"),
}


def scope(directory: Path, family: str) -> dict[str, Any]:
    places = Places(Path("/store"), Path("/modules"), Path("/recipes"), Path("/scratch"))
    write_scope(directory, places, Site(COMPILER, "x86_64_v3", {}, HOST), FAMILIES[family])
    return {path.stem: yaml.safe_load(path.read_text()) for path in directory.glob("*.yaml")}


def keys(value: Any) -> set[str]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return {*(value if isinstance(value, dict) else ()), *(key for item in inner for key in keys(item))}


def mistakes(text: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return {problem.path: problem.message for problem in caught.value.problems}


def test_every_version_has_an_adapter_and_every_adapter_a_version() -> None:
    assert set(SPACK_VERSIONS.values()) == set(FAMILIES)


def test_families_have_separate_stores() -> None:
    """Their databases have different formats, which tests/spack reads."""
    assert len({family.store for family in FAMILIES.values()}) == len(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_list_is_pinned(family: str, tmp_path: Path) -> None:
    found = scope(tmp_path, family)
    assert {"mirrors:", "repos:", "compilers:"} <= {key for content in found.values() for key in content}
    for section, names in PINNED.items():
        assert set(names) <= keys(found[section]), section


@pytest.mark.parametrize("family", FAMILIES)
def test_every_section_of_the_scope_replaces_lower_scopes(family: str, tmp_path: Path) -> None:
    found = scope(tmp_path, family)
    nothing = {path.stem: yaml.safe_load(path.read_text()) for path in (tmp_path / NOTHING).glob("*.yaml")}
    assert set(found) <= set(nothing)
    assert {section: content for section, content in nothing.items() if any(content.values())} == {}
    assert all(list(content) == [f"{section}:"] for section, content in nothing.items())


def test_compilers_are_written_in_the_format_of_the_family(tmp_path: Path) -> None:
    old, new = scope(tmp_path / "old", "0.23"), scope(tmp_path / "new", "1.1")
    (entry,) = old["compilers"]["compilers:"]
    assert entry["compiler"]["spec"] == "gcc@=12.2.0"
    assert entry["compiler"]["operating_system"] == HOST.os
    assert entry["compiler"]["paths"] == {"cc": "/usr/bin/gcc", "cxx": "/usr/bin/g++", "f77": None, "fc": None}
    assert "gcc" not in old["packages"]["packages"]
    assert new["compilers"]["compilers:"] == []
    (external,) = new["packages"]["packages"]["gcc"]["externals"]
    assert external["spec"] == "gcc@12.2.0 languages='c,c++'"


@pytest.mark.parametrize("version", ["0.22.3", "0.23.1", "0.23", "1.0.0", "1.1", "1.2.0", "develop"])
def test_an_unsupported_version_is_refused_with_the_supported_ones(version: str) -> None:
    output = mistakes(f"spack: {{version: '{version}'}}")["spack.version"]
    assert version in output
    assert "0.23.0 or 1.1.1" in output


def test_recipes_are_required_only_if_spack_does_not_include_them() -> None:
    assert "spack.recipes" in mistakes("spack: {source: /s, specs: [zlib]}")["spack"]
    assert "spack.recipes" not in mistakes("spack: {version: 0.23.0, specs: [zlib]}")["spack"]
    text = "spack: {version: 0.23.0, source: /s, specs: [zlib]}"
    config = parse(text)
    assert config.spack.recipes is None
    assert from_mapping(config.to_dict()) == config
    output = mistakes("spack: {version: 0.23.0, source: /s, recipes: {source: /r}, specs: [zlib]}")
    assert "includes its recipes" in output["spack.recipes"]


def test_another_version_of_spack_changes_the_release() -> None:
    texts = (
        "spack: {source: /s, recipes: {source: /r}, specs: [a]}",
        "spack: {version: 0.23.0, source: /s, specs: [a]}",
    )
    assert len({release_id(parse(text), HOST, {}, "") for text in texts}) == 2


@pytest.mark.parametrize("recipes", [True, False])
def test_recipes_of_0_23_are_in_its_own_tree(recipes: bool, tmp_path: Path) -> None:
    files = {"spack-0.23.0/lib/spack/spack/__init__.py": '__version__ = "0.23.0"\n'}
    if recipes:
        files["spack-0.23.0/var/spack/repos/builtin/repo.yaml"] = "repo: {}\n"
    archive = tarball(tmp_path / "spack.tar.gz", files)
    text = f"spack: {{version: 0.23.0, source: {archive}, sha256: {sha256_of(archive)}, specs: [zlib]}}"
    world = World(tmp_path / "node", config_text=text)
    found = program.locate(world.config, world.paths)
    assert found.tree == world.paths.root / "spack" / f"0.23.0-{sha256_of(archive)[:12]}"
    assert found.recipes == found.tree / "var/spack/repos/builtin"
    if recipes:
        program.ensure(found, world.paths, None)
        assert program.is_ready(found)
    else:
        with pytest.raises(SpackError) as caught:
            program.ensure(found, world.paths, None)
        assert caught.value.code == "spack-source"
        assert caught.value.remedy == ("use a release of github.com/spack/spack",)


@pytest.mark.parametrize(
    ("version", "python", "remedy"),
    [
        ("0.23.0", (3, 14), ("use spack.version 1.1.1", "install python3.13 on the head node and set PETAL_PYTHON")),
        ("1.1.1", (3, 15), ("install python3.14 on the head node and set PETAL_PYTHON",)),
    ],
)
def test_a_python_that_is_too_new_for_spack_is_reported_before_spack_runs(
    version: str, python: tuple[int, int], remedy: tuple[str, ...]
) -> None:
    with pytest.raises(SpackError) as caught:
        program._check_python(SpackConfig(version), python)
    assert caught.value.code == "spack-python"
    assert caught.value.remedy == remedy
    program._check_python(SpackConfig(version), (python[0], python[1] - 1))
