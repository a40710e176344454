"""Any text as a spec or a recipe: an answer or none, and never a traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.spack.vet.recipes import Repository
from bootstrap.spack.vet.specs import LONGEST, read_spec
from bootstrap.spack.vet.versions import key, nearest, takes
from bootstrap.spack.vet.vetting import Asked, Vetting
from tests.fuzz.conftest import EXAMPLES

pieces = st.sampled_from(
    ["zlib", "git", "@", "@=", ":", ",", "1.2", "rc", "+", "~", " ", "^", "%", "[", "]", "=", "..", "/"]
)
specs = st.lists(pieces | st.text(max_size=4), max_size=12).map("".join)
versions = st.text("0123456789abcrt.-_", min_size=1, max_size=12)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    root = tmp_path_factory.mktemp("builtin")
    (root / "packages" / "zlib").mkdir(parents=True)
    (root / "repo.yaml").write_text("repo:\n  namespace: builtin\n")
    (root / "packages" / "zlib" / "package.py").write_text('class Zlib(Package):\n    version("1.2")\n')
    return Repository(root)


@settings(max_examples=EXAMPLES)
@given(text=specs | st.text(max_size=LONGEST + 5))
def test_any_text_is_read_or_left(text: str, repository: Repository) -> None:
    for node in read_spec(text):
        assert node.name in text
    verdict = Vetting(repository).judge([Asked("place", text)])
    assert all(place == "place" for place, _ in verdict.mistakes)


@settings(max_examples=EXAMPLES)
@given(one=versions, other=versions)
def test_versions_have_one_order(one: str, other: str) -> None:
    assert (key(one) < key(other)) + (key(one) > key(other)) + (key(one) == key(other)) == 1
    assert takes(f"{one}:", other) or takes(f":{one}", other)
    assert takes(one, one)
    assert set(nearest(one, [one, other])) <= {one, other}


@settings(max_examples=EXAMPLES)
@given(
    recipe=st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: f"class Zlib:\n    {text}\n".encode("utf-8", "replace"))
)
def test_any_recipe_is_read_or_nothing_is_claimed(recipe: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    root: Path = tmp_path_factory.mktemp("r")
    (root / "packages" / "zlib").mkdir(parents=True)
    (root / "repo.yaml").write_text("repo: {}\n")
    (root / "packages" / "zlib" / "package.py").write_bytes(recipe)
    assert Vetting(Repository(root)).judge([Asked("place", "zlib@1.2+x"), Asked("place", "nosuch")]).mistakes
