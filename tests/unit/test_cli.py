"""The command line: what it refuses, what hooks forgive, and what other versions rely on."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from bootstrap import cli
from bootstrap.cli import _parser, main
from bootstrap.commands import hook
from bootstrap.core.paths import Paths
from bootstrap.engine.run import new_record
from bootstrap.host import systemd
from bootstrap.host.system import System, base_env


@pytest.mark.parametrize("argv", [[], ["stauts"], ["plan", "--nonsense"], ["check", "--nodes"], ["worker"]])
def test_wrong_usage_ends_with_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage" in capsys.readouterr().err


def test_what_is_no_release_is_told_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "../x"]) == 2
    assert "'../x' is no id of a release" in capsys.readouterr().err


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


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "--root", "{}", "--role", "head", "status"],
        ["status", "--json", "--root", "{}", "--role", "head"],
        ["--root", "{}", "status", "--role", "head", "--json"],
        ["--json", "--root", "/no", "status", "--root", "{}", "--role", "head"],
    ],
)
def test_options_stand_before_the_verb_or_behind_it(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parsed = _parser().parse_args([word.format(tmp_path) for word in argv])
    assert (parsed.verb, parsed.json, parsed.root, parsed.role) == ("status", True, str(tmp_path), "head")
    assert (parsed.quiet, parsed.config, parsed.config_sha256) == (False, None, None)


def test_an_unknown_verb_is_told_the_verbs_that_one_types(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stauts"])
    told = capsys.readouterr().err
    assert "status" in told
    assert "worker" not in told
    main(["--help"])
    assert "worker" not in capsys.readouterr().out


@pytest.mark.parametrize("run_id", ["../../x", "/x", "", "a b", "x" * 300])
def test_a_run_id_that_is_no_file_name_is_refused(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--event", "start", "--run-id", run_id]) == 2
    assert "--run-id" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "a" * 65])
def test_a_checksum_that_is_none_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "/x", "--config-sha256", text]) == 2
    assert "--config-sha256" in capsys.readouterr().err
    assert _parser().parse_args(["plan", "--config-sha256", "A" * 64]).config_sha256 == "a" * 64


@pytest.mark.parametrize("live", [True, False])
def test_a_hook_under_a_prefix_starts_no_unit_of_the_machine(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit's environment stands in a file outside of --root, and so would the unit."""
    units: list[str | None] = []
    monkeypatch.setattr(systemd, "detach", lambda _argv, _system, *, unit, output: units.append(unit))  # noqa: ARG005
    monkeypatch.setattr(hook, "_wait", lambda asked, *_: new_record(asked.request("start"), System(), "hook"))
    monkeypatch.setattr(Paths, "live", live)
    monkeypatch.setattr(System, "is_root", lambda _: True)
    assert main(["hook", "start", "--root", str(tmp_path), "-q"]) == 0
    assert [unit is not None for unit in units] == [live]


@pytest.mark.parametrize(
    "argv", [["bootstrap", "--accept-stor"], ["plan", "--exit"], ["--conf", "/x", "plan"], ["status", "--js"]]
)
def test_half_an_option_is_none(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage:" in capsys.readouterr().err


def test_converge_names_the_verb_that_takes_a_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["converge", "--config", "/root/petal.yaml", "--root", str(tmp_path)]) == 2
    assert "petal-node bootstrap --config /root/petal.yaml" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.json")) == []


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
