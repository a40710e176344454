"""The output for people and programs, compared with golden files; ``UPDATE_GOLDEN=1`` rewrites them."""

from __future__ import annotations

import ast
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands.explain import Explanation, Topic
from bootstrap.commands.lockfile import LockfileSummary
from bootstrap.commands.releases import ListedRelease, ReleaseList, Rollback
from bootstrap.commands.status import NodeStatus
from bootstrap.core.errors import ConfigError, ExitCode, PetalError, UsageError
from bootstrap.core.facts import Cluster, External, Facts, Mount, Queue, SharedDir
from bootstrap.core.model import (
    Finding,
    FleetReport,
    Lines,
    NodeReport,
    Outcome,
    Plan,
    Result,
    Role,
    RunRecord,
    Severity,
    Status,
    StepReport,
    Tool,
    failed,
    refused,
)
from bootstrap.core.options import Options
from bootstrap.host.locks import Holder
from bootstrap.prove.fleet import report_line, report_of_lines
from bootstrap.releases.gc import Cleanup, Unused
from bootstrap.report import render as report
from bootstrap.report import views
from bootstrap.report.lines import error_lines
from bootstrap.report.page import page, require_writable, write_page
from bootstrap.report.remedies import COMMAND, runnable
from bootstrap.state.desired import DesiredState, Proof
from tests.golden import compare_with_golden
from tests.world import HOST

