"""Real Spack of both families: a real package from its real recipe, a second run that finds it, and errors."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.config.model import SPACK_VERSIONS
from bootstrap.core.errors import ExitCode
from bootstrap.core.model import Outcome, Role, RunRecord, Status, StepReport
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.engine.run import run
from bootstrap.host.system import System
from bootstrap.spack import database
from bootstrap.spack.driver import failure
from bootstrap.spack.families import FAMILIES
from bootstrap.spack.lockfile import locked_specs
from tests.golden import compare_with_golden, lua_error
from tests.lab import stack
from tests.spack.conftest import RECIPE, VERSIONS, Site, spack_tree
from tests.world import services

# The formats are incompatible (lib/spack/spack/database.py: _DB_VERSION), so each family has a separate store.
DATABASE = {"0.23.0": "7", "1.1.1": "8"}
GOLDEN = Path(__file__).with_name("golden")
RUNS = iter(range(1000))
BOTH = pytest.mark.parametrize("version", VERSIONS)


def bootstrap(
    prefix: Path,
    config: str,
    notes: list[str] | None = None,
    printed: Callable[[str], None] | None = None,
    image: str | None = None,
) -> RunRecord:
    """Run the head node below ``prefix``; append the name of each printed step to ``printed``."""
    (prefix / "shared").mkdir(parents=True, exist_ok=True)
    path = prefix.with_suffix(".yaml")
    path.write_text(config)
    options = Options("bootstrap", str(path), root=prefix, role=Role.HEAD, layout=image)
    said = notes if notes is not None else []
    listen = (lambda step: printed(step.name)) if printed else lambda _: None
    return run(options, services(System(), run_id=f"run-{next(RUNS)}", listen=listen, note=said.append))


def repair(prefix: Path, *, yes: bool = False) -> RunRecord:
    options = Options("repair", root=prefix, role=Role.HEAD, yes=yes)
    return run(options, services(System(), run_id=f"run-{next(RUNS)}"))


def steps(record: RunRecord) -> dict[str, StepReport]:
    return {step.name: step for step in record.steps}


@pytest.fixture
def poisoned(config_text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home directory whose Spack configuration breaks every Spack that reads it.

    Args:
        config_text: must exist, because its files are below the real home directory.
    """
    home = tmp_path / "home"
    (home / ".spack").mkdir(parents=True)
    for name in ("config", "packages", "repos", "mirrors", "modules", "concretizer", "bootstrap"):
        (home / ".spack" / f"{name}.yaml").write_text("{this is: [not, yaml")
    for name, value in (("HOME", home), ("SPACK_ROOT", "/nowhere"), ("SPACK_USER_CONFIG_PATH", home / ".spack")):
        monkeypatch.setenv(name, str(value))
    before = sorted(home.rglob("*"))
    yield home
    assert sorted(home.rglob("*")) == before


def normal(text: str, prefix: Path, release: str) -> str:
    """Replace the parts of a text that differ between runs and machines."""
    for value, word in ((str(prefix), "PREFIX"), (prefix.name.rpartition("-")[2], "HASH"), (release, "RELEASE")):
        text = text.replace(value, word)
    text = re.sub(r"^-- libsigsegv@.*$", "-- SPEC", text, flags=re.MULTILINE)
    return re.sub(r"(Target: ).*(\]==\])|(created by spack).*", r"\1\2\3", text)


def store_of(prefix: Path, version: str) -> Path:
    return prefix / "opt" / "petal" / FAMILIES[SPACK_VERSIONS[version]].store


@BOTH
@pytest.mark.usefixtures("poisoned")
def test_a_real_package_is_built_published_and_found_again(version: str, config_text: str, tmp_path: Path) -> None:
    prefix = tmp_path / "head"
    first = bootstrap(prefix, config_text)
    assert first.status.value == "changed", first

    paths = Paths(prefix)
    assert first.release is not None
    locked = locked_specs(paths.release(first.release) / "spack.lock")
    assert [spec.name for spec in locked if spec.explicit] == ["libsigsegv"]
    store = store_of(prefix, version)
    index = json.loads((store / ".spack-db" / "index.json").read_text())
    assert index["database"]["version"] == DATABASE[version]
    assert database.missing(locked, store) == ()
    library = next(store.glob("linux-*/libsigsegv-2.14-*/lib/libsigsegv.so"))
    assert library.resolve().is_file()
    module = paths.current / "modules" / next((paths.current / "modules").iterdir()).name / "Core/libsigsegv/2.14.lua"
    assert str(library.parent.parent) in module.read_text()
    text = normal(module.read_text(), library.parent.parent, first.release)
    compare_with_golden(GOLDEN / f"libsigsegv-{version}.lua", text)
    assert lua_error(module) == ""

    assert files_that_users_can_lock(prefix) == []
    second = bootstrap(prefix, config_text)
    assert {step.outcome for step in second.steps} <= {Outcome.OK, Outcome.SKIPPED}
    assert second.release == first.release

    (tree,) = (paths.root / "spack").glob(f"{version}*")
    unpacked = (tree / ".petal-origin.json").stat().st_mtime
    written = [path for path in tree.rglob("*") if path.lstat().st_mtime > unpacked + 1]
    assert written == [], "Spack wrote into its own tree"

    _assert_a_damaged_package_is_built_again(prefix, config_text, store, library.parent.parent)


