"""The hook scripts for real, in dash and bash: what they hand on, how they end, and what they leave."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from bootstrap.archive import build
from tests.real.hooks import ROOT, failed, fake_aws, ran_the_archive, until

# what it hands on


def test_the_archive_gets_the_event_and_every_argument(hook):
    ran = hook.fetch(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")
    ran_the_archive(hook, ran)
    given = re.findall(r"argument \[(.*)\]", ran.out)
    expected = ["hook", "configured", *hook.arguments(hook.archive.as_uri(), "--role", "head", "a b", "$(x)", "*", "")]
    assert given == [*expected, "--root", str(hook.prefix)]
    assert "home [unset] lang [unset] umask [0022]" in ran.out
    assert "stdin" not in ran.out


def test_arguments_with_equals_signs_and_capital_letters(hook):
    ran = hook.run(f"--package={hook.archive.as_uri()}", f"--sha256={hook.sha256.upper()}")
    ran_the_archive(hook, ran)


@pytest.mark.parametrize("event", build.EVENTS)
def test_every_event_in_the_single_file_and_in_the_checkout(hook, event):
    hook.script.write_bytes(build.hook(ROOT / "actions", event))
    for script in (hook.script, ROOT / f"actions/on_node_{event}.sh"):
        hook.script = script
        assert f"argument [hook]\nargument [{event}]\n" in hook.fetch(hook.archive.as_uri()).out


def test_a_source_file_that_was_uploaded_says_what_to_upload(hook, tmp_path):
    shutil.copy(ROOT / "actions/on_node_start.sh", hook.script)
    ran = hook.run("--package", "s3://b/k")
    assert (ran.code, ran.err) == (0, "")
    assert "upload dist/on_node_start.sh instead" in ran.out
    assert hook.run("--strict").code == 1


def test_a_common_file_that_anybody_could_have_written_is_not_sourced(hook, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    hook.script = Path(shutil.copy(ROOT / "actions/on_node_start.sh", shared / "tmp123"))
    (shared / "fetch.sh").write_text("echo STOLEN\n")
    assert "STOLEN" not in hook.run().out


def test_closed_stdin_foreign_directory_deleted_script(hook, tmp_path):
    hook.stand_in("aws", f'rm -f {hook.script}\nsleep 0.2\nfor last; do :; done; cp {hook.archive} "$last"\n')
    gone = tmp_path / "gone"
    gone.mkdir()
    hook.script, script = tmp_path / "closed", hook.script
    hook.script.write_text(f'rmdir {gone}; exec {hook.shell} {script} "$@" <&-')
    ran = hook.fetch("s3://b/k", cwd=gone)  # the shell itself complains of the directory on stderr
    assert ran.code == 0
    assert "argument [configured]" in ran.out
    assert not script.exists()


# wrong use


SECRET = "it holds a password or a signature, and everybody can list the arguments of a process"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "--package is not given"),
        (["--package", "s3://b/k"], "--sha256 is not given"),
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
def test_wrong_arguments(hook, arguments, why):
    assert failed(hook, hook.run(*arguments), "hook-usage")["why"] == why
    kept = [path for path in hook.prefix.rglob("*") if path.is_file() and b"hidden" in path.read_bytes()]
    assert kept == [], "a secret was written"


def test_strict_turns_every_failure_of_the_hook_into_1(hook, tmp_path):
    failed(hook, hook.run("--strict"), "hook-usage", exit_code=1)
    hook.prefix = tmp_path / "other"
    failed(hook, hook.fetch(f"file://{tmp_path}/none", "--strict"), "archive-missing", exit_code=1)


# how the archive ends


@pytest.mark.parametrize("ends", ["1", "3", "69", "126", "127", "KILL"])
def test_whatever_the_archive_ends_with_the_hook_ends_with_0(hook, ends):
    hook.env["ARCHIVE_ENDS"] = ends
    failed(hook, hook.fetch(hook.archive.as_uri()), "archive-failed")


@pytest.mark.parametrize(("ends", "code"), [("1", 1), ("3", 3), ("78", 78), ("69", 69), ("126", 1), ("KILL", 1)])
def test_strict_hands_the_code_on(hook, ends, code):
    hook.env["ARCHIVE_ENDS"] = ends
    ran = hook.fetch(hook.archive.as_uri(), "--strict")
    assert ran.code == code
    assert len(hook.records()) == (ends in ("69", "126", "KILL"))  # of the others the tool writes its own


def test_a_disk_that_cannot_be_written_costs_the_stack_and_not_the_node(hook, tmp_path):
    hook.prefix = tmp_path / "a-file"
    hook.prefix.write_text("")
    ran = hook.fetch(hook.archive.as_uri())
    assert ran.code == 0
    assert "cannot be kept under" in ran.err
    assert len(ran.err.splitlines()) == 3


def test_a_terminated_hook_leaves_no_part(hook, tmp_path):
    fake_aws(hook, tmp_path, 'echo half >"$target"; sleep 1; exit 1')
    command = [hook.shell, str(hook.script), *hook.arguments("s3://b/k")]
    process = subprocess.Popen(command, env=hook.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: bool(hook.left_over()))  # the transfer is under way
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
    assert hook.left_over() == []