GOLDEN = Path(__file__).with_name("golden")
STEPS = (
    StepReport("self-install", Outcome.OK, "version 0.1.0 is at /opt/petal-node/0.1.0/petal-node"),
    StepReport("storage", Outcome.CHANGED, "ext4 from /dev/nvme1n1, 812 GiB free, token 8c2afbf9", ("create it",)),
    StepReport("packages", Outcome.WOULD_CHANGE, "1 of 2 are missing", ("unpack cfd 24.1 into /opt/petal/x",)),
    StepReport(
        "spack", Outcome.FAILED, "not every package could be installed: it broke\nsince the disk is full",
        (), ("df -h /shared",), 3.2, {"code": "spack-install", "what": "it broke", "why": "", "remedy": ["df -h"]},
    ),
    StepReport("module-tree", Outcome.BLOCKED, "needs the step spack (failed)"),
    StepReport("desired-state", Outcome.SKIPPED, "the head node does it"),
    StepReport("proof", Outcome.SKIPPED, "the head node does it"),
)  # fmt: skip
RUN = RunRecord(
    "20261124T081405.123Z-1a2b3c", "hook", "configured", "head", "ip-10-0-0-10", "0.1.0", 42, "boot",
    "2026-11-24T08:14:05Z", "2026-11-24T08:15:05Z", Status.DEGRADED, 1, "3f9c1a2b4d5e", STEPS, hook_may_return=True,
)  # fmt: skip
PROGRESS = "installing 7 of 20: hdf5 (build), openmpi (configure); 6 min elapsed"
INSTALLING = replace(
    RUN, finished=None, exit=None, status=Status.RUNNING,
    steps=(STEPS[0], StepReport("spack", Outcome.RUNNING, PROGRESS)),
)  # fmt: skip
GOOD = Finding("storage", Severity.OK, "nfs4 from 10.0.0.10:/shared, the same as on ip-10-0-0-10: token 8c2afbf9")
BAD = Finding(
    "load:fftw", Severity.FAIL, "ended with 1", "unknown module / see module spider", ("bash -lc 'module load fftw'",)
)
MISFIT = Finding(
    "cpu",
    Severity.FAIL,
    "the release was built for x86_64_v4, this node has x86_64_v3",
    "its CPU is zen3",
    ("spack: ...",),
)
WARN = Finding("release", Severity.WARN, "current is a, desired is b", "", ("petal-node status",))
TALKS = Finding(
    "mpi:openmpi/4.1", Severity.OK, "2 ranks on a and b sent each other 4 MiB in 0.02 s with Open MPI v4.1.4"
)
SILENT = Finding(
    "mpi:mpich/4.1", Severity.FAIL, "network: the ranks hang in MPI_Finalize", "no end within 60 s", ("ip -br address",)
)
NODES = tuple(
    NodeReport(f"queue1-st-c5-{number}", "compute", "2026-11-24T08:20:00Z", "3f9c1a2b4d5e", findings)
    for number, findings in enumerate(((GOOD,), (GOOD,), (GOOD, MISFIT, BAD)), start=1)
)
LEFT = tuple(
    NodeReport(f"queue1-dy-c5-{number}", "compute", "2026-11-24T08:20:00Z", None, (finding,))
    for number, finding in enumerate((
        Finding("slurm", Severity.SKIP, "not checked: powered off (idle~)"),
        Finding("slurm", Severity.SKIP, "not checked: powered off (idle~)"),
        Finding(
            "slurm", Severity.WARN, "not checked: down (down)", "Not responding", ("scontrol show node queue1-dy-c5-3",)
        ),
    ), start=1)
)  # fmt: skip
WIDE = (
    *(
        NodeReport(f"a-queue-with-a-long-name-st-c5-{number}", "compute", "t", "r", findings)
        for number, findings in enumerate((
            (GOOD,), (GOOD, MISFIT), (GOOD, BAD), (GOOD, MISFIT, BAD), (GOOD,), (GOOD, MISFIT),
        ))
    ),
    *LEFT,
)  # fmt: skip
LOGIN = NodeReport("n", "login", "t", None, (GOOD, WARN, BAD))
CONFIG_ERROR = ConfigError(
    "petal.yaml has 2 mistakes", [("layout", "unknown"), ("storge", "unknown key")], remedy="fix"
)
CONFIG = {"stack": "starter", "layout": "shared", "spack": {"specs": ["samtools"]}, "packages": [{}, {}]}
FACTS = Facts(
    Cluster(
        Role.HEAD, "demo", "us-east-1", shared=(SharedDir("/shared", "ebs"),), queues=(Queue("q1", ("c5.large",)),)
    ),
    HOST,
    (Mount("/dev/sdb", "/shared", "ext4", ("rw",)),),
)
NOW = "2026-11-24T10:30:00Z"
HOLDER = Holder("ip-10-0-0-10", 42, "boot", 1.0, "2026-11-24T08:14:05Z", RUN.run_id)
UNKNOWN = NodeStatus("n", None, NOW, "0.1.0", None, (), FACTS)
FULL = NodeStatus(
    "ip-10-0-0-10", Role.HEAD, NOW, "0.2.0", DesiredState("0.1.0", None, CONFIG, {}, "aaaabbbbcccc"), (RUN,), FACTS,
    current="3f9c1a2b4d5e", install=RUN, holder=HOLDER, proof=Proof("3f9c1a2b4d5e", "2026-11-24T08:20:00Z", NODES),
    proved=2, checked=3, reports=NODES,
)  # fmt: skip
EXTERNALS = (External("slurm", "slurm@24.05.7", "/opt/slurm", Path("/opt/slurm")),)
RELEASES = ReleaseList("/opt/petal", "3f9c1a2b4d5e", "aaaabbbbcccc", (
    ListedRelease(
        "3f9c1a2b4d5e", "2026-11-24T08:14:05Z", "2026-11-24T08:14:04Z", True, "", ("samtools@1.19", "gromacs +mpi"),
        34, 12, 3 << 30,
    ),
    ListedRelease(
        "aaaabbbbcccc", None, "2026-10-01T08:00:00Z", True, "", tuple(f"p{number}" for number in range(12)),
        12, 12, None,
    ),
    ListedRelease(
        "ddddeeeeffff", None, None, False,
        "/opt/petal/releases/ddddeeeeffff/desired.json was written by a newer petal-node", ("zlib@1.3",), 0, 0, 4096,
    ),
))  # fmt: skip
GARBAGE = Cleanup(
    {"3f9c1a2b4d5e": "current", "aaaabbbbcccc": "job 17 of alice uses it"}, {"ddddeeeeffff": 5 << 20},
    tuple(Unused(Path(f"/opt/petal/store/p{number}-1.0-aaaaaaa"), 1 << 28) for number in range(12)),
    tuple(Unused(Path("/shared/petal") / name, 2 << 20) for name in ("archive/aa", "state/nodes/q9.json")),
    ("2 packages in /opt/petal/store-0.23: installed by another version of Spack",), 1, (12 << 28) + (9 << 20), False,
)  # fmt: skip
REPAIR = replace(RUN, verb="repair", event="", findings=(GOOD, MISFIT, WARN))
LOCKFILE = LockfileSummary(
    "builder", "s3://BUCKET/locks/spack-0f343b0931.lock", "0f" * 32, 34, ("x86_64_v4", "x86_64_v3"), "debian12",
    "2.36", "gcc@12.2.0", "1.1.1", ("slurm@24.05.7 +pmix at /opt/slurm",),
)  # fmt: skip
RESULTS: dict[str, Result[Any]] = {
    "run": Result("hook", Status.DEGRADED, RUN, run_id=RUN.run_id, exit=1),
    "plan": Result(
        "plan", Status.CHANGED, Plan("n", Role.HEAD, "shared", "3f9c", {}, STEPS, ("petal-node bootstrap",))
    ),
    "check": Result("check", Status.DEGRADED, LOGIN),
    "matrix": Result("check", Status.DEGRADED, FleetReport(NODES)),
    "repair": Result("repair", Status.DEGRADED, REPAIR),
    "repair-nothing": Result("repair", Status.OK, replace(REPAIR, steps=STEPS[:1], findings=(GOOD,))),
    "repair-plan": Result(
        "repair", Status.DEGRADED, Plan("n", Role.HEAD, "shared", "3f9c", {}, STEPS, ("petal-node repair",))
    ),
    "matrix-wide": Result("check", Status.DEGRADED, FleetReport(WIDE)),
    "matrix-between": Result("check", Status.DEGRADED, FleetReport(NODES[:2], (TALKS, SILENT))),
    "matrix-empty": Result("check", Status.DEGRADED, FleetReport(())),
    "status": Result("status", Status.DEGRADED, FULL),
    "status-installing": Result(
        "status", Status.RUNNING,
        replace(UNKNOWN, node="q1-st-c5-1", role=Role.COMPUTE, install=INSTALLING, holder=HOLDER),
    ),
    "status-nothing": Result("status", Status.OK, UNKNOWN),
    "lockfile": Result("lockfile", Status.CHANGED, LOCKFILE),
    "releases": Result("releases", Status.OK, RELEASES),
    "rollback": Result(
        "rollback", Status.CHANGED,
        Rollback(
            "aaaabbbbcccc", "3f9c1a2b4d5e", True, "2026-10-01T08:00:00Z", "petal-node rollback 3f9c1a2b4d5e"
        ),
    ),
    "rollback-nothing": Result("rollback", Status.OK, Rollback("aaaabbbbcccc", "aaaabbbbcccc", False, None)),
    "gc": Result("gc", Status.OK, GARBAGE),
    "gc-nothing": Result("gc", Status.OK, Cleanup({"3f9c1a2b4d5e": "current"}, {}, (), (), (), 3, 0, True)),
    "lines": Result("check", Status.OK, Lines(("one", "two"))),
    "explain": Result("explain", Status.OK, Explanation((Topic("75", "exit code", "- meaning: try again"),), {})),
    "explain-all": Result("explain", Status.OK, Explanation((), {"check": ("cpu", "mpi")})),
    "version": Result("version", Status.OK, Tool("0.1.0", Path("/opt/petal-node/0.1.0/petal-node"), "0f" * 32)),
    "error": failed("hook", CONFIG_ERROR),
}  # fmt: skip