def files_that_users_can_lock(top: Path) -> list[Path]:
    """The lock files of petal-node and Spack that other users could open, without those in Spack's own tarball."""
    found = []
    for directory, names, files in os.walk(top):
        inner = [Path(directory, name) for name in names]
        names[:] = [at.name for at in inner if at.stat().st_mode & 0o011 and at != Paths(top).shared_root / "spack"]
        locks = [Path(directory, name) for name in files if re.search(r"\.lock$|(^|_)(lock|failures)$", name)]
        found += [path for path in locks if path.name != "spack.lock" and path.stat().st_mode & 0o066]
    return found


def _assert_a_damaged_package_is_built_again(prefix: Path, config: str, store: Path, package: Path) -> None:
    """A package is complete if it has its install manifest, which Spack writes last."""
    (package / ".spack" / "install_manifest.json").unlink()
    database_index = store / ".spack-db" / "index.json"
    database_index.write_text(database_index.read_text().replace('"installed":true', '"installed":false'))
    record = bootstrap(prefix, config)
    assert steps(record)["spack"].outcome is Outcome.CHANGED
    assert (package / ".spack" / "install_manifest.json").is_file()


@BOTH
def test_a_changed_module_of_spack_is_written_again_only_with_yes(
    version: str, sites: Callable[[str], Site], tmp_path: Path
) -> None:
    """Also if Spack writes the modules of the release for another reason; Lmod's cache alone needs no Spack."""
    site, prefix = sites(version), tmp_path / "head"
    text = site.config.replace("specs: [probe]", "specs: [probe, second]")
    site.add("second", RECIPE.replace("class Probe", "class Second"))
    release = bootstrap(prefix, text).release
    assert release is not None
    core = next((Paths(prefix).current / "modules").iterdir()) / "Core"
    edited, lost, own = core / "probe" / "2.lua", core / "second" / "2.lua", core / "own" / "1.lua"
    before = [edited.read_text(), lost.read_text()]
    final = Paths(prefix).release(release) / "modules" / core.parent.name / "Core" / "probe" / "2.lua"
    assert f"path: {final}\n" in (core.parent / "module-index.yaml").read_text()
    edited.write_text("-- edited\n")
    own.parent.mkdir()
    own.write_text("-- of the site\n")

    record = repair(prefix)
    assert steps(record)["module-tree"].outcome is Outcome.CHANGED
    assert not Paths(prefix).spack_log(record.run_id).exists()
    assert edited.read_text() == "-- edited\n"

    lost.unlink()
    record = repair(prefix)
    assert steps(record)["module-files-changed"].outcome is Outcome.BLOCKED
    assert steps(record)["module-tree"].outcome is Outcome.CHANGED
    assert [edited.read_text(), lost.read_text()] == ["-- edited\n", before[1]]

    record = repair(prefix, yes=True)
    assert steps(record)["module-files-changed"].outcome is Outcome.CHANGED
    assert [edited.read_text(), lost.read_text(), own.read_text()] == [*before, "-- of the site\n"]


def test_a_cluster_switches_to_the_other_family_and_back_without_rebuilding(
    sites: Callable[[str], Site], tmp_path: Path
) -> None:
    old, new, prefix = sites("0.23.0").config, sites("1.1.1").config, tmp_path / "head"
    first, second = bootstrap(prefix, old), bootstrap(prefix, new)
    assert [record.status.value for record in (first, second)] == ["changed", "changed"]
    for version in VERSIONS:
        assert len(list(store_of(prefix, version).glob("linux-*/probe-2-*/bin/probe"))) == 1
    back = bootstrap(prefix, old)
    assert steps(back)["spack"].outcome is Outcome.OK
    assert back.release == first.release
    assert Paths(prefix).current.resolve().name == first.release


