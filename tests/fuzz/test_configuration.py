"""Any bytes as petal.yaml give a configuration or a list of mistakes, also through the whole command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bootstrap.config import load, model
from bootstrap.core.errors import ConfigError, ExitCode
from bootstrap.spack import environments
from tests.fuzz import inputs, node
from tests.fuzz.conftest import EXAMPLES

SHA = "ab" * 32
FULL: dict[str, Any] = {
    "stack": "none", "layout": "shared", "storage": {"mount": "/shared"}, "spack": {"version": "1.1.1",
    "source": "https://h/spack.tgz", "sha256": SHA, "recipes": {"source": "/srv/recipes.tgz", "sha256": SHA},
    "clingo": [{"source": "https://h/clingo-5-cp311-abi3-manylinux.whl", "sha256": SHA}], "specs": [],
    "target": "auto", "mirrors": {"site": "/shared/mirror"} }, "packages": [{"name": "openmpi", "version": "4.1.7",
    "prefix": "/usr", "summary": "Open MPI"}, {"name": "cfd", "version": "24.1", "source": "/no/cfd.tgz",
    "sha256": SHA, "env": {"X": "{prefix}/x"}, "requires": ["a/1"]} ], "modules": {"lmod": "auto"},
    "install": {"budget": 300, "jobs": 0, "partial": False},
    "check": {"load": ["openmpi"], "run": ["true --x"], "mpi": True, "wait": 5},
}  # fmt: skip
SMALL: dict[str, Any] = {
    "packages": [{"name": "openmpi", "version": "4.1.7", "prefix": "/usr"}],
    "check": {"run": ["true"]},
}
configurations = st.sampled_from([FULL, SMALL, {**SMALL, "storage": {"mount": "/shared"}}])
STACK = {"spack": {"specs": ["zlib"], "packages": {"all": {"target": ["x86_64"]}}, "view": False}}
FOREIGN = re.compile(
    r"Not a valid|Missing data|Field may not|Unknown field|Invalid input|Invalid value|\.value\b|Must be"
)


def read(data: bytes) -> model.Config | None:
    """The configuration, or None if its mistakes were reported correctly."""
    try:
        return load.parse(data, "petal.yaml")
    except ConfigError as error:
        assert error.exit is ExitCode.CONFIG
        assert error.remedy
        assert "petal.yaml" in error.what
        assert error.problems or error.why
        assert not FOREIGN.search(error.why), error.why
        assert all(path and message for path, message, _ in error.problems), error.problems
        json.dumps(error.to_dict())
        return None


@given(data=inputs.yaml_files(configurations))
def test_any_bytes_are_a_configuration_or_a_list_of_mistakes(data: bytes) -> None:
    read(data)


@given(document=inputs.mutated(configurations))
def test_an_accepted_configuration_round_trips_through_json(document: Any) -> None:
    accepted = read(inputs.json_bytes(document))
    if accepted is not None:
        assert load.from_mapping(json.loads(json.dumps(accepted.to_dict()))) == accepted


@given(data=inputs.yaml_files(st.just(STACK)), line=st.sampled_from(inputs.YAML_LINES))
def test_a_stack_is_read_or_refused(data: bytes, line: str) -> None:
    below = "".join(f"\n      {part}" for part in line.splitlines())
    for text in (data, f"spack:\n  specs: []\n  packages:\n    all:{below}\n".encode(errors="surrogatepass")):
        try:
            section = environments._parse(text, "spack.yaml")
        except ConfigError as error:
            assert error.code in ("config-syntax", "stack-invalid")
            assert error.why
            assert error.remedy
        else:
            assert all(isinstance(spec, str) for spec in section.get("specs", []))
            assert json.loads(json.dumps(section, allow_nan=False)) == section


@settings(max_examples=max(40, EXAMPLES // 20))
@given(data=inputs.yaml_files(configurations), verb=st.sampled_from(["plan", "bootstrap"]))
def test_the_command_line_answers_for_any_configuration(data: bytes, verb: str, tmp_path: Path) -> None:
    with node.empty(tmp_path) as prefix:
        file = prefix.parent / "petal.yaml"
        file.write_bytes(data)
        answer = node.obeys([verb, "--config", str(file), "--role", "head"], prefix)
        if answer["exit_code"] == ExitCode.CONFIG:
            assert str(file) in answer["errors"][0]["what"] or answer["errors"][0]["code"].startswith("stack-")


@pytest.mark.parametrize(
    "name", [".", "no/such", "x:y", "s3:", "s3://", "https://", "http://h/x", "ftp://h/x", "file:x", "\n"]
)
@pytest.mark.parametrize("verb", ["plan", "bootstrap"])
def test_an_invalid_uri_of_a_configuration_is_reported(name: str, verb: str, tmp_path: Path) -> None:
    with node.empty(tmp_path) as prefix:
        answer = node.obeys([verb, "--config", name, "--role", "head"], prefix)
        assert answer["exit_code"] in (1, 78)
