"""Unknown packages, versions and variants are reported before the solve; tests/spack runs the script itself."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import ConfigError, ExitCode, SpackError
from bootstrap.core.model import Outcome, Status
from bootstrap.engine import converge as engine
from bootstrap.engine.converge import exit_of
from bootstrap.host.system import Completed
from bootstrap.spack.program import ensure, locate
from bootstrap.spack.solve import MEMORY, check_memory
from bootstrap.steps.spack import SpackStack
from tests.world import World, with_spack

UNKNOWN: dict[str, Any] = {
    "problems": [
        [0, "there is no package ftw, did you mean 'fftw'?"],
        [1, "fftw has no version 9.9 (near it: fftw@3.3.10)"],
        [2, "there is no package fttw, did you mean 'fftw'?"],
    ],
    "advice": ["mpi is provided by openmpi, and Spack would choose: name one"],
}


def fetched(world: World) -> None:
    ctx = world.context
    ensure(locate(ctx.config, ctx.paths), ctx.paths, None)


def test_plan_and_run_refuse_before_anything_is_solved(tmp_path: Path) -> None:
    text = with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw@9.9, fttw]")
    world = World(tmp_path / "node", config_text=text, environment={"specs": ["ftw"]})
    world.system.checked_specs = UNKNOWN
    assert SpackStack().probe(world.context).pending  # the recipes are not yet fetched
    with pytest.raises(ConfigError) as caught:
        SpackStack().apply(world.context)
    assert caught.value.code == "spec-unknown"
    assert caught.value.exit is ExitCode.CONFIG
    assert [path for path, *_ in caught.value.problems] == ["stack none: specs[0]", "spack.specs[0]", "spack.specs[1]"]
    assert "spack.specs[0]: fftw has no version 9.9 (near it: fftw@3.3.10)" in caught.value.why
    assert UNKNOWN["advice"][0] in caught.value.remedy
    assert not [argv for argv in world.system.commands if "concretize" in argv]

    reports = engine.plan([SpackStack()], world.context)
    assert reports[0].outcome is Outcome.BLOCKED
    assert reports[0].error is not None
    assert reports[0].error["code"] == "spec-unknown"
    assert engine.status_of(reports) is Status.FAILED
    assert exit_of(reports, Status.FAILED) == ExitCode.CONFIG
    assert engine.converge([SpackStack()], world.context, lambda _: None)[0].outcome is Outcome.BLOCKED


@pytest.mark.parametrize(
    "head", ["spack:\n  specs:\n", "cluster: {}\nsoftware:\n  spack_packages:\n"], ids=["spack", "seed"]
)
def test_a_mistake_in_a_spec_of_the_stack_has_its_line(head: str, tmp_path: Path) -> None:
    stack = tmp_path / "stack.yaml"
    stack.write_text(f"# the stack\n{head}  - zlib\n  - ftw\n")
    text = f"stack: {stack}\n" + with_spack(tmp_path).replace("specs: [fftw]", "specs: [fftw@9.9]")
    world = World(tmp_path / "node", config_text=text, environment={"specs": ["zlib", "ftw"]})
    world.system.checked_specs = {"problems": [[1, "a"], [2, "b"]], "advice": []}
    with pytest.raises(ConfigError) as caught:
        SpackStack().apply(world.context)
    line = head.count("\n") + 3
    assert caught.value.problems[0] == (f"stack {stack}: specs[1]", "a", f"stack.yaml:{line}")
    assert caught.value.problems[1].place.startswith("petal.yaml:")
    stack.write_text("")
    with pytest.raises(ConfigError) as caught:
        SpackStack().apply(world.context)
    assert caught.value.problems[0].place == "", "the file cannot be read any more"


def test_a_plan_shows_advice_and_leaves_no_files(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    fetched(world)
    world.system.checked_specs = {"problems": [], "advice": ["mpi is provided by openmpi"]}
    assert SpackStack().probe(world.context).changes == ("install fftw", "mpi is provided by openmpi")
    assert not (world.paths.scratch / "preview").exists()


def test_a_check_does_not_start_spack(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    fetched(world)
    assert SpackStack().probe(replace(world.context, sets_desired_state=False)).pending
    assert not [argv for argv in world.system.commands if Path(argv[0]).name == "spack"]


def test_an_environment_that_spack_cannot_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    run = world.system.run

    def refuse(argv: Sequence[str], **options: Any) -> Completed:
        text = "==> Error: definition must have a single attribute\n"
        return Completed(1, text, "") if "python" in argv else run(argv, **options)

    monkeypatch.setattr(world.system, "run", refuse)
    with pytest.raises(SpackError) as caught:
        SpackStack().apply(world.context)
    assert caught.value.code == "spack-failed"
    assert caught.value.why == "definition must have a single attribute"


def test_the_specs_of_a_lockfile_are_not_validated(tmp_path: Path) -> None:
    world = World(tmp_path / "node", config_text=with_spack(tmp_path))
    SpackStack().apply(world.context)
    world.system.memory = 0
    world.system.checked_specs = UNKNOWN
    shutil.rmtree(world.paths.store)
    SpackStack().apply(world.context)


@pytest.mark.parametrize(
    ("recipes", "memory", "refused"),
    [(9, 64 << 20, False), (9, 0, True), (8200, MEMORY - 1, True), (9000, MEMORY, False)],
)
def test_the_required_memory_depends_on_the_number_of_recipes(
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