@BOTH
def test_an_unsolvable_stack_is_reported_with_spacks_message_and_not_published(
    config_text: str, tmp_path: Path
) -> None:
    prefix = tmp_path / "head"
    record = bootstrap(prefix, config_text + "  specs: ['libsigsegv@2.14 ^openmpi']\n")
    found = steps(record)
    assert found["spack"].error is not None
    assert found["spack"].error["code"] == "spack-concretize"
    assert "openmpi" in found["spack"].reason
    assert found["publish"].outcome is Outcome.BLOCKED
    assert not Paths(prefix).current.exists()
    assert record.exit == 1


def test_mistakes_of_a_seed_are_reported_before_concretization(
    config_text: str, full_recipes: Path, tmp_path: Path
) -> None:
    """With all 8,600 recipes; nothing is solved, and a second run reports the mistakes before it takes a lock."""
    small = next(line for line in config_text.splitlines() if "recipes:" in line)
    text = config_text.replace(small, f"  recipes: {{source: {full_recipes}}}")
    seed = "software: {spack_packages: [scalapack, git@2.40.0, samtols@1.17, python@3.13]}\n"
    prefix = tmp_path / "head"
    index, misc = stack.lab_cache() / "stacks/misc", Paths(prefix).scratch / "spack/misc"
    for directory in (index, misc.parent):
        directory.mkdir(parents=True, exist_ok=True)
    misc.symlink_to(index)  # Spack's index of all recipes, which takes 50 s to create
    (misc.parent / "boot").write_text(System().boot_id())  # else petal-node empties Spack's caches
    for _ in range(2):
        record = bootstrap(prefix, text + seed)
        assert record.exit == ExitCode.CONFIG
        assert record.status is Status.FAILED
        error = steps(record)["spack"].error
        assert error is not None
        assert error["code"] == "spec-unknown"
        places = {problem["path"]: problem["message"] for problem in error["problems"]}
        assert set(places) == {"software.spack_packages[1]", "software.spack_packages[2]"}
        assert "git@2.40.4" in places["software.spack_packages[1]"]
        assert "samtools" in places["software.spack_packages[2]"]
        assert any("netlib-scalapack" in line for line in error["remedy"])
        assert not any(prefix.rglob("spack.lock"))  # nothing was solved
    logs = Paths(prefix).log.parent.rglob("spack-*.log")
    assert not any("concretize" in path.read_text() for path in logs)


@BOTH
def test_a_source_that_cannot_be_fetched_is_reported_with_its_package(
    config_text: str, mirror: Path, tmp_path: Path
) -> None:
    record = bootstrap(tmp_path / "head", config_text.replace(str(mirror), str(tmp_path / "empty")))
    error = steps(record)["spack"].error
    assert error is not None
    assert error["code"] == "spack-install"
    assert "libsigsegv" in error["why"]
    assert Path(error["remedy"][0].removeprefix("less ")).is_file()


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("source: {tree}", "source: {recipes}", "spack-source"),
        ("source: {recipes}", "source: {tree}", "spack-source"),
    ],
)
def test_a_tarball_that_is_not_spack_is_refused(
    config_text: str, spack_archive: Path, small_recipes: Path, tmp_path: Path, old: str, new: str, code: str
) -> None:
    from bootstrap.host.files import sha256_of

    def filled(text: str) -> str:
        return text.format(tree=spack_archive, recipes=small_recipes)

    first, second = filled(old), filled(new)
    old_path, new_path = first.removeprefix("source: "), second.removeprefix("source: ")
    text = config_text.replace(first, second).replace(sha256_of(Path(old_path)), sha256_of(Path(new_path)))
    error = steps(bootstrap(tmp_path / "head", text))["spack"].error
    assert error is not None
    assert error["code"] == code
    assert error["remedy"]


def test_missing_clingo_is_reported(config_text: str, tmp_path: Path) -> None:
    text = "\n".join(line for line in config_text.splitlines() if "clingo:" not in line) + "\n"
    error = steps(bootstrap(tmp_path / "head", text))["spack"].error
    assert error is not None
    assert error["code"] == "spack-no-clingo"


@BOTH
def test_parallel_package_builds_depend_on_spacks_install_options(version: str) -> None:
    text = (spack_tree(version) / "lib" / "spack" / "spack" / "cmd" / "install.py").read_text()
    assert ("concurrent_packages" in text) == FAMILIES[SPACK_VERSIONS[version]].parallel


def test_spacks_output_is_shortened_to_its_errors() -> None:
    output = "\n".join(["noise"] * 50 + ["==> Error: it broke", "  since", "", "more"] + ["noise"] * 3)
    assert failure(output).splitlines()[:2] == ["it broke", "  since"]
    assert failure("a\nb") == "a\nb"