def text_of(result: Result[Any], **options: Any) -> str:
    return "\n".join(map(str, views.text_lines(result, **options))) + "\n"


def golden(name: str, text: str) -> None:
    compare_with_golden(GOLDEN / f"{name}.txt", text)


@pytest.mark.parametrize("name", RESULTS)
def test_the_text_equals_its_golden_file(name: str) -> None:
    golden(name, text_of(RESULTS[name]))


def test_status_counts_only_checked_nodes_as_ok() -> None:
    text = text_of(Result("status", Status.OK, replace(FULL, reports=LEFT)))
    assert "reports   0 of 3 nodes ok" in text


def test_verbose_status_ends_with_the_facts() -> None:
    brief, text = (
        text_of(RESULTS["status"]),
        text_of(Result("status", Status.DEGRADED, replace(FULL, externals=EXTERNALS))),
    )
    assert text.startswith(brief)
    golden("status-verbose", text[len(brief) :])


def test_the_html_page_is_complete_and_self_contained() -> None:
    evil = Finding("run:<script>alert(1)</script>", Severity.FAIL, "ended with 1 & <b>", "why <i>", ("echo '<x>'",))
    nodes = [
        *NODES,
        *LEFT,
        NodeReport("q-1", "compute", "t", "r", (GOOD, evil)),
        NodeReport("q-2", "compute", "t", "r", (GOOD, evil)),
    ]
    result = Result("check", Status.DEGRADED, FleetReport(tuple(nodes), (TALKS, SILENT)), run_id="run-1")
    text = page(result, Options("check"), "2026-11-24T08:21:00Z")
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "i", "x"}
    assert "http" not in text
    assert "<h1>proved on 2 of 5 nodes, 3 not checked</h1>" in text
    assert text.count("<b>q-[1-2]</b>: run:&lt;script&gt;alert(1)&lt;/script&gt;: ended with 1 &amp; &lt;b&gt;") == 1
    assert "<td>queue1-dy-c5-[1-2]</td><td>not checked: powered off (idle~)</td>" in text
    assert "<td>queue1-dy-c5-3</td><td>not checked: down (down)</td><td>Not responding</td>" in text


