"""The command line: usage errors, tolerance of hooks, and the interface for other versions."""

from __future__ import annotations

import importlib
import inspect
import os
import pwd
import shlex
from pathlib import Path

import pytest

from bootstrap.cli import main
from bootstrap.commands import hook
from bootstrap.commands.arguments import COMMON, VERBS, parse, parse_refused_hook
from bootstrap.commands.common import plan_of, require_root
from bootstrap.commands.repair import repair
from bootstrap.core.errors import NotRoot, UsageError
from bootstrap.core.model import Role, Tool, failed
from bootstrap.core.options import verb_of
from bootstrap.core.paths import Paths
from bootstrap.engine.recorder import Recorder
from bootstrap.host import systemd
from bootstrap.host.system import System, base_env
from bootstrap.report.remedies import runnable
from bootstrap.report.render import show
from bootstrap.state.context import Services
from tests.world import World


@pytest.mark.parametrize("argv", [["--json"], ["stauts"], ["plan", "--nonsense"], ["check", "--nodes"], ["worker"]])
def test_wrong_usage_exits_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage" in capsys.readouterr().err


def test_every_verb_gets_its_defaults_from_options() -> None:
    worker = ["--run-id", "r"]
    needs = {"hook": ["start"], "worker": ["--event", "start", *worker], "build-job": [*worker, "d"]}
    for name in VERBS:
        options = parse([name, *needs.get(name, [])])
        assert options.command == name
        assert "SUPPRESS" not in str(options)
    assert parse(["rollback"]).release is None
    assert (parse(["bootstrap"]).lock_wait, parse(["repair"]).lock_wait) == (7200, 60)


def test_a_wrong_release_id_is_refused_with_an_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "../x"]) == 2
    assert "'../x' is not a release id" in capsys.readouterr().err


def test_rollback_without_a_release_id_means_the_previous_one() -> None:
    assert parse(["rollback"]).release is None


