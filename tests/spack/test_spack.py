"""Real Spack 1.1.1: a real package from its real recipe, hermetic, found again by a second run, and honest errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.model import Outcome, Role, RunRecord, StepReport, Tool
from bootstrap.paths import Paths
from bootstrap.prepare import Request
from bootstrap.run import run
from bootstrap.spack import database
from bootstrap.spack.driver import failure
from bootstrap.system import System

RUNS = iter(range(1000))


def bootstrap(
    prefix: Path, config: str, notes: list[str] | None = None, told: Callable[[str], None] | None = None
) -> RunRecord:
    """One run of the head node below ``prefix``; ``told`` gets the name of each step that has news."""
    (prefix / "shared").mkdir(parents=True, exist_ok=True)
    path = prefix.with_suffix(".yaml")
    path.write_text(config)
    request = Request(Tool("0.1.0"), f"run-{next(RUNS)}", str(path), prefix, Role.HEAD)
    said = notes if notes is not None else []
    return run(request, System(), "bootstrap", lambda step: told(step.name) if told else None, said.append)


def steps(record: RunRecord) -> dict[str, StepReport]:
    return {step.name: step for step in record.steps}


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home directory whose Spack configuration would break everything that reads it."""
    home = tmp_path / "home"
    (home / ".spack").mkdir(parents=True)
    for name in ("config", "packages", "repos", "mirrors", "modules", "concretizer", "bootstrap"):
        (home / ".spack" / f"{name}.yaml").write_text("{this is: [not, yaml")
    for name, value in (("HOME", home), ("SPACK_ROOT", "/nowhere"), ("SPACK_USER_CONFIG_PATH", home / ".spack")):
        monkeypatch.setenv(name, str(value))
    before = sorted(home.rglob("*"))
    yield home
    assert sorted(home.rglob("*")) == before


@pytest.mark.usefixtures("poisoned")
def test_a_real_package_is_built_published_and_found_again(config_text: str, tmp_path: Path) -> None:
    prefix = tmp_path / "head"
    first = bootstrap(prefix, config_text)
    assert first.status.value == "changed", first

    paths = Paths(prefix)
    assert first.release is not None
    locked = database.locked_specs(paths.release(first.release) / "spack.lock")
    assert [spec.name for spec in locked if spec.explicit] == ["libsigsegv"]
    assert database.missing(locked, paths.store) == ()
    library = next(paths.store.glob("linux-*/libsigsegv-2.14-*/lib/libsigsegv.so"))
    assert library.resolve().is_file()
    module = paths.current / "modules" / next((paths.current / "modules").iterdir()).name / "Core/libsigsegv/2.14.lua"
    assert str(library.parent.parent) in module.read_text()

    second = bootstrap(prefix, config_text)
    assert {step.outcome for step in second.steps} <= {Outcome.OK, Outcome.SKIPPED}
    assert second.release == first.release

    tree = paths.spack("1.1.1")
    unpacked = (tree / ".petal-origin.json").stat().st_mtime
    written = [path for path in tree.rglob("*") if path.lstat().st_mtime > unpacked + 1]
    assert written == [], "Spack wrote into its own tree"

    _a_damaged_package_is_built_again(prefix, config_text, library.parent.parent)


def _a_damaged_package_is_built_again(prefix: Path, config: str, package: Path) -> None:
    """Its install manifest, which Spack writes last, is what "whole" means."""
    (package / ".spack" / "install_manifest.json").unlink()
    database_index = Paths(prefix).store / ".spack-db" / "index.json"
    database_index.write_text(database_index.read_text().replace('"installed":true', '"installed":false'))
    record = bootstrap(prefix, config)
    assert steps(record)["spack"].outcome is Outcome.CHANGED
    assert (package / ".spack" / "install_manifest.json").is_file()


def test_an_unknown_package_is_named_by_spack_and_nothing_is_published(config_text: str, tmp_path: Path) -> None:
    prefix = tmp_path / "head"
    record = bootstrap(prefix, config_text + "  specs: [no-such-package]\n")
    found = steps(record)
    assert found["spack"].error is not None
    assert found["spack"].error["code"] == "spack-concretize"
    assert "no-such-package" in found["spack"].reason
    assert found["release"].outcome is Outcome.BLOCKED
    assert not Paths(prefix).current.exists()
    assert record.exit == 1


def test_a_source_that_cannot_be_fetched_is_told_with_its_package(
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
        ("source: {tree}", "source: {recipes}", "spack-version"),
        ("source: {recipes}", "source: {tree}", "spack-recipes"),
    ],
)
def test_something_else_than_spack(
    config_text: str, spack_archive: Path, small_recipes: Path, tmp_path: Path, old: str, new: str, code: str
) -> None:
    from bootstrap.files import sha256_of

    def filled(text: str) -> str:
        return text.format(tree=spack_archive, recipes=small_recipes)

    first, second = filled(old), filled(new)
    old_path, new_path = first.removeprefix("source: "), second.removeprefix("source: ")
    text = config_text.replace(first, second).replace(sha256_of(Path(old_path)), sha256_of(Path(new_path)))
    error = steps(bootstrap(tmp_path / "head", text))["spack"].error
    assert error is not None
    assert error["code"] == code
    assert error["remedy"]


def test_without_clingo_the_error_says_what_to_list(config_text: str, tmp_path: Path) -> None:
    text = "\n".join(line for line in config_text.splitlines() if "clingo:" not in line) + "\n"
    error = steps(bootstrap(tmp_path / "head", text))["spack"].error
    assert error is not None
    assert error["code"] == "spack-no-clingo"


def test_the_whole_repository_concretizes_too(
    config_text: str, full_recipes: Path, small_recipes: Path, tmp_path: Path
) -> None:
    """With all 8,000 recipes; nothing is built: the mirror is empty and the error comes from the fetch."""
    lines = [
        f"  recipes: {{source: {full_recipes}}}" if "recipes:" in line else line for line in config_text.splitlines()
    ]
    lines = [f"  mirrors: {{none: {tmp_path}}}" if "mirrors:" in line else line for line in lines]
    prefix = tmp_path / "head"
    record = bootstrap(prefix, "\n".join(lines) + "\n")
    assert record.release is not None
    locked = database.locked_specs(Paths(prefix).release(record.release) / "spack.lock")
    assert [spec.name for spec in locked if spec.explicit] == ["libsigsegv"]
    error = steps(record)["spack"].error
    assert error is not None
    assert error["code"] == "spack-install"


def test_what_spack_said_is_cut_to_what_matters() -> None:
    output = "\n".join(["noise"] * 50 + ["==> Error: it broke", "  since", "", "more"] + ["noise"] * 3)
    assert failure(output).splitlines()[:2] == ["it broke", "  since"]
    assert failure("a\nb") == "a\nb"