def test_a_page_with_any_file_name_can_be_written() -> None:
    finding = Finding("permissions", Severity.WARN, "/x/caf" + os.fsdecode(b"\xe9"))
    result = Result("check", Status.DEGRADED, NodeReport("q-1", "head", "t", "r", (finding,)))
    assert r"/x/caf\udce9" in page(result, Options("check"), "t").encode().decode()


def test_the_commands_of_a_page_act_on_the_same_tree() -> None:
    finding = Finding("storage", Severity.FAIL, "it is lost", remedy=("petal-node repair",))
    result = Result("check", Status.DEGRADED, NodeReport("q-1", "compute", "t", "r", (finding,)))
    assert "<pre>petal-node repair --root /t</pre>" in page(result, Options("check", root=Path("/t")), "t")


def test_a_page_that_cannot_be_written_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_writable(tmp_path / "check.html")
    monkeypatch.setattr("os.access", lambda path, _mode: path != tmp_path / "closed")  # root may write anywhere
    (tmp_path / "closed").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    for file, why in (
        (tmp_path, "it is a directory"),
        (Path(os.devnull), "it is not a regular file"),
        (tmp_path / "pipe", "it is not a regular file"),
        (tmp_path / "file" / "check.html", f"{tmp_path / 'file'} is not a directory"),
        (tmp_path / "closed" / "check.html", f"{tmp_path / 'closed'} is not writable"),
    ):
        with pytest.raises(UsageError) as caught:
            require_writable(file)
        assert caught.value.why == why


def test_a_page_that_replaces_a_file_keeps_its_owner_and_mode(tmp_path: Path) -> None:
    file = tmp_path / "check.html"
    file.write_text("an earlier page")
    file.chmod(0o600)
    if os.geteuid() == 0:
        os.chown(file, 1234, 2345)
    before = file.stat()
    write_page(file, "<p>")
    after = file.stat()
    assert file.read_text() == "<p>"
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    write_page(tmp_path / "new.html", "<p>")
    assert (tmp_path / "new.html").stat().st_mode & 0o777 == 0o644


def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("root is needed to give a link to another user")
    victim, own, other = tmp_path / "victim", tmp_path / "own", tmp_path / "other"
    victim.write_text("x")
    own.symlink_to(victim)
    other.symlink_to(victim)
    os.chown(other, 1234, 1234, follow_symlinks=False)
    with pytest.raises(UsageError) as caught:
        require_writable(other)
    assert caught.value.why == "it is a link of another user"
    write_page(other, "<p>")  # made after the test
    assert (victim.read_text(), other.read_text(), other.is_symlink()) == ("x", "<p>", False)
    assert (other.stat().st_uid, other.stat().st_mode & 0o777) == (0, 0o644)
    write_page(own, "<p>")
    assert (victim.read_text(), own.is_symlink()) == ("<p>", True)


