"""The real hook scripts in dash and bash: the arguments that they pass on, their exit codes and their files."""

from __future__ import annotations

import os
import re
import signal
import subprocess

import pytest

from bootstrap.archive import build
from tests.real.hooks import ROOT, failed, fake_aws, ran_the_archive, until

# the arguments that it passes on


def test_the_archive_gets_the_event_and_every_argument(hook):
    ran = hook.fetch(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")
    ran_the_archive(hook, ran)
    given = re.findall(r"argument \[(.*)\]", ran.out)
    expected = ["hook", "configured", *hook.arguments(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")]
    assert given == [*expected, "--root", str(hook.prefix)]
    assert "home [unset] lang [unset] umask [0022]" in ran.out
    assert "stdin" not in ran.out


def test_arguments_can_have_equals_signs_and_capital_letters(hook):
    ran = hook.run(f"--package={hook.archive.as_uri()}", f"--sha256={hook.sha256.upper()}")
    ran_the_archive(hook, ran)


@pytest.mark.parametrize("event", build.EVENTS)
def test_every_event_has_a_script(hook, event):
    hook.script.write_bytes(build.hook(ROOT / "actions", event))
    assert f"argument [hook]\nargument [{event}]\n" in hook.fetch(hook.archive.as_uri()).out


def test_the_source_file_only_names_the_files_to_upload(hook):
    hook.script = ROOT / "actions/on_node.sh"
    ran = hook.fetch(hook.archive.as_uri())
    assert ran.code == 0
    assert "make dist, and upload dist/on_node_configured.sh" in ran.err
    assert hook.left_over() == []
    assert hook.fetch(hook.archive.as_uri(), "--strict").code == 1


def test_a_hook_runs_with_closed_stdin_in_a_foreign_directory_after_its_deletion(hook, tmp_path):
    hook.substitute("aws", f'rm -f {hook.script}\nsleep 0.2\nfor last; do :; done; cp {hook.archive} "$last"\n')
    gone = tmp_path / "gone"
    gone.mkdir()
    hook.script, script = tmp_path / "closed", hook.script
    hook.script.write_text(f'rmdir {gone}; exec {hook.shell} {script} "$@" <&-')
    ran = hook.fetch("s3://b/k", cwd=gone)  # the shell itself reports the directory on stderr
    assert ran.code == 0
    assert "argument [configured]" in ran.out
    assert not script.exists()


# usage errors


SECRET = "it contains a password or a signature, and every user can list the arguments of a process"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--package is missing"),
        (["--package", "s3://b/k"], "--sha256 is missing"),
        (["--package"], "--package has no value"),
        (["--package", "s3://b/k", "--sha256", "123"], "it must be 64 hexadecimal digits"),
        (["--package", "s3://b/k", "--sha256", "g" * 64], "it must be 64 hexadecimal digits"),
        (["--package", "http://b/k", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "/tmp/petal-node", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "s3://bucket", "--sha256", "0" * 64], "only s3://, https:// and file:// are accepted"),
        (["--package", "https://user:hidden@h/k", "--sha256", "0" * 64], SECRET),
        (["--package", "https://h/k?a=1&X-Amz-Signature=hidden", "--sha256", "0" * 64], SECRET),
        (["--package", "https://h/k?sig=hidden", "--sha256", "0" * 64], SECRET),
    ],
)
def test_wrong_arguments_are_a_usage_error_without_secrets(hook, arguments, why):
    assert f": {why}. Remedy: " in failed(hook, hook.run(*arguments), "hook-usage")
    kept = [path for path in hook.prefix.rglob("*") if path.is_file() and b"hidden" in path.read_bytes()]
    assert kept == [], "a secret was written"


def test_with_strict_every_failure_has_an_exit_code(hook, tmp_path):
    failed(hook, hook.run("--strict"), "hook-usage", exit_code=2)
    hook.prefix = tmp_path / "other"
    hook.prefix.mkdir()
    failed(hook, hook.fetch(f"file://{tmp_path}/none", "--strict"), "fetch-missing", exit_code=1)


# exit codes of the archive


@pytest.mark.parametrize("ends", ["1", "3", "69", "126", "127", "KILL"])
def test_the_hook_exits_0_for_any_exit_code_of_the_archive(hook, ends):
    hook.env["ARCHIVE_ENDS"] = ends
    failed(hook, hook.fetch(hook.archive.as_uri()), "archive-failed")


@pytest.mark.parametrize(("ends", "code"), [("1", 1), ("3", 3), ("78", 78), ("69", 69), ("126", 1), ("KILL", 1)])
def test_with_strict_the_hook_exits_with_the_archives_code(hook, ends, code):
    hook.env["ARCHIVE_ENDS"] = ends
    ran = hook.fetch(hook.archive.as_uri(), "--strict")
    assert ran.code == code
    assert len(hook.log()) == (ends in ("69", "126", "KILL"))  # the tool logs its own failures


def test_a_hook_exits_0_if_the_disk_cannot_be_written(hook, tmp_path):
    hook.prefix = tmp_path / "a-file"
    hook.prefix.write_text("")
    ran = hook.fetch(hook.archive.as_uri())
    assert ran.code == 0
    assert "cannot be kept under" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_terminated_hook_leaves_no_partial_file(hook, tmp_path):
    fake_aws(hook, tmp_path, 'echo half >"$target"; sleep 1; exit 1')
    command = [hook.shell, str(hook.script), *hook.arguments("s3://b/k")]
    process = subprocess.Popen(command, env=hook.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: bool(hook.left_over()))  # the transfer has begun
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert hook.left_over() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the test gives a directory to another user, which needs root")
@pytest.mark.parametrize("theirs", ["the path", "the directory above it", "sticky"])
def test_root_uses_no_prefix_that_a_user_could_change(hook, tmp_path, theirs):
    hook.prefix, log, victim = tmp_path / "theirs/node", tmp_path / "theirs/node/var/log", tmp_path / "victim"
    log.mkdir(parents=True)
    (log / "petal-node.log").symlink_to(victim)
    if theirs == "sticky":
        hook.prefix.chmod(0o1777)
    else:
        os.chown(hook.prefix if theirs == "the path" else hook.prefix.parent, 65534, 65534)
    for arguments in (hook.arguments(hook.archive.as_uri(), "--strict"), ["--strict"]):  # the second has an error
        ran = hook.run(*arguments)
        assert (ran.code, "is not used by root" in ran.err, list(hook.prefix.rglob("opt"))) == (1, True, [])
    assert not victim.exists()
