"""sinfo's lines as nodes, and the reports of a proof job: silence is never success."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap import fleet
from bootstrap.config import Check
from bootstrap.model import Finding, Mark, NodeReport
from bootstrap.slurm import parse_sinfo
from tests.world import World

GOOD = Finding("storage", Mark.OK, "mounted")
SINFO = """q1-st-c5-1|idle|q1*|none
q1-st-c5-1|idle|q2|none
q1-st-c5-2|allocated|q1*|none
q1-dy-c5-1|idle~|q1*|none
q1-dy-c5-2|mixed#|q1*|none
q1-st-c5-3|down*|q1*|Not responding
q1-st-c5-4|drained|q1*|disk: full | twice
broken
"""


def test_sinfo() -> None:
    nodes = {node.name: node for node in parse_sinfo(SINFO)}
    assert [name for name, node in nodes.items() if node.up] == ["q1-st-c5-1", "q1-st-c5-2"]
    assert [name for name, node in nodes.items() if node.powered_down] == ["q1-dy-c5-1"]
    assert [name for name, node in nodes.items() if node.joining] == ["q1-dy-c5-2", "q1-st-c5-3"]
    assert [name for name, node in nodes.items() if node.free] == ["q1-st-c5-1"]
    assert nodes["q1-st-c5-4"].reason == "disk: full | twice"
    assert nodes["q1-st-c5-1"].partition == "q1"


def test_a_node_that_says_nothing_has_failed(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    nodes = parse_sinfo(SINFO.replace("allocated", "planned"))[:2]
    lines = fleet.report_lines(NodeReport("q1-st-c5-1", "compute", "t", None, (GOOD, GOOD)))
    half = fleet.report_lines(NodeReport("q1-st-c5-2", "compute", "t", None, (GOOD, GOOD)))[1:]
    world.system.answers["srun"] = lambda _: "\n".join(["noise", "{broken", *lines, *half])
    reports = fleet.prove(world.context, nodes)
    assert [report.well for report in reports] == [True, False]
    assert reports[1].findings[0].message == "the job on this node gave no report"


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, '"\\' * 3000])
def test_no_line_of_a_report_is_longer_than_srun_keeps_whole(text: str) -> None:
    finding = Finding("run:" + text, Mark.FAIL, text, text, (text, text, text))
    lines = fleet.report_lines(NodeReport("q1-st-c5-1", "compute", "t", "r", (finding,)))
    assert max(len(line) for line in lines) < 1024
    (report,) = fleet.reports_of_lines(lines).values()
    assert not report.well


def test_a_node_that_is_down_is_reported_with_slurms_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    reports = fleet.prove(world.context, parse_sinfo(SINFO)[-2:])
    assert [report.findings[0].mark for report in reports] == [Mark.WARN, Mark.WARN]
    assert not any(report.asked for report in reports)
    assert reports[0].findings[0].why == "Not responding"
    assert not any(command[0] == "srun" for command in world.system.commands)


def test_waiting_ends_with_the_first_node_when_nobody_is_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "head", live=True)
    answers = iter(["", "a|unknown*|q|none\nb|idle~|q|none\n", "a|idle|q|none\nb|idle~|q|none\n"])
    world.system.answers["sinfo"] = lambda _: next(answers)
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0)
    assert [node.name for node in fleet.wait_for_nodes(world.context)] == ["a"]


def test_waiting_ends_at_its_deadline_with_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "head", live=True, config_text="check: {wait: 0}")
    world.system.answers["sinfo"] = lambda _: "a|down*|q|none\n"
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0)
    assert fleet.wait_for_nodes(world.context) == ()
    assert Check().wait > 0