@pytest.mark.parametrize("argv", [["hook"], ["hook", "begin"], ["hook", "configured", "--nonsense"]])
def test_a_hook_tolerates_wrong_arguments(argv: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [*argv, "--root", str(tmp_path)]
    assert main(argv) == 0
    assert "usage" in capsys.readouterr().err
    assert main([*argv, "--strict"]) == 2


@pytest.mark.parametrize(
    "argv",
    [
        ["rollback", "c7674", "--lock-wait", "5"],
        ["hook", "start", "--strict"],
        ["bootstrap", "--layout", "ami", "--config", "/a b", "--json"],
        ["repair", "--yes", "--deep"],
        ["gc", "--keep", "1", "--yes"],
        ["lockfile", "--output", "X", "--config", "/x"],
    ],
)
def test_without_root_the_remedy_repeats_the_command_line(
    argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = tmp_path / "petal-node"
    services = Services(Tool("0.1.0", archive), World(tmp_path).system, "r", lambda _: None, lambda _: None)
    monkeypatch.setattr(services.system, "is_root", lambda: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(NotRoot) as refused:
        require_root(parse(argv), services)
    show(failed(argv[0], refused.value), parse(argv), archive)
    output = capsys.readouterr()
    assert shlex.join(["sudo", str(archive), *argv]) in output.out + output.err


def test_the_command_of_a_dry_run_applies_the_shown_plan(tmp_path: Path) -> None:
    world = World(tmp_path)
    services = Services(Tool("0.1.0"), world.system, "r", lambda _: None, lambda _: None)
    (tmp_path / "petal.yaml").write_text("stack: none")
    options = world.options(tmp_path / "petal.yaml", "repair", role=Role.HEAD, yes=True, deep=True)
    assert plan_of("repair", options, services, ()).remedy[0].startswith("petal-node repair --yes --deep --")


def test_a_repair_by_another_version_repeats_its_arguments_for_the_installed_program(tmp_path: Path) -> None:
    archive, link = tmp_path / "new", Paths(tmp_path).link
    link.parent.mkdir(parents=True)
    link.write_text("old")
    archive.write_text("new")
    services = Services(Tool("0.1.0", archive), World(tmp_path).system, "r", lambda _: None, lambda _: None)
    argv = ["repair", "--yes", "--role", "head", "--root", str(tmp_path)]
    with pytest.raises(UsageError) as refused:
        repair(parse(argv), services)
    assert refused.value.remedy[0] == shlex.join([str(link), *argv])
    assert refused.value.remedy[1].endswith(f"{archive} bootstrap --role head --root {tmp_path}")
    with pytest.raises(UsageError) as refused:
        repair(parse(["repair", "--role", "compute", "--root", str(tmp_path)]), services)
    assert refused.value.remedy[1].endswith(f"{archive} bootstrap --root {tmp_path}")


def test_a_tree_of_another_user_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    services = Services(Tool("0.1.0"), World(tmp_path).system, "r", lambda _: None, lambda _: None)
    monkeypatch.setattr(services.system, "is_root", lambda: False)
    require_root(parse(["gc", "--root", str(tmp_path)]), services)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(NotRoot) as refused:
        require_root(parse(["gc", "--root", str(tmp_path)]), services)
    assert refused.value.remedy[0] == f"ls -ld {tmp_path}"


def test_a_remedy_names_the_installed_program_only_if_it_is_the_running_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, link = tmp_path / "kept", tmp_path / "petal-node"
    kept.touch()
    link.symlink_to(kept)
    monkeypatch.setattr("shutil.which", lambda _: str(link))
    assert runnable("petal-node gc --yes", parse(["gc"]), kept) == "petal-node gc --yes"
    assert runnable("petal-node gc --yes", parse(["gc"]), tmp_path / "new") == f"{tmp_path}/new gc --yes"
    assert runnable("petal-node repair", parse(["gc"]), tmp_path / "new") == "petal-node repair"
    monkeypatch.setenv("SUDO_USER", "alice")  # whose shell is not one of root
    assert runnable("petal-node gc --yes", parse(["gc"]), kept) == "sudo /usr/local/bin/petal-node gc --yes"
    assert runnable("petal-node gc --yes", parse(["gc"]), tmp_path / "new") == f"sudo {tmp_path}/new gc --yes"


def test_the_command_after_an_interruption_is_valid_in_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    argv = ["--config=a b.yaml", "-q", "bootstrap", "--lock-wait", "90", "--accept-storage"]
    command = f"bootstrap --lock-wait 90 --accept-storage --config '{tmp_path}/a b.yaml' --quiet"
    assert runnable(parse(argv).again, parse(argv)) == f"petal-node {command}"
    assert runnable(parse(argv).again, parse(argv), tmp_path / "new") == f"{tmp_path}/new {command}"
    rollback = parse(["rollback", "aaaa", "--root", "."])
    assert runnable(rollback.again, rollback) == f"petal-node rollback aaaa --root {tmp_path}"


def test_after_the_interruption_of_a_hook_the_boot_service_is_named_only_on_a_node(tmp_path: Path) -> None:
    hook = ["hook", "configured", "--config", "s3://b/k"]
    assert parse(hook).again == "petal-node bootstrap    # the service at boot and its timer do it too"
    assert parse([*hook, "--root", str(tmp_path)]).again == "petal-node bootstrap"


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if verb.help and not verb.makes_root])
def test_a_missing_root_is_refused_and_not_made(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "missing"
    assert main([verb, "--root", str(missing)]) == 2
    assert f"--root {missing} is not a directory" in capsys.readouterr().err
    assert not missing.exists()


@pytest.mark.parametrize("option", ["--config", "--root"])
def test_an_empty_value_of_a_variable_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", option, ""]) == 2
    assert "is empty" in capsys.readouterr().err


def test_a_refused_hook_with_an_empty_root_is_recorded_on_the_node() -> None:
    assert parse_refused_hook(["hook", "configured", "--root", ""]).root == Path("/")


@pytest.mark.parametrize(
    "argv",
    [
        ["worker", "--event", "configured", "--run-id", "r", "--quiet"],
        ["worker", "--event", "start", "--run-id", "r", "--quiet", "--config", "s3://b/k", "--role", "head"],
        ["converge", "--quiet"],
    ],
)
def test_the_command_lines_of_other_versions_are_accepted(argv: list[str]) -> None:
    """A node starts the desired version with its own command line."""
    assert parse(argv).command == argv[0]


@pytest.mark.parametrize(
    "argv",
    [
        ["--json", "--root", "{}", "--role", "head", "status"],
        ["status", "--json", "--root", "{}", "--role", "head"],
        ["--root", "{}", "status", "--role", "head", "--json"],
        ["--json", "--root", "/no", "status", "--root", "{}", "--role", "head"],
    ],
)
def test_options_are_accepted_before_and_after_the_verb(
    argv: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parsed = parse([word.format(tmp_path) for word in argv])
    assert (parsed.command, parsed.json, parsed.root, parsed.role) == ("status", True, tmp_path, Role.HEAD)
    assert (parsed.quiet, parsed.config, parsed.config_sha256) == (False, None, None)


def test_the_verb_is_found_after_every_common_option() -> None:
    """Also if the parser refuses the command line: a hook exits 0."""
    for names, keywords in COMMON.items():
        for name in names.split():
            value = [] if "action" in keywords else ["status"]
            assert verb_of([name, *value, "hook", "nonsense"]) == "hook"
    assert verb_of(["--role=head", "-q", "hook"]) == "hook"
    assert (verb_of([]), verb_of(["--json"]), verb_of(["status", "hook"])) == ("", "", "status")


def test_an_unknown_verb_gets_a_suggestion_and_the_public_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stauts"]) == 2
    error = capsys.readouterr().err
    assert "unknown verb 'stauts', did you mean 'status'?" in error
    assert "rollback" in error
    assert not {"worker", "converge"} & set(error.replace(",", " ").split())


@pytest.mark.parametrize("argv", [[], ["--help"]])
def test_help_lists_the_public_verbs(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name:<10} {verb.help}\n" in text for name, verb in VERBS.items() if verb.help)
    assert "worker" not in text
    assert "converge" not in text


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_function_and_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module, _, function = VERBS[name].function.partition(".")
    call = getattr(importlib.import_module(f"bootstrap.commands.{module}"), function)
    assert [each.annotation for each in inspect.signature(call).parameters.values()] == ["Options", "Services"]
    assert main([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"usage: petal-node {name}" in text
    assert max(map(len, text.splitlines())) <= 100
    assert ("--config URI" in text) == VERBS[name].takes_config


@pytest.mark.parametrize("run_id", ["../../x", "/x", "", "a b", "x" * 300])
def test_a_run_id_that_is_not_a_file_name_is_refused(run_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["worker", "--event", "start", "--run-id", run_id]) == 2
    assert "--run-id" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "12", "g" * 64, "a" * 65])
def test_an_invalid_checksum_is_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config", "/x", "--config-sha256", text]) == 2
    assert "--config-sha256" in capsys.readouterr().err
    assert parse(["plan", "--config", "/x", "--config-sha256", "A" * 64]).config_sha256 == "a" * 64


def test_a_checksum_without_a_configuration_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--config-sha256", "a" * 64]) == 2
    assert "--config, which is missing" in capsys.readouterr().err


def test_a_hook_accepts_all_args_of_its_script(tmp_path: Path) -> None:
    args = ["--package", "s3://b/petal-node", "--sha256", "a" * 64, "--config", "s3://b/petal.yaml", "--strict"]
    options = parse(["hook", "configured", *args, "--root", str(tmp_path)])
    assert (options.event, options.config, options.strict) == ("configured", "s3://b/petal.yaml", True)


@pytest.mark.parametrize("live", [True, False])
def test_a_hook_with_root_option_starts_no_systemd_unit(
    live: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit and its environment file would be outside of --root."""
    units: list[str | None] = []
    monkeypatch.setattr(systemd, "detach", lambda *_, unit, **_options: units.append(unit))
    monkeypatch.setattr(hook, "_wait", lambda options, services, *_: Recorder(options, services).record)
    monkeypatch.setattr(Paths, "live", live)
    monkeypatch.setattr(System, "is_root", lambda _: True)
    assert main(["hook", "start", "--root", str(tmp_path), "-q"]) == 0
    assert [unit is not None for unit in units] == [live]


@pytest.mark.parametrize(
    "argv", [["bootstrap", "--accept-stor"], ["plan", "--exit"], ["--conf", "/x", "plan"], ["status", "--js"]]
)
def test_options_cannot_be_abbreviated(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert "usage:" in capsys.readouterr().err


def test_config_is_refused_by_every_verb_that_reads_no_configuration() -> None:
    takes = {name for name, verb in VERBS.items() if verb.takes_config and (verb.help or name == "hook")}
    assert takes == {"bootstrap", "plan", "check", "lockfile", "hook"}


@pytest.mark.parametrize("verb", [name for name, verb in VERBS.items() if not verb.takes_config])
def test_a_verb_without_config_names_the_verb_that_accepts_it(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([verb, "--config", "/root/petal.yaml", "--root", str(tmp_path)]) == 2
    assert "petal-node bootstrap --config /root/petal.yaml" in capsys.readouterr().err
    assert list(tmp_path.rglob("*.json")) == []


def test_a_relative_configuration_is_in_the_current_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert parse(["plan", "--config", "petal.yaml"]).config == f"{tmp_path}/petal.yaml"
    assert parse(["plan", "--config", "s3://b/petal.yaml"]).config == "s3://b/petal.yaml"
    assert parse(["plan"]).config is None


def test_programs_get_the_home_of_their_user(monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    assert base_env("nobody")["HOME"] == nobody.pw_dir
    monkeypatch.setattr(os, "geteuid", lambda: nobody.pw_uid)
    assert base_env()["HOME"] == nobody.pw_dir


def test_version_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("petal-node ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--root", "/nowhere"], "the verb is missing"),
        (["status", "--root", "/nowhere"], "--root /nowhere is not a directory"),
        (["status", "--root", ""], "the path is empty"),
        (["status", "--root", "/tmp/a b"], "'/tmp/a b' has a space, and Lmod writes no cache for such a path"),
        (["status", "--timeout", "x"], "'x' is not a number of seconds"),
        (["status", "--timeout", "nan"], "'nan' is not a number of seconds"),
        (["bootstrap", "--lock-wait", "inf"], "'inf' is not a number of seconds"),
        (["gc", "--lock-wait=-1"], "'-1' is not a number of seconds"),
        (["log", "--run", ""], "'' is not the id of a run"),
        (["gc", "--keep", "x"], "'x' is not a positive number"),
    ],
)
def test_the_error_of_a_wrong_command_line_names_the_mistake(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err
