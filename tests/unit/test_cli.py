"""The command line: what it refuses, what hooks forgive, and what other versions rely on."""

from __future__ import annotations

import os
import pwd

import pytest

from bootstrap import cli
from bootstrap.cli import _parser, main
from bootstrap.system import base_env


@pytest.mark.parametrize("argv", [[], ["stauts"], ["plan", "--nonsense"], ["check", "--nodes"], ["worker"]])
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["hook"], ["hook", "begin"], ["hook", "configured", "--nonsense"]])
def test_a_hook_forgives_wrong_arguments(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert "usage" in capsys.readouterr().err
    assert main([*argv, "--strict"]) == 2


@pytest.mark.parametrize(
    "argv",
    [
        ["worker", "--event", "configured", "--run-id", "r", "--quiet"],
        ["worker", "--event", "start", "--run-id", "r", "--quiet", "--config", "s3://b/k", "--role", "head"],
        ["converge", "--quiet"],
    ],
)
def test_what_other_versions_call_stays(argv: list[str]) -> None:
    """A node hands over to the wanted version with the command line that it has itself."""
    assert _parser().parse_args(argv).verb == argv[0]


def test_a_relative_configuration_means_this_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert cli._absolute("petal.yaml") == f"{tmp_path}/petal.yaml"
    assert cli._absolute("s3://b/petal.yaml") == "s3://b/petal.yaml"
    assert cli._absolute(None) is None


def test_programs_get_the_home_of_whom_they_run_as(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    assert base_env("nobody")["HOME"] == nobody.pw_dir
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    assert base_env()["HOME"] == nobody.pw_dir


def test_the_version_is_told_without_any_import_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("petal-node ")
