"""The nodes of sinfo, and the reports of a proof job: a missing report is never a success."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from bootstrap.cluster.hostlist import folded
from bootstrap.cluster.slurm import SlurmNode, parse_sinfo
from bootstrap.config.model import CheckConfig
from bootstrap.core.errors import AllocationRefused, ProcessFailed
from bootstrap.core.model import Finding, NodeReport, Severity, plain
from bootstrap.host.times import timestamp
from bootstrap.prove import fleet
from bootstrap.state.store import write_document
from tests.world import World, hosts

GOOD = Finding("storage", Severity.OK, "mounted")
SINFO = """q1-st-c5-1|idle|q1*|none
q1-st-c5-1|idle|q2|none
q1-st-c5-2|allocated|q1*|none
q1-dy-c5-1|idle~|q1*|none
q1-dy-c5-2|mixed#|q1*|none
q1-st-c5-3|down*|q1*|Not responding
q1-st-c5-4|drained|q1*|disk: full | twice
broken
"""


def test_the_output_of_sinfo_is_parsed() -> None:
    nodes = {node.name: node for node in parse_sinfo(SINFO)}
    assert [name for name, node in nodes.items() if node.up] == ["q1-st-c5-1", "q1-st-c5-2"]
    assert [name for name, node in nodes.items() if node.powered_down] == ["q1-dy-c5-1"]
    assert [name for name, node in nodes.items() if node.joining] == ["q1-dy-c5-2", "q1-st-c5-3"]
    assert [name for name, node in nodes.items() if node.free] == ["q1-st-c5-1"]
    assert nodes["q1-st-c5-4"].reason == "disk: full | twice"
    assert nodes["q1-st-c5-1"].partition == "q1"


def test_a_node_without_a_report_has_failed(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    nodes = parse_sinfo(SINFO.replace("allocated", "planned"))[:2]
    lines = fleet.report_lines(NodeReport("q1-st-c5-1", "compute", "t", None, (GOOD, GOOD)))
    half = fleet.report_lines(NodeReport("q1-st-c5-2", "compute", "t", None, (GOOD, GOOD)))[1:]
    world.system.answers["srun"] = lambda _: "\n".join(["noise", "{broken", *lines, *half])
    reports = fleet.prove(world.context, nodes)
    assert [report.passed for report in reports] == [True, False]
    assert reports[1].findings[0].message == "the job on this node gave no report"


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, '"\\' * 3000])
def test_no_line_of_a_report_is_longer_than_srun_keeps_whole(text: str) -> None:
    finding = Finding("run:" + text, Severity.FAIL, text, text, (text, text, text))
    node = f"{'queue' * 5}-st-{'resource' * 3}-1234"  # the longest that ParallelCluster makes
    lines = fleet.report_lines(NodeReport(node, "compute", "t", "r", (finding,)))
    assert max(len(line) for line in lines) < 1024
    report = fleet.reports_of_lines(lines)[node]
    assert not report.passed


def test_a_node_that_is_down_is_reported_with_slurms_reason(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    reports = fleet.prove(world.context, parse_sinfo(SINFO)[-2:])
    assert [report.findings[0].severity for report in reports] == [Severity.WARN, Severity.WARN]
    assert not any(report.was_checked for report in reports)
    assert reports[0].findings[0].why == "Not responding"
    assert not any(command[0] == "srun" for command in world.system.commands)


def test_every_condition_of_a_node_has_a_name() -> None:
    text = SINFO + "q1-st-c5-5|draining|q1*|by admin\nq1-dy-c5-3|idle%|q1*|none\nq1-st-c5-6|down|q1*|gone\n"
    conditions = {node.name: node.condition for node in parse_sinfo(text)}
    assert conditions == {
        "q1-st-c5-1": "free (idle)",
        "q1-st-c5-2": "busy (allocated)",
        "q1-dy-c5-1": "powered off (idle~)",
        "q1-dy-c5-2": "joining (mixed#)",
        "q1-st-c5-3": "down (down*)",
        "q1-st-c5-4": "draining (drained)",
        "q1-st-c5-5": "draining (draining)",
        "q1-dy-c5-3": "powered off (idle%)",
        "q1-st-c5-6": "down (down)",
    }


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["q1-2", "q1-1", "q1-10", "q1-3", "q1-2"], "q1-[1-3,10]"),
        (["login", "a-7"], "a-7,login"),
        (["a2", "a", "a1"], "a,a[1-2]"),
        (["node09", "node10", "node11"], "node09,node[10-11]"),
        ([], ""),
    ],
)
def test_names_are_folded_as_slurm_writes_them(names: list[str], text: str) -> None:
    assert folded(names) == text


class Controller:
    """srun and sinfo of a small cluster: requests that include ``busy`` nodes are refused."""

    def __init__(self, world: World, *, busy: tuple[str, ...] = (), broken: tuple[str, ...] = ()) -> None:
        self.busy, self.broken, self.asked = busy, broken, []  # type: ignore[var-annotated]
        self.words = "Requested nodes are busy"
        world.system.answers["sinfo"] = self._sinfo
        world.system.answers["srun"] = self._srun

    def nodes(self) -> tuple[SlurmNode, ...]:
        return parse_sinfo("".join(f"q1-{number}|idle|q1*|none\n" for number in range(1, 9)) + "q2-1|idle|q2|none\n")

    def _sinfo(self, _: object) -> str:
        return "".join(f"{node.name}|{'allocated' if node.name in self.busy else 'idle'}|{node.partition}|none\n"
                       for node in self.nodes())  # fmt: skip

    def _srun(self, argv: Sequence[str]) -> str:
        (names,) = (hosts(word.partition("=")[2]) for word in argv if word.startswith("--nodelist="))
        self.asked.append(names)
        if set(names) & {*self.busy, *self.broken}:
            raise AllocationRefused("Slurm gave no allocation", why=self.words)
        reports = [NodeReport(name, "compute", timestamp(), "r", (GOOD,)) for name in names]
        return "\n".join(line for report in reports for line in fleet.report_lines(report))


def test_each_queue_gets_one_job_step(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    slurm = Controller(world)
    reports = fleet.prove(world.context, slurm.nodes())
    assert all(report.passed for report in reports)
    assert sorted(len(names) for names in slurm.asked) == [1, 8]


def test_a_refused_group_is_tried_again_without_allocated_nodes(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    slurm = Controller(world, busy=("q1-3", "q1-4"))
    reports = {report.node: report for report in fleet.prove(world.context, slurm.nodes())}
    assert [name for name, report in reports.items() if not report.was_checked] == ["q1-3", "q1-4"]
    assert reports["q1-3"].findings[0].message == "not checked: busy (allocated)"
    assert [len(names) for names in slurm.asked if names[0].startswith("q1")] == [8, 6]


def test_a_node_that_slurm_refuses_is_found_by_bisection(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    slurm = Controller(world, broken=("q1-6",))
    reports = {report.node: report for report in fleet.prove(world.context, slurm.nodes())}
    assert [name for name, report in reports.items() if not report.passed] == ["q1-6"]
    assert (reports["q1-6"].findings[0].check, reports["q1-6"].findings[0].message) == ("job", "no job could be run")
    assert len(slurm.asked) <= 8


def test_an_error_for_all_nodes_is_not_retried(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    slurm = Controller(world, broken=("q1-6",))
    slurm.words = "Invalid account or account/partition combination specified"
    reports = [report for report in fleet.prove(world.context, slurm.nodes()) if report.node.startswith("q1")]
    assert not any(report.passed for report in reports)
    assert len([names for names in slurm.asked if names[0].startswith("q1")]) == 1


def test_a_mixed_node_without_free_resources_is_busy(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    world.system.answers["sinfo"] = lambda _: "q1-1|mixed|q1|none\n"

    def refuse(_: Sequence[str]) -> str:
        raise AllocationRefused("Slurm gave no allocation", why="Requested nodes are busy")

    world.system.answers["srun"] = refuse
    (report,) = fleet.prove(world.context, parse_sinfo("q1-1|mixed|q1|none"))
    assert (report.findings[0].severity, report.findings[0].message) == (Severity.SKIP, "not checked: busy (mixed)")


def test_a_started_step_without_output_is_not_repeated(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    slurm = Controller(world)

    def dead(argv: Sequence[str]) -> str:
        slurm.asked.append(argv)
        raise ProcessFailed("srun ended with 2", why="execve(): petal-node: No such file or directory")

    world.system.answers["srun"] = dead
    reports = fleet.prove(world.context, slurm.nodes())
    assert not any(report.passed for report in reports)
    assert len(slurm.asked) == 2


def test_a_busy_node_is_shown_with_its_last_report_and_its_age(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    context = world.context
    bad = Finding("load:gcc", Severity.FAIL, "ended with 1")
    own = NodeReport("q1-1", "compute", timestamp(time.time() - 720), "r", (GOOD, bad))
    write_document(context.paths.state / "nodes" / "q1-1.json", plain(own))
    (report,) = fleet.prove(context, parse_sinfo("q1-1|allocated|q1|none"))
    (finding,) = report.findings
    assert (finding.severity, finding.message) == (Severity.SKIP, "not checked: busy (allocated)")
    assert "(12 min old): load:gcc: ended with 1" in finding.why


def test_waiting_ends_with_the_first_node_if_no_other_node_is_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "head", live=True)
    answers = iter(["", "a|unknown*|q|none\nb|idle~|q|none\n", "a|idle|q|none\nb|idle~|q|none\n"])
    world.system.answers["sinfo"] = lambda _: next(answers)
    monkeypatch.setattr(fleet, "POLL", 0)
    assert [node.name for node in fleet.wait_for_nodes(world.context)] == ["a"]


def test_waiting_ends_at_its_deadline_without_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "head", live=True, config_text="check: {wait: 0}")
    world.system.answers["sinfo"] = lambda _: "a|down*|q|none\n"
    monkeypatch.setattr(fleet, "POLL", 0)
    assert fleet.wait_for_nodes(world.context) == ()
    assert CheckConfig().wait > 0


# ----------------------------------------------------------------------------------------------------- check.launch

ASLEEP = "q1-dy-c5-1|idle~|q1*|none\nq1-dy-c5-2|idle~|q1*|none\nq2-st-c5-1|idle|q2|none\n"


def launching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *states: str, squeue: str = "") -> World:
    """A cluster whose first queue has no running node; sinfo prints each state in turn, then the last one."""
    world = World(tmp_path / "head", live=True, config_text="check: {launch: true}")
    answers = iter([ASLEEP, *states])
    last = [ASLEEP]

    def sinfo(_: object) -> str:
        last[0] = next(answers, last[0])
        return last[0]

    world.system.answers |= {
        "sinfo": sinfo, "sbatch": lambda _: "12\n", "scancel": lambda _: "", "squeue": lambda _: squeue,
    }  # fmt: skip
    monkeypatch.setattr(fleet, "POLL", 0)
    return world


def commands(world: World, name: str) -> list[tuple[str, ...]]:
    return [command for command in world.system.commands if command[0] == name]


def test_a_node_is_started_in_a_queue_without_running_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joining, up = ASLEEP.replace("q1-dy-c5-1|idle~", "q1-dy-c5-1|mixed#"), ASLEEP.replace("-1|idle~", "-1|idle")
    world = launching(tmp_path, monkeypatch, joining, joining, up)
    assert [node.name for node in fleet.wait_for_nodes(world.context)] == ["q1-dy-c5-1", "q2-st-c5-1"]
    (job,) = commands(world, "sbatch")
    assert "--partition=q1" in job
    assert len(commands(world, "scancel")) == 1


def test_a_queue_whose_job_has_ended_without_a_node_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = launching(tmp_path, monkeypatch, squeue="12|root|0|NODE_FAIL|NodeDown\n")
    assert [node.name for node in fleet.wait_for_nodes(world.context)] == ["q2-st-c5-1"]


def test_a_queue_that_refuses_the_job_is_reported_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = launching(tmp_path, monkeypatch)

    def refuse(_: object) -> str:
        raise ProcessFailed("sbatch ended with 1", why="partition is down")

    world.system.answers["sbatch"] = refuse
    assert [node.name for node in fleet.wait_for_nodes(world.context)] == ["q2-st-c5-1"]
    assert commands(world, "scancel") == []


def test_without_check_launch_no_node_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = launching(tmp_path, monkeypatch)
    world.config_text = "stack: none"
    fleet.wait_for_nodes(world.context)
    assert commands(world, "sbatch") == []