class Tags(HTMLParser):
    """Collects the elements of a page, and those still open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, _attrs: object) -> None:
        self.seen.add(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_steps_that_were_printed_during_the_run_are_not_printed_again() -> None:
    text = text_of(RESULTS["run"], steps_shown=True)
    assert "8c2afbf9" not in text
    assert "desired-state, proof: the head node does it" in text


@pytest.mark.parametrize("name", RESULTS)
def test_json_is_one_envelope(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report.show(RESULTS[name], Options("x", json=True))
    output = capsys.readouterr()
    envelope: dict[str, Any] = json.loads(output.out)
    assert set(envelope) == {"petal", "command", "status", "exit_code", "run_id", "data", "errors"}
    assert envelope["petal"] == 1
    assert output.out.count("\n") == 1
    assert output.err == ""


@pytest.mark.parametrize(
    ("name", "shown", "hidden"),
    [
        ("plan", "  !", "  ~"),
        ("check", "  FAIL", "  ok"),
        ("matrix", "queue1-st-c5-3:\n  FAIL cpu", "storage"),
        ("matrix-between", "between the nodes:\n  FAIL mpi:mpich/4.1", "openmpi"),
        ("run", "  x", "summary"),
        ("repair", "try  ", "petal-node repair on"),
        ("rollback", "", "undo"),
        ("releases", "  !    ddddeeeeffff  /opt/petal/releases/ddddeeeeffff/desired.json was written", "zlib"),
    ],
)
def test_quiet_output_has_the_failures_with_their_remedies(
    name: str, shown: str, hidden: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report.show(RESULTS[name], Options("x", quiet=True))
    output = capsys.readouterr().out
    assert shown in output
    assert hidden not in output
    assert bool(output) == bool(shown)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("rollback", "undo: petal-node rollback{} 3f9c1a2b4d5e"),
        ("releases", "petal-node rollback{} makes aaaabbbbcccc current"),
        ("gc", "try  petal-node gc{} --keep 1 --yes"),
    ],
)
def test_the_commands_to_type_act_on_the_same_tree(name: str, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    for options, more in (
        (Options("x"), ""),
        (Options("x", root=Path("/a b"), role=Role.HEAD), " --role head --root '/a b'"),
    ):
        report.show(RESULTS[name], options)
        assert command.format(more) in capsys.readouterr().out


def test_a_remedy_acts_on_the_same_tree_except_of_a_program_with_a_path() -> None:
    options = Options("x", root=Path("/t"))
    assert runnable("rm a; then: petal-node repair    # again", options) == (
        "rm a; then: petal-node repair --root /t    # again"
    )
    for text in ("/t/usr/local/bin/petal-node repair", "petal-node hook --help", "petal-node lockfile --help"):
        assert runnable(text, options) == text


@pytest.mark.parametrize(
    ("line", "role", "expected"),
    [
        ("petal-node repair", "compute", "petal-node repair --role compute --root /t"),
        ("on the head node: petal-node check", "compute", "on the head node: petal-node check --root /t"),
        ("on the head node: petal-node check", "head", "on the head node: petal-node check --role head --root /t"),
        (
            "on q-1: petal-node bootstrap    # ends them",
            "head",
            "on q-1: petal-node bootstrap --root /t    # ends them",
        ),
        ("srun -w q-1 petal-node check", "head", "srun -w q-1 petal-node check --root /t"),
    ],
)
def test_a_command_for_another_machine_has_the_tree_but_not_this_role(line: str, role: str, expected: str) -> None:
    options = Options("check", root=Path("/t"), role=Role(role))
    assert runnable(line, options) == expected
    if not line.startswith("on the head"):
        assert "--role" not in runnable(line, replace(options, nodes="all"))


def test_every_remedy_for_another_machine_starts_with_its_name() -> None:
    """``runnable`` knows such a line by its first word."""
    package = Path(__file__).parents[2] / "bootstrap"
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if not COMMAND.search(text) or "\n" in text:
                continue
            named = re.search(r"\bon (?:the head|the machine|that|another|a machine)", text)
            assert not named or named.start() == 0, f"{path}: {text}"


def test_quiet_output_is_never_empty_if_something_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for name, result in RESULTS.items():
        report.show(result, Options("x", quiet=True))
        output = capsys.readouterr()
        assert (output.out or output.err) or result.status not in (Status.DEGRADED, Status.FAILED), name


def test_an_error_goes_to_stderr_in_ascii_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    error = PetalError("the dïsk is full", why="\x1b[31mno space", remedy="df -h")
    report.show(failed("plan", error), Options("plan", quiet=True))
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.isascii()
    assert "\x1b" not in output.err
    assert "try  df -h" in output.err


def test_every_exit_code_has_one_meaning() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "DEGRADED": 3, "NO_PYTHON": 69, "BUG": 70, "TRY_AGAIN": 75, "NOT_ROOT": 77,
        "CONFIG": 78, "INTERRUPTED": 130, "TERMINATED": 143,
    }  # fmt: skip


def test_remedies_name_the_tree_as_text_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = failed("check", ConfigError("this node has no configuration", remedy="petal-node bootstrap --config FILE"))
    tree = Options("check", root=Path("/srv/tree"), role=Role.HEAD)
    report.show(result, replace(tree, json=True))
    (error,) = json.loads(capsys.readouterr().out)["errors"]
    assert error["remedy"] == ["petal-node bootstrap --role head --root /srv/tree --config FILE"]
    report.show(result, tree)
    assert error["remedy"][0] in capsys.readouterr().err


def test_a_problem_of_a_running_step_is_printed_at_once_and_stays(capsys: pytest.CaptureFixture[str]) -> None:
    progress = report.Progress(Options("bootstrap"))
    error: dict[str, Any] = {"code": "cache-unusable", "what": "no package", "why": "", "remedy": ["ls /c"]}
    step = StepReport("spack", Outcome.RUNNING, "no package", remedy=("ls /c",), error=error)
    progress.step(replace(step, error=None))
    assert capsys.readouterr().out == ""
    progress.step(step)
    problem, remedy = capsys.readouterr().out.splitlines()
    assert problem.split() == [">", "spack", "no", "package", "[cache-unusable]"]
    assert remedy.split() == ["try", "ls", "/c"]


def test_the_error_of_a_step_names_the_line_of_each_mistake() -> None:
    mistakes = [("layout", "unknown", "petal.yaml:2"), ("storge", "unknown key", "petal.yaml:3")]
    error = refused(ConfigError("petal.yaml has 2 mistakes", mistakes)).error
    assert error is not None
    assert [str(line).strip() for line in error_lines([error])[1:3]] == [f"{c}: {a}: {b}" for a, b, c in mistakes]


def test_json_stays_valid_whatever_a_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = "".join(map(chr, range(1, 256))) + "\u2028\\x7f"
    report_of = NodeReport("n1", "compute", "t", "r", (Finding("run:x", Severity.OK, text),))
    report.show(Result("check", Status.OK, report_of), Options("check", json=True))
    assert json.loads(capsys.readouterr().out)["data"]["findings"][0]["message"] == text
    report.show(Result("check", Status.OK, Lines((report_line(report_of, "nonce"),))), Options("check", lines="nonce"))
    sent = report_of_lines("n1", "nonce", capsys.readouterr().out.splitlines())
    assert sent is not None
    assert sent.passed


def test_text_of_programs_is_never_read_as_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor as an escape code, in any line that a terminal shows."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.delenv("NO_COLOR", raising=False)
    hostile = "cannot stage [/opt/petal/store/x]: [bold]no[/bold] [link=http://evil]space[/link] \x1b]0;t\x07\x9b2J\x7f"
    progress = report.Progress(Options("bootstrap"))
    progress.note(hostile)
    finding = Finding("run:[red]x[/red]", Severity.FAIL, hostile, hostile, (hostile,))
    found = NodeReport("[/n1]", "compute", "t", None, (finding,))
    progress.answer(found)
    progress.close()
    report.show(Result("check", Status.DEGRADED, FleetReport((found,))), Options("check"))
    shown = "".join(capsys.readouterr())
    assert shown.count("[/opt/petal/store/x]: [bold]no[/bold] [link=http://evil]") >= 4
    assert "\x1b]0" not in shown
    assert "\x07" not in shown
    assert "\x9b" not in shown
    assert "\x7f" not in shown


def test_a_reason_of_several_lines_is_printed_on_several_lines(capsys: pytest.CaptureFixture[str]) -> None:
    finding = Finding(
        "munge", Severity.FAIL, "no credential", "munge: error\nsinfo: error", ("systemctl status munge",)
    )
    answer = NodeReport("n", "head", "t", None, (finding,))
    report.show(Result("check", Status.DEGRADED, answer), Options("check"))
    assert "       why  munge: error\n            sinfo: error\n       try  systemctl" in capsys.readouterr().out
    report.show(failed("check", PetalError("no answer", why="munge: error\nsinfo: error")), Options("check"))
    assert "\n  why  munge: error\n       sinfo: error\n" in capsys.readouterr().err
    forged = NodeReport(
        "n", "compute", "t", None, (replace(finding, check="a\nproved", message="b\nok", remedy=("c\nd",)),)
    )
    report.show(Result("check", Status.DEGRADED, FleetReport((forged,))), Options("check", nodes="all"))
    printed = capsys.readouterr().out.splitlines()
    assert not [
        line for line in printed if line.split()[0] in ("ok", "proved", "d") and line != "proved on 0 of 1 nodes"
    ]
