"""Output of jobs, which users' programs and profiles write into: it forges no report, and takes no time to read."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.config.model import CheckCommand
from bootstrap.core.errors import redacted
from bootstrap.core.model import Finding, NodeReport, Severity
from bootstrap.prove.fleet import report_line, report_of_lines
from bootstrap.prove.login_shell import Answer, judge_libraries, judge_program
from bootstrap.prove.mpi_judge import Evidence, judge, quote
from bootstrap.prove.mpi_stages import Stage, line

NONCE, OTHER = "0123456789abcdef", "fedcba9876543210"
A, B = "q1-st-c5-1", "q1-st-c5-2"


def own(severity: Severity) -> NodeReport:
    findings = (Finding("storage", Severity.OK, "mounted"), Finding("load:gcc", severity, "loads"))
    return NodeReport(A, "compute", "t", "r1", findings)


FORGED = NodeReport(B, "head", "t", "evil", (Finding("forged", Severity.OK, "well"),))
JUNK = st.one_of(
    st.text(max_size=40),
    st.just(report_line(FORGED, OTHER)),
    st.just(report_line(FORGED, NONCE).partition(" ")[2]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["node", "findings", "time"]), inner)
        ),
        max_leaves=6,
    ).map(lambda value: f"{OTHER} {json.dumps(value)}"),
)
# A program that has read the nonce, in the arguments of its parent.
KNOWING = st.one_of(JUNK, st.just(report_line(FORGED, NONCE)), st.text(max_size=9).map(lambda x: f"{NONCE} {x}"))


def mixed(draw: Any, lines: list[str], junk: st.SearchStrategy[str]) -> list[str]:
    """The lines in their order, with junk between them."""
    out = []
    for text in lines:
        out += [*draw(st.lists(junk, max_size=3)), text]
    return "\n".join([*out, *draw(st.lists(junk, max_size=3))]).split("\n")


@given(st.data())
def test_output_of_programs_never_changes_the_report_of_their_node(data: st.DataObject) -> None:
    report = own(data.draw(st.sampled_from([Severity.OK, Severity.FAIL])))
    assert report_of_lines(A, NONCE, mixed(data.draw, [report_line(report, NONCE)], JUNK)) == report


@given(st.data(), st.booleans())
def test_a_forged_report_is_never_that_of_another_node_and_never_replaces_the_real_one(
    data: st.DataObject, prevents: bool
) -> None:
    """A program that knows the nonce can spoil or prevent the report of its own node only."""
    report = own(Severity.FAIL)
    found = report_of_lines(A, NONCE, mixed(data.draw, [] if prevents else [report_line(report, NONCE)], KNOWING))
    if prevents:
        assert found is None or (found.node, found.role) == (A, "compute")
    else:
        assert found in (None, report)


def test_a_text_that_is_longer_than_the_real_ones_is_cut_or_refused() -> None:
    """The views search texts of findings for commands, so a text of 1 MiB could take hours."""
    text = report_line(FORGED, NONCE).replace("well", "petal-node " + " " * 5000)
    report = report_of_lines(A, NONCE, [text])
    assert report is not None
    assert len(report.findings[0].message) <= 400
    rank = line(0, A, Stage.DONE, {"version": "V"}).replace("V", " " * 5000)
    assert not Evidence("openmpi", (A, B), 0, f"0: {rank}", "").ranks


@given(st.data())
def test_a_rank_forges_no_line_of_another_rank(data: st.DataObject) -> None:
    forged = st.builds(
        lambda number, node, stage: f"0: {line(number, node, stage, {'size': 2, 'pmix': True})}",
        st.integers(-1, 3),
        st.sampled_from([A, B, "x; reboot"]),
        st.sampled_from(list(Stage)),
    )
    lines = data.draw(st.lists(st.one_of(forged, st.text(max_size=30).map(lambda text: f"0: {text}")), max_size=12))
    evidence = Evidence("openmpi", (A, B), 0, "\n".join(lines), "")
    assert {rank.node for rank in evidence.ranks} <= {A}
    assert judge(evidence).severity is Severity.FAIL


HOSTILE = ("?key", "?access-key", "&auth", "://a", "token?", " ", "\n", "[]", "[a] ", "srun: ", " => not found", "-=")
HOSTILE += (
    "srun: error: a: ",
    "Lmod has detected the following error:\n",
    "version `",
    "CANCELLED AT ",
    '{"rank"',
    "\0",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_no_text_of_a_user_takes_long_to_read(text: str) -> None:
    """As much as a program may print, on one line and on many; a pattern with nested repetition would take hours."""
    line_of, lines_of = text * ((1 << (18 if "\n" in text else 20)) // len(text)), f"{text}\n" * (1 << 14)
    for whole in (line_of, f"?{line_of}", lines_of):
        started = time.process_time()
        redacted(whole)
        quote(whole)
        judge(Evidence("openmpi", (A, B), 1, whole, whole))
        judge_libraries([("gcc", Answer(0, whole))])
        judge_program(CheckCommand("true"), Answer(1, whole), "true")
        report_of_lines(A, NONCE, whole.splitlines())
        assert time.process_time() - started < 3
