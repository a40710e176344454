"""Remedies run as printed, and none is the command that has just failed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootstrap.commands.arguments import parse
from bootstrap.core.errors import PetalError
from bootstrap.core.model import Finding, NodeReport, Outcome, Result, Severity, Status, StepReport, failed
from bootstrap.core.options import Options
from bootstrap.report import render
from bootstrap.report.remedies import repeats, runnable

SUDO = "sudo /usr/local/bin/petal-node"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("petal-node repair --yes    # writes it again", f"{SUDO} repair --yes    # writes it again"),
        ("rm a    # then: petal-node repair", f"rm a    # then: {SUDO} repair"),
        ("on the head node: petal-node bootstrap", f"on the head node: {SUDO} bootstrap"),
        ("petal-node explain job", "petal-node explain job"),
        ("petal-node gc --keep 1", "petal-node gc --keep 1"),
        ("petal-node gc --yes", f"{SUDO} gc --yes"),
        ("petal-node log --run r", f"{SUDO} log --run r"),
        ("systemctl start slurmctld", "sudo systemctl start slurmctld"),
        ("systemctl status munge", "systemctl status munge"),
        ("mount the previous file system", "mount the previous file system"),
        ("chown root: /a && chmod go-w /a", "sudo chown root: /a && sudo chmod go-w /a"),
        ("umount -l /fsx && mount /fsx", "sudo umount -l /fsx && sudo mount /fsx"),
        ("findmnt /fsx; mount -o remount,rw /fsx", "findmnt /fsx; sudo mount -o remount,rw /fsx"),
        ("srun -w n petal-node check", "srun -w n petal-node check"),
    ],
)
def test_a_user_gets_sudo_with_the_path_if_the_verb_needs_root(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runnable(line, Options("check")) == line
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert runnable(line, Options("check")) == expected


def test_root_whose_path_lacks_the_program_gets_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell of ``sudo bash`` with the secure_path of Red Hat."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/usr/local/bin/petal-node")
    assert runnable("petal-node repair", Options("check")) == "/usr/local/bin/petal-node repair"
    assert runnable("on q-1: petal-node repair", Options("check")) == "on q-1: petal-node repair"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("petal-node plan    # again", "/a/petal-node plan    # again"),
        ("petal-node explain job", "/a/petal-node explain job"),
        ("petal-node repair", "sudo /a/petal-node repair"),
        ("on q-1: petal-node status", "on q-1: petal-node status"),
        ("on q-1: petal-node repair", f"on q-1: {SUDO} repair"),
    ],
)
def test_before_petal_node_is_installed_a_command_has_the_path_of_the_running_archive(
    line: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert runnable(line, Options("plan"), Path("/a/petal-node")) == expected


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        (
            ["bootstrap", "--config", "/a b"],
            "petal-node bootstrap --accept-storage",
            "petal-node bootstrap --config '/a b' --accept-storage",
        ),
        (
            ["bootstrap", "--layout", "ami", "--config", "s3://b/k"],
            "petal-node bootstrap    # continues",
            "petal-node bootstrap --layout ami --config s3://b/k    # continues",
        ),
        (["plan", "--config", "/p"], "then: petal-node plan --config FILE", "then: petal-node plan --config /p"),
        (["plan", "--config", "/p"], "then: petal-node bootstrap", "then: petal-node bootstrap --config /p"),
        (["plan", "--config", "/p"], "on the head node: petal-node bootstrap --config FILE", ""),
        (
            ["plan", "--config", "s3://b/k"],
            "on the head node: petal-node bootstrap --config FILE",
            "on the head node: petal-node bootstrap --config s3://b/k",
        ),
        (["bootstrap", "--config", "/p"], "petal-node status", ""),
        (["bootstrap"], "petal-node bootstrap --config FILE", ""),
        (["hook", "configured", "--config", "s3://b/k"], "petal-node bootstrap", ""),
    ],
)
def test_the_arguments_of_the_failed_command_are_kept(command: list[str], line: str, expected: str) -> None:
    assert runnable(line, parse(command)) == (expected or line)


@pytest.mark.parametrize(
    ("command", "line", "expected"),
    [
        (["repair"], "petal-node repair", True),
        (["repair", "--yes"], "petal-node repair --yes    # installs it again", True),
        (["repair"], "petal-node repair --yes    # installs it again", False),
        (["repair"], "on the head node: petal-node repair", True),
        (["repair"], "rm a    # then: petal-node repair", False),
        (["repair", "--dry-run"], "petal-node repair", False),
        (["check"], "petal-node repair", False),
        (["check", "--nodes", "all"], "petal-node check", False),
        (["status"], "petal-node status", True),
        (["hook", "configured"], "petal-node bootstrap", False),
        (["explain", "nonsense"], "petal-node explain    # lists all", False),
        (["rollback", "abc"], "petal-node rollback", False),
        (["rollback", "abc"], "petal-node rollback abc", True),
    ],
)
def test_the_command_that_has_just_failed_is_known(command: list[str], line: str, expected: bool) -> None:
    options = parse(command)
    assert repeats(line, options, 3, on_head=True) == expected
    assert not repeats(line, options, 75, on_head=True)  # try again


def test_no_output_has_the_command_that_has_just_failed(capsys: pytest.CaptureFixture[str]) -> None:
    remedy = ("petal-node status", "petal-node explain file-failed")
    finding = Finding("root", Severity.FAIL, "broken", remedy=remedy)
    results = [
        failed("status", PetalError("broken", remedy=remedy)),
        Result("status", Status.DEGRADED, NodeReport("n", "head", "", None, (finding,))),
    ]
    for result in results:
        render.show(result, Options("status"))
        render.show(result, Options("status", json=True))
        output = capsys.readouterr()
        assert "petal-node status\n" not in output.out + output.err
        assert '"petal-node status"' not in output.out
        assert (output.out + output.err).count("petal-node explain file-failed") == 2
    step = StepReport("root", Outcome.FAILED, "broken", remedy=remedy, error={"code": "failed"}, exit=1)
    render.Progress(Options("status")).step(step)
    assert "petal-node status" not in capsys.readouterr().out


PROGRAMS = "cat|chmod|chown|curl|df|du|findmnt|fuser|getfacl|ldd|less|ls|mv|rm|setfacl|sha256sum|stat|umount"
TAKES_PATH = re.compile(rf"^(?:.*(?:then:|example:|-w \ue000) )?(?:{PROGRAMS}) |^mount (?!\ue000 at)")


def unquoted(source: str) -> Iterator[str]:
    """The values in commands of f-strings that are not quoted for a shell; a comment needs no quotes."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        values = iter([value for value in node.values if isinstance(value, ast.FormattedValue)])
        text = "".join(str(value.value) if isinstance(value, ast.Constant) else "\ue000" for value in node.values)
        for command in re.split(r"(?:;|&&|\|) ", text):
            first = TAKES_PATH.match(command)
            end = len(command.partition("#")[0])
            for place in re.finditer("\ue000", command):
                entry = next(values)
                value = "" if entry.format_spec else ast.unparse(entry.value)  # a number has a format
                if first and first.end() <= place.start() < end and not re.match(r"$|quoted\(|shlex\.", value):
                    yield f"{node.lineno}: {value}"


def test_a_path_in_a_command_is_quoted() -> None:
    """A name may have a space or ``$(...)``: on the command line, in the configuration, of a file that a user made."""
    assert [*unquoted('f"ls -l {a}; mv {quoted(b)} {c}    # {d}"')] == ["1: a", "1: c"]
    package = Path(__file__).parents[2] / "bootstrap"
    found = [f"{path.name}:{value}" for path in package.rglob("*.py") for value in unquoted(path.read_text())]
    assert found == []
