"""What people and programs read, held against golden files; ``UPDATE_GOLDEN=1`` writes them anew."""

from __future__ import annotations

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from bootstrap.core.errors import ConfigError, ExitCode, PetalError
from bootstrap.core.model import Finding, Mark, NodeReport, Outcome, Result, RunRecord, Status, StepReport, plain
from bootstrap.report import render as report
from bootstrap.report import views
from bootstrap.spack.progress import Progress, Running
from tests.golden import held

GOLDEN = Path(__file__).with_name("golden")
STEPS = (
    StepReport("tool", "t", Outcome.OK, "version 0.1.0 is at /opt/petal-node/0.1.0/petal-node"),
    StepReport("storage", "t", Outcome.CHANGED, "ext4 from /dev/nvme1n1, 812 GiB free, token 8c2afbf9", ("create it",)),
    StepReport("packages", "t", Outcome.WOULD_CHANGE, "1 of 2 are missing", ("unpack cfd 24.1 into /opt/petal/x",)),
    StepReport(
        "spack", "t", Outcome.FAILED, "not every package could be installed: it broke\nsince the disk is full",
        (), ("df -h /shared",), 3.2, {"code": "spack-install", "what": "it broke", "why": "", "remedy": ["df -h"]},
    ),
    StepReport("modules", "t", Outcome.BLOCKED, "needs spack"),
    StepReport("wanted", "t", Outcome.SKIPPED, "the head node does it"),
    StepReport("proof", "t", Outcome.SKIPPED, "the head node does it"),
)  # fmt: skip
RUN = RunRecord(
    "20261124T081405.123Z-1a2b3c", "hook", "configured", "head", "ip-10-0-0-10", "0.1.0", 42, "boot",
    "2026-11-24T08:14:05Z", "2026-11-24T08:15:05Z", Status.DEGRADED, 1, "3f9c1a2b4d5e", STEPS, settled=True,
)  # fmt: skip
INSTALLING = replace(
    RUN, finished=None, exit=None, status=Status.RUNNING,
    steps=(STEPS[0], StepReport("spack", "t", Outcome.RUNNING, str(Progress(
        7, 20, (Running("hdf5", "build"), Running("openmpi", "configure")), (), 350.0
    )))),
)  # fmt: skip
GOOD = Finding("storage", Mark.OK, "nfs4 from 10.0.0.10:/shared, the same as on ip-10-0-0-10: token 8c2afbf9")
BAD = Finding(
    "load:fftw", Mark.FAIL, "ended with 1", "unknown module / see module spider", ("bash -lc 'module load fftw'",)
)
MISFIT = Finding("cpu", Mark.FAIL, "built for x86_64_v4, this node is x86_64_v3", "its CPU is zen3", ("spack: ...",))
WARN = Finding("release", Mark.WARN, "current is a, wanted is b", "", ("petal-node status",))
TALKS = Finding("mpi:openmpi/4.1", Mark.OK, "2 ranks on a and b sent each other 4 MiB in 0.02 s with Open MPI v4.1.4")
SILENT = Finding(
    "mpi:mpich/4.1", Mark.FAIL, "network: the ranks hang in MPI_Finalize", "no end within 60 s", ("ip -br address",)
)
NODES = tuple(
    NodeReport(f"queue1-st-c5-{number}", "compute", "2026-11-24T08:20:00Z", "3f9c1a2b4d5e", findings)
    for number, findings in enumerate(((GOOD,), (GOOD,), (GOOD, MISFIT, BAD)), start=1)
)
LEFT = tuple(
    NodeReport(f"queue1-dy-c5-{number}", "compute", "2026-11-24T08:20:00Z", None, (finding,))
    for number, finding in enumerate((
        Finding("slurm", Mark.SKIP, "not asked: powered off (idle~)"),
        Finding("slurm", Mark.SKIP, "not asked: powered off (idle~)"),
        Finding("slurm", Mark.WARN, "not asked: down (down)", "Not responding", ("scontrol show node queue1-dy-c5-3",)),
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
RESULTS = {
    "run": Result("hook", "run", Status.DEGRADED, {"run": plain(RUN)}, run_id=RUN.run_id, exit=1),
    "plan": Result(
        "plan", "plan", Status.CHANGED,
        {"node": "n", "role": "head", "release": "3f9c", "layout": "shared", "steps": [plain(step) for step in STEPS]},
    ),
    "check": Result("check", "check", Status.DEGRADED, {"report": LOGIN.to_dict()}),
    "matrix": Result("check", "matrix", Status.DEGRADED, {"nodes": [node.to_dict() for node in NODES]}),
    "repair": Result(
        "repair", "repair", Status.DEGRADED,
        {"run": {**plain(RUN), "verb": "repair", "event": "", "findings": [plain(GOOD), plain(MISFIT), plain(WARN)]}},
    ),
    "repair-nothing": Result(
        "repair", "repair", Status.OK,
        {"run": {**plain(RUN), "verb": "repair", "event": "", "steps": [plain(STEPS[0])], "findings": [plain(GOOD)]}},
    ),
    "repair-plan": Result(
        "repair", "repair-plan", Status.DEGRADED,
        {"node": "n", "role": "head", "steps": [plain(step) for step in STEPS]},
    ),
    "matrix-wide": Result("check", "matrix", Status.DEGRADED, {"nodes": [node.to_dict() for node in WIDE]}),
    "matrix-between": Result(
        "check", "matrix", Status.DEGRADED,
        {"nodes": [node.to_dict() for node in NODES[:2]], "between": [plain(TALKS), plain(SILENT)]},
    ),
    "matrix-empty": Result("check", "matrix", Status.DEGRADED, {"nodes": []}),
    "status": Result(
        "status", "status", Status.DEGRADED,
        {
            "node": "ip-10-0-0-10", "role": "head", "current": "3f9c1a2b4d5e", "now": "2026-11-24T10:30:00Z",
            "package": "0.2.0",
            "wanted": {
                "release": "aaaabbbbcccc", "version": "0.1.0",
                "config": {
                    "stack": "starter", "layout": "shared", "spack": {"specs": ["samtools"]}, "packages": [{}, {}],
                },
            },
            "install": plain(RUN),
            "holder": {"host": "ip-10-0-0-10", "pid": 42, "since": "2026-11-24T08:14:05Z"},
            "proof": {
                "summary": "proved on 2 of 3 nodes at 2026-11-24T08:20:00Z", "proved": 2,
                "time": "2026-11-24T08:20:00Z", "nodes": [node.to_dict() for node in NODES],
            },
            "reports": [node.to_dict() for node in NODES], "runs": [plain(RUN)],
        },
    ),
    "status-installing": Result(
        "status", "status", Status.RUNNING,
        {
            "node": "q1-st-c5-1", "role": "compute", "current": None, "wanted": None, "install": plain(INSTALLING),
            "holder": {"host": "ip-10-0-0-10", "pid": 42, "since": "2026-11-24T08:14:05Z"}, "proof": None,
            "reports": [], "runs": [],
        },
    ),
    "status-nothing": Result(
        "status", "status", Status.OK,
        {
            "node": "n", "role": None, "current": None, "wanted": None, "install": None, "holder": None, "proof": None,
            "reports": [], "runs": [],
        },
    ),
    "lockfile": Result(
        "lockfile", "lockfile", Status.CHANGED,
        {
            "node": "builder", "uri": "s3://BUCKET/locks/spack-0f343b0931.lock", "sha256": "0f" * 32, "packages": 34,
            "targets": ["x86_64_v4", "x86_64_v3"], "os": "debian12", "glibc": "2.36", "compiler": "gcc@12.2.0",
            "spack": "1.1.1", "externals": [{"spec": "slurm@24.05.7 +pmix", "at": "/opt/slurm"}],
        },
    ),
    "releases": Result(
        "releases", "releases", Status.OK,
        {
            "root": "/opt/petal", "current": "3f9c1a2b4d5e", "before": "aaaabbbbcccc",
            "releases": [
                {
                    "release": "3f9c1a2b4d5e", "published": "2026-11-24T08:14:05Z", "created": "2026-11-24T08:14:04Z",
                    "complete": True, "problem": "", "specs": ["samtools@1.19", "gromacs +mpi"], "packages": 34,
                    "modules": 12, "bytes": 3 << 30,
                },
                {
                    "release": "aaaabbbbcccc", "published": None, "created": "2026-10-01T08:00:00Z", "complete": True,
                    "problem": "", "specs": [f"p{number}" for number in range(12)], "packages": 12, "modules": 12,
                    "bytes": None,
                },
                {
                    "release": "ddddeeeeffff", "published": None, "created": None, "complete": False,
                    "problem": "/opt/petal/releases/ddddeeeeffff/manifest.json was written by a newer petal-node",
                    "specs": [], "packages": 0, "modules": 0, "bytes": 4096,
                },
            ],
        },
    ),
    "rollback": Result(
        "rollback", "rollback", Status.CHANGED,
        {"release": "aaaabbbbcccc", "left": "3f9c1a2b4d5e", "changed": True, "published": "2026-10-01T08:00:00Z"},
    ),
    "rollback-nothing": Result("rollback", "rollback", Status.OK, {"release": "aaaabbbbcccc", "changed": False}),
    "gc": Result(
        "gc", "gc", Status.OK,
        {
            "keep": {"3f9c1a2b4d5e": "current", "aaaabbbbcccc": "job 17 of alice uses it"},
            "drop": {"ddddeeeeffff": 5 << 20},
            "packages": [
                {"prefix": f"/opt/petal/store/p{number}-1.0-aaaaaaa", "hash": "", "size": 1 << 28}
                for number in range(12)
            ],
            "newest": 1,
            "left": ["2 packages in /opt/petal/store-0.23: another Spack than the wanted one has installed them"],
            "bytes": (12 << 28) + (5 << 20), "done": False,
        },
    ),
    "gc-nothing": Result(
        "gc", "gc", Status.OK,
        {"keep": {"3f9c1a2b4d5e": "current"}, "drop": {}, "packages": [], "left": [], "bytes": 0, "done": True},
    ),
    "error": Result.of_error("hook", CONFIG_ERROR),
}  # fmt: skip


def text_of(result: Result) -> str:
    view = views.VIEWS[result.kind]
    return "\n".join(report.text_of(view(result, False))) + "\n"


def golden(name: str, text: str) -> None:
    held(GOLDEN / f"{name}.txt", text)


@pytest.mark.parametrize("name", RESULTS)
def test_text(name: str) -> None:
    golden(name, text_of(RESULTS[name]))


def test_the_page_has_the_table_each_trouble_once_and_nothing_from_elsewhere() -> None:
    evil = Finding("run:<script>alert(1)</script>", Mark.FAIL, "ended with 1 & <b>", "why <i>", ("echo '<x>'",))
    nodes = [
        *NODES,
        *LEFT,
        NodeReport("q-1", "compute", "t", "r", (GOOD, evil)),
        NodeReport("q-2", "compute", "t", "r", (GOOD, evil)),
    ]
    result = Result("check", "matrix", Status.DEGRADED, {"nodes": [node.to_dict() for node in nodes]}, run_id="run-1")
    text = views.page(result, "2026-11-24T08:21:00Z")
    parser = Tags()
    parser.feed(text)
    assert parser.open == []
    assert not parser.seen & {"script", "link", "img", "i", "x"}
    assert "http" not in text
    assert "<h1>proved on 2 of 5 nodes, 3 not asked</h1>" in text
    assert text.count("<b>q-[1-2]</b>: run:&lt;script&gt;alert(1)&lt;/script&gt;: ended with 1 &amp; &lt;b&gt;") == 1
    assert "<td>queue1-dy-c5-3</td><td>not asked: down (down)</td><td>Not responding</td>" in text


class Tags(HTMLParser):
    """Which elements are there, and which are still open at the end."""

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


def test_steps_that_were_told_while_they_ran_are_not_told_again() -> None:
    lines = report.text_of(views.VIEWS["run"](RESULTS["run"], True))
    assert not any("8c2afbf9" in line for line in lines)
    assert any("wanted, proof: the head node does it" in line for line in lines)


@pytest.mark.parametrize("name", RESULTS)
def test_json_is_one_envelope(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report.show(RESULTS[name], as_json=True, quiet=False)
    output = capsys.readouterr()
    envelope: dict[str, Any] = json.loads(output.out)
    assert set(envelope) == {"petal", "command", "status", "exit_code", "run_id", "data", "errors"}
    assert envelope["petal"] == 1
    assert output.out.count("\n") == 1
    assert output.err == ""


def test_an_error_goes_to_stderr_in_ascii_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    error = PetalError("the dïsk is full", why="\x1b[31mno space", remedy="df -h")
    report.show(Result.of_error("plan", error), as_json=False, quiet=True)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.isascii()
    assert "\x1b" not in output.err
    assert "try  df -h" in output.err


def test_every_exit_code_stands_for_one_thing() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "USAGE": 2, "DEGRADED": 3, "NO_PYTHON": 69, "BUG": 70, "TRY_AGAIN": 75, "NOT_ROOT": 77,
        "CONFIG": 78, "INTERRUPTED": 130, "TERMINATED": 143,
    }  # fmt: skip
