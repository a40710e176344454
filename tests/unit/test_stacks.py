"""The included stacks: the recorded solutions match spack_envs/, and the documentation matches the record."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.spack.record_stacks import BEGIN, END, PAGE, table
from tests.spack.stacks import CASES, digest, environment, recorded, shipped

README = Path(__file__).parents[2] / "spack_envs" / "README.md"
STACKS = shipped()


def test_the_documented_stacks_exist() -> None:
    assert {"starter", "mpi-bench", "bioinformatics"} <= set(STACKS)
    assert set(recorded()) == set(STACKS)


@pytest.mark.parametrize("name", STACKS)
def test_the_record_is_of_the_current_stack(name: str) -> None:
    cases = recorded()[name]
    assert set(cases) == {case.name for case in CASES}
    asked = {spec.partition("@")[0] for spec in environment(name)["specs"]}
    for case in cases.values():
        assert case["digest"] == digest(name), "the stack, Spack or the recipes have changed: run make stacks"
        assert set(case["roots"]) == asked


@pytest.mark.parametrize("name", STACKS)
def test_every_spec_names_a_version(name: str) -> None:
    specs = environment(name)["specs"]
    assert [spec for spec in specs if not re.match(r"[a-z0-9-]+@=?[0-9]", spec)] == []
    assert len({spec.partition("@")[0] for spec in specs}) == len(specs)


def test_the_page_shows_the_record() -> None:
    text = PAGE.read_text(encoding="utf-8")
    shown = [line for line in text.split(BEGIN)[1].split(END)[0].splitlines() if line.startswith("|")]
    assert shown == table(recorded())


@pytest.mark.parametrize("name", STACKS)
def test_purpose_disk_and_time_are_in_the_file_and_the_readme(name: str) -> None:
    text = (README.parent / name / "spack.yaml").read_text(encoding="utf-8")
    for word in ("purpose", "disk", "time"):
        assert re.search(rf"^# {word}: \S", text, re.MULTILINE), word
    assert re.search(rf"^\| `{name}` \|", README.read_text(encoding="utf-8"), re.MULTILINE)
