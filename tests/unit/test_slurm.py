"""The nodes of sinfo, and the reports of a proof job: a missing report is never a success."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.cluster.hostlist import folded, unfolded
from bootstrap.cluster.slurm import parse_sinfo, raise_refusal
from bootstrap.commands import check
from bootstrap.config.model import CheckConfig
from bootstrap.core.errors import AllocationRefused, ConfigError, PetalError, ProcessFailed, UsageError
from bootstrap.core.model import Finding, FleetReport, NodeReport, Outcome, Result, Severity, Status, plain
from bootstrap.core.text import cut
from bootstrap.engine import converge as engine
from bootstrap.host.system import Completed
from bootstrap.host.times import timestamp
from bootstrap.prove import fleet, launch
from bootstrap.prove.user import ordinary_user
from bootstrap.report.checks_view import fleet_view
from bootstrap.state.store import ClusterState, write_document
from bootstrap.steps.proof import Proof
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
    assert [name for name, node in nodes.items() if node.joining] == ["q1-dy-c5-2"]
    assert [name for name, node in nodes.items() if node.free] == ["q1-st-c5-1"]
    assert nodes["q1-st-c5-4"].reason == "disk: full | twice"
    assert (nodes["q1-st-c5-1"].partition, nodes["q1-st-c5-1"].partitions) == ("q1", ("q1", "q2"))


def test_a_node_without_a_complete_report_has_failed(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)

    def answer(argv: Sequence[str]) -> str:
        (name,) = asked_nodes(argv)
        report = NodeReport(name, "compute", "t", None, (GOOD, GOOD))
        line = fleet.report_line(report, argv[-1])
        return "\n".join(["noise", "{broken", line if name.endswith("1") else line[:-1]])

    world.system.answers["srun"] = answer
    reports = fleet.prove(world.context, parse_sinfo(SINFO.replace("allocated", "planned"))[:2])
    assert [report.passed for report in reports] == [True, False]
    assert reports[1].findings[0].message == "the job on this node gave no report"


@pytest.mark.parametrize("text", ["x" * 5000, "ü" * 5000, '"\\' * 3000])
def test_no_text_of_a_report_is_long(text: str) -> None:
    finding = Finding("run:" + text, Severity.FAIL, text, text, (text, text, text))
    node = f"{'queue' * 5}-st-{'resource' * 3}-1234"  # the longest that ParallelCluster makes
    line = fleet.report_line(NodeReport(node, "compute", "t", "r", (finding,)), "0123456789abcdef")
    assert len(line) < 6000
    report = fleet.report_of_lines(node, "0123456789abcdef", [line])
    assert report is not None
    assert (report.node, report.passed) == (node, False)


def test_no_path_and_no_command_of_a_report_is_cut() -> None:
    path, command = f"/shared/{'release/' * 40}1.lua", f"bash -lc 'module load {'openmpi/4.1.7 ' * 40}; hello'"
    text = f"a module file is damaged: {path}: line 2"
    finding = Finding("load:x", Severity.FAIL, text, f"{text}, and {path}", (command, "x" * 5000))
    line = fleet.report_line(NodeReport("n", "compute", "t", "r", (finding,)), "0123456789abcdef")
    report = fleet.report_of_lines("n", "0123456789abcdef", [line])
    assert report is not None
    (found,) = report.findings
    assert (found.message, found.why, found.remedy) == (text, f"{text}, and ...", (command,))
    assert cut({"why": "one\n  try  rm -rf /"}, 400) == {"why": "one /   try  rm -rf /"}  # one line


def test_a_node_that_is_down_has_failed_with_slurms_reason_and_a_drained_one_has_not(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    reports = fleet.prove(world.context, parse_sinfo(SINFO)[-2:])
    assert [report.findings[0].severity for report in reports] == [Severity.FAIL, Severity.WARN]
    assert [report.findings[0].why for report in reports] == ["Not responding", "disk: full | twice"]
    assert not any(command[0] == "srun" for command in world.system.commands)


# sinfo(1), NODE STATE CODES, of Slurm 22.05 to 25.11, as %T prints them.
@pytest.mark.parametrize(
    ("state", "condition", "severity"),
    [
        ("idle", "free", Severity.SKIP),
        ("idle-", "free", Severity.SKIP),
        ("mixed-", "free", Severity.SKIP),
        ("planned", "free", Severity.SKIP),
        ("allocated+", "busy", Severity.SKIP),
        ("completing", "busy", Severity.SKIP),
        ("reserved", "busy", Severity.SKIP),
        ("perfctrs", "busy", Severity.SKIP),
        ("blocked", "busy", Severity.SKIP),
        ("maint", "in maintenance", Severity.SKIP),
        ("maint*", "in maintenance", Severity.SKIP),
        ("allocated$", "in maintenance", Severity.SKIP),
        ("future", "not configured yet", Severity.SKIP),
        ("future*", "not configured yet", Severity.SKIP),
        ("idle~", "powered off", Severity.SKIP),
        ("down~", "powered off", Severity.SKIP),
        ("idle%", "powered off", Severity.SKIP),
        ("mixed!", "powered off", Severity.SKIP),
        ("powering_down", "powered off", Severity.SKIP),
        ("idle@", "rebooting", Severity.SKIP),
        ("reboot^", "rebooting", Severity.SKIP),
        ("drained", "draining", Severity.WARN),
        ("drained*", "draining", Severity.WARN),
        ("draining@", "rebooting", Severity.SKIP),
        ("mixed#", "joining", Severity.WARN),
        ("down#", "joining", Severity.WARN),
        ("unknown*", "joining", Severity.WARN),
        ("idle*", "not responding", Severity.FAIL),
        ("allocated*", "not responding", Severity.FAIL),
        ("down*", "not responding", Severity.FAIL),
        ("down", "down", Severity.FAIL),
        ("failing", "down", Severity.FAIL),
        ("inval", "down", Severity.FAIL),
        ("news", "not available", Severity.WARN),
    ],
)
def test_every_state_of_a_node_has_a_word_and_only_dead_nodes_fail(
    state: str, condition: str, severity: Severity
) -> None:
    (node,) = parse_sinfo(f"n1|{state}|q1|none\n")
    assert node.condition == f"{condition} ({state})"
    assert fleet._not_checked(node, None).findings[0].severity is severity


@pytest.mark.parametrize(
    ("state", "word", "severity"),
    [("down~", "down", Severity.FAIL), ("down%", "down", Severity.FAIL), ("drained~", "draining", Severity.WARN)],
)
def test_a_node_without_capacity_is_not_simply_powered_off(state: str, word: str, severity: Severity) -> None:
    """ParallelCluster sets such nodes down while they have no instance."""
    why = "(Code:InsufficientInstanceCapacity)Failure when resuming nodes"
    (node,) = parse_sinfo(f"q2-dy-p5-1|{state}|q2|{why}\n")
    finding = fleet._not_checked(node, None).findings[0]
    assert (node.word, finding.severity, finding.why) == (word, severity, why)


def test_the_words_of_a_sites_plugin_are_shown() -> None:
    lines = ("You must specify a project with -A", "Unable to allocate resources: Invalid account")
    refused = "".join(f"srun: error: {line}\n" for line in lines)
    with pytest.raises(AllocationRefused) as caught:
        raise_refusal(Completed(1, "", refused), ["n1"])
    assert caught.value.why == "You must specify a project with -A / Invalid account"


@pytest.mark.parametrize(
    ("state", "joins"),
    [("idle*", True), ("unknown*", True), ("mixed#", True), ("idle~", True)]
    + [(state, False) for state in ("down*", "drained*", "maint*", "future*", "idle", "down", "drained")],
)
def test_only_a_node_that_may_still_come_is_joining(state: str, *, joins: bool) -> None:
    (node,) = parse_sinfo(f"q1-st-c5-1|{state}|q1|none\n")
    assert node.joining is joins


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


def asked_nodes(argv: Sequence[str]) -> list[str]:
    (names,) = (hosts(word.partition("=")[2]) for word in argv if word.startswith("--nodelist="))
    return names


def asked(world: World, option: str) -> list[str]:
    """The values of an option in the srun commands, in their order."""
    words = (word for command in world.system.commands if command[0] == "srun" for word in command)
    return [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]


def refusing(world: World, *refusals: tuple[str, str]) -> None:
    """srun is refused with words if its command has the option; else the node answers."""

    def answer(argv: Sequence[str]) -> str:
        for option, words in refusals:
            if option in argv:
                return f"srun: error: Unable to allocate resources: {words}\n"
        report = NodeReport("x", "compute", timestamp(), "r", (GOOD,))
        return fleet.report_line(report, argv[-1])

    world.system.answers["srun"] = answer
    world.system.codes["srun"] = 1


TWO_QUEUES = "q1-1|idle|admin|none\nq1-1|idle|q1*|none\nq1-1|idle|hidden|none\n"
NOT_PERMITTED = "User's group not permitted to use this partition"


def test_the_job_runs_in_the_first_partition_of_the_node_that_takes_it(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    refusing(world, ("--partition=q1", NOT_PERMITTED), ("--partition=admin", "Invalid account"))
    (report,) = fleet.prove(world.context, parse_sinfo(TWO_QUEUES))
    assert report.passed, report
    assert asked(world, "--partition") == ["q1", "admin", "hidden"]


def test_if_no_partition_takes_the_job_the_reason_of_each_is_shown(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    world.system.answers["sinfo"] = lambda _: TWO_QUEUES
    refusing(world, ("--nodes=1", NOT_PERMITTED))
    (report,) = fleet.prove(world.context, parse_sinfo(TWO_QUEUES))
    (finding,) = report.findings
    assert (finding.severity, finding.message) == (Severity.FAIL, "no job could be run")
    assert finding.why == "; ".join(f"{name}: {NOT_PERMITTED}" for name in ("q1", "admin", "hidden"))


def test_a_partition_that_is_up_is_tried_first_with_its_time_limit(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    limits = "admin|inact|infinite\nq1|down|infinite\nhidden|up|0:45\n"
    world.system.answers["sinfo"] = lambda argv: TWO_QUEUES if "--Node" in argv else limits
    refusing(world)
    (report,) = fleet.prove(world.context, parse_sinfo(TWO_QUEUES))
    assert report.passed
    assert (asked(world, "--partition"), asked(world, "--time")) == (["hidden"], ["0:45"])


def test_a_job_that_slurm_calls_too_long_or_too_large_is_made_smaller(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    refusing(world, ("--time=4:00", policy), ("--mem=200M", "Memory required by task is not available"))
    (report,) = fleet.prove(world.context, parse_sinfo("q1-1|idle|q1|none\n"))
    assert report.passed
    assert asked(world, "--time") == ["4:00", "1:00", "1:00"]
    assert len(asked(world, "--mem")) == 2


@pytest.mark.parametrize(
    "policy",
    [
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)",
        "QOSMaxSubmitJobPerUserLimit",
    ],
)
def test_nodes_whose_jobs_slurm_refuses_for_their_number_are_checked_after_the_others(
    policy: str, tmp_path: Path
) -> None:
    world, at_once, most = World(tmp_path / "head", live=True), 0, 5
    has_refused = threading.Event()

    def answer(argv: Sequence[str]) -> str:
        nonlocal at_once
        at_once += 1
        try:
            if at_once > most:
                has_refused.set()
                return f"srun: error: Unable to allocate resources: {policy}\n"
            assert has_refused.wait(30)
            return fleet.report_line(NodeReport("x", "compute", timestamp(), "r", (GOOD,)), argv[-1])
        finally:
            at_once -= 1

    world.system.answers["srun"] = answer
    world.system.codes["srun"] = 1
    nodes = parse_sinfo("".join(f"q1-{number}|idle|q1|none\n" for number in range(12)))
    assert [report.passed for report in fleet.prove(world.context, nodes)] == [True] * 12
    most = 0
    reports = fleet.prove(world.context, nodes[:2])
    assert [report.findings[0].message for report in reports] == ["no job could be run"] * 2
    assert policy in reports[0].findings[0].why


def test_account_partition_user_and_time_of_the_job_can_be_configured(tmp_path: Path) -> None:
    text = "check: {account: phys, partition: admin, user: root, time: 90}"
    world = World(tmp_path / "head", live=True, config_text=text)
    refusing(world)
    world.system.answers["sinfo"] = lambda argv: TWO_QUEUES if "--Node" in argv else "admin|up|infinite\n"
    reports = fleet.prove(world.context, parse_sinfo(TWO_QUEUES + "q2-1|idle|q2|none\n"))
    assert [report.passed for report in reports] == [True, False]
    assert reports[1].findings[0].message == "not checked: not in admin (idle)"
    assert asked(world, "--account") == ["phys"]
    assert (asked(world, "--partition"), asked(world, "--time")) == (["admin"], ["1:30"])
    assert ordinary_user(world.context) == "root"
    world.config_text = "check: {user: 'CORP\\no one'}"
    with pytest.raises(PetalError, match="does not exist on this node") as missing:
        ordinary_user(world.context)
    assert missing.value.remedy == ("id 'CORP\\no one'",)


def test_each_node_has_a_job_of_its_own_and_its_answer_is_passed_on_when_it_comes(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    came = []
    ctx = replace(world.context, services=replace(world.services, answer=came.append))
    refusing(world, ("--nodelist=q1-3", NOT_PERMITTED))
    known = parse_sinfo("".join(f"q1-{number}|idle|q1|none\n" for number in range(1, 9)))
    world.system.answers["sinfo"] = lambda _: "q1-3|idle|q1|none\n"
    reports = {report.node: report for report in fleet.prove(ctx, known)}
    assert [name for name, report in reports.items() if not report.passed] == ["q1-3"]
    assert {report.node for report in came} == set(reports)
    assert sorted(asked(world, "--nodelist")) == sorted(reports)


def test_nodes_that_are_powered_off_have_one_line_and_no_report_of_an_earlier_instance(tmp_path: Path) -> None:
    world, came = World(tmp_path / "head", live=True), list[NodeReport]()
    ctx = replace(world.context, services=replace(world.services, answer=came.append))
    own = NodeReport("q1-7", "compute", timestamp(), "r", (GOOD,))
    write_document(ctx.paths.state / "nodes" / "q1-7.json", plain(own))
    rows = "".join(f"q1-{number}|{'idle~' if number > 1 else 'idle'}|q1|none\n" for number in range(1, 1001))
    reports = fleet.prove(ctx, parse_sinfo(rows))
    assert [report.node for report in came] == ["q1-1"]
    assert {report.findings[0].why for report in reports if not report.was_checked} == {""}
    lines = fleet_view(Result("check", Status.OK, FleetReport(reports)))
    assert [str(line) for line in lines][-2:] == [
        "-    q1-[2-1000]: not checked: powered off (idle~)",
        "proved on 1 of 1 nodes, 999 not checked",
    ]


def test_a_node_that_got_another_job_is_busy(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    refusing(world, ("--nodes=1", "Requested nodes are busy"))
    for state in ("allocated", "mixed"):
        world.system.answers["sinfo"] = lambda _, state=state: f"q1-1|{state}|q1|none\n"
        (report,) = fleet.prove(world.context, parse_sinfo("q1-1|mixed|q1|none"))
        (finding,) = report.findings
        assert (finding.severity, finding.message) == (Severity.SKIP, f"not checked: busy ({state})")


def test_a_step_that_began_is_not_repeated(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)

    def dead(argv: Sequence[str]) -> str:
        return (
            f"{argv[-1]}\n/bin/sh: 1: exec: /opt/petal-node: not found\nsrun: error: Unable to allocate resources: x\n"
        )

    world.system.answers["srun"] = dead
    world.system.codes["srun"] = 127
    (report,) = fleet.prove(world.context, parse_sinfo(TWO_QUEUES))
    assert "not found" in report.findings[0].why
    assert len(asked(world, "--partition")) == 1


def test_a_busy_node_is_shown_with_its_last_report_and_its_age(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    context = world.context
    bad = Finding("load:gcc", Severity.FAIL, "ended with 1")
    own = NodeReport("q1-1", "compute", timestamp(time.time() - 720), "r", (GOOD, bad))
    write_document(context.paths.state / "nodes" / "q1-1.json", plain(own))
    (report,) = fleet.prove(context, parse_sinfo("q1-1|allocated|q1|none"))
    (finding,) = report.findings
    assert (finding.severity, finding.message) == (Severity.SKIP, "not checked: busy (allocated)")
    assert finding.why == "its own report, 12 min old: load:gcc: ended with 1"


def test_waiting_ends_with_the_first_node_if_no_other_node_is_joining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "head", live=True)
    answers = iter(["", "a|unknown*|q|none\nb|idle~|q|none\n", "a|idle|q|none\nb|idle~|q|none\n"])
    world.system.answers["sinfo"] = lambda _: next(answers)
    monkeypatch.setattr(launch, "POLL", 0)
    assert [node.name for node in launch.wait_for_nodes(world.context)] == ["a"]


def test_waiting_ends_at_its_deadline_without_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "head", live=True, config_text="check: {wait: 0}")
    world.system.answers["sinfo"] = lambda _: "a|down*|q|none\n"
    monkeypatch.setattr(launch, "POLL", 0)
    assert launch.wait_for_nodes(world.context) == ()
    assert CheckConfig().wait > 0


# ----------------------------------------------------------------------------------------------------- check.launch

ASLEEP = "q1-dy-c5-1|idle~|q1*|none\nq1-dy-c5-2|idle~|q1*|none\nq2-st-c5-1|idle|q2|none\n"


def launching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *states: str, squeue: str = "") -> World:
    """A cluster whose first queue has no running node; sinfo prints each state in turn, then the last one."""
    world = World(tmp_path / "head", live=True, config_text="check: {launch: true}")
    answers = iter([ASLEEP, *states])
    last = [ASLEEP]

    def sinfo(argv: Sequence[str]) -> str:
        if "--Node" not in argv:
            return ""
        last[0] = next(answers, last[0])
        return last[0]

    world.system.answers |= {
        "sinfo": sinfo, "sbatch": lambda _: "12\n", "scancel": lambda _: "", "squeue": lambda _: squeue,
    }  # fmt: skip
    monkeypatch.setattr(launch, "POLL", 0)
    return world


def commands(world: World, name: str) -> list[tuple[str, ...]]:
    return [command for command in world.system.commands if command[0] == name]


def test_a_node_is_started_in_a_queue_without_running_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joining, up = ASLEEP.replace("q1-dy-c5-1|idle~", "q1-dy-c5-1|mixed#"), ASLEEP.replace("-1|idle~", "-1|idle")
    world = launching(tmp_path, monkeypatch, joining, joining, up)
    assert [node.name for node in launch.wait_for_nodes(world.context)] == ["q1-dy-c5-1", "q2-st-c5-1"]
    (job,) = commands(world, "sbatch")
    assert "--partition=q1" in job
    assert len(commands(world, "scancel")) == 1


def test_a_node_is_started_through_the_partition_in_which_it_will_be_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = launching(tmp_path, monkeypatch, squeue="12|root|0|NODE_FAIL|NodeDown\n")
    both = "a|idle~|old|none\na|idle~|q1|none\nb|idle~|other|none\n"
    limits = "old|inact|infinite\nq1|up|2:30\nother|up|infinite\n"
    world.system.answers["sinfo"] = lambda argv: both if "--Node" in argv else limits
    launch.wait_for_nodes(world.context)
    assert [job[2] for job in commands(world, "sbatch")] == ["--partition=q1", "--partition=other"]
    world.system.commands.clear()
    world.config_text = "check: {launch: true, partition: q1, account: phys}"
    launch.wait_for_nodes(world.context)
    (job,) = commands(world, "sbatch")
    assert {"--partition=q1", "--account=phys", "--time=2", "--mem=200M"} <= set(job)


def test_a_queue_whose_job_has_ended_without_a_node_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = launching(tmp_path, monkeypatch, squeue="12|root|0|NODE_FAIL|NodeDown\n")
    assert [node.name for node in launch.wait_for_nodes(world.context)] == ["q2-st-c5-1"]


def test_a_queue_that_refuses_the_job_is_reported_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = launching(tmp_path, monkeypatch)

    def refuse(_: object) -> str:
        raise ProcessFailed("sbatch ended with 1", why="partition is down")

    world.system.answers["sbatch"] = refuse
    assert [node.name for node in launch.wait_for_nodes(world.context)] == ["q2-st-c5-1"]
    assert commands(world, "scancel") == []


def test_without_check_launch_no_node_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = launching(tmp_path, monkeypatch)
    world.config_text = "stack: none"
    launch.wait_for_nodes(world.context)
    assert commands(world, "sbatch") == []


# -------------------------------------------------------------------------------------------------------- check --nodes


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("q1-st-c5-1,q1-st-c5-1", ["q1-st-c5-1"]),
        ("q1-st-c5-[1-2],q1-st-c5-1, ", ["q1-st-c5-1", "q1-st-c5-2"]),
        ("q1-st-c[5]-[2,1-2]", ["q1-st-c5-2", "q1-st-c5-1"]),
    ],
)
def test_a_node_that_is_listed_twice_is_checked_once(tmp_path: Path, text: str, names: list[str]) -> None:
    world = World(tmp_path / "head", live=True)
    assert [node.name for node in check._nodes(world.context, text)] == names


def test_a_list_keeps_the_zeros_of_its_numbers() -> None:
    assert unfolded("n[08-10,3]") == ("n08", "n09", "n10", "n3")
    assert len(unfolded("n[1-65536]")) == 65536


@pytest.mark.parametrize("text", ["", ",", " ", " , "])
def test_an_empty_list_of_nodes_is_a_mistake(tmp_path: Path, text: str) -> None:
    world = World(tmp_path / "head", live=True)
    with pytest.raises(UsageError, match="the list of nodes is empty"):
        check._nodes(world.context, text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("queue1-[1", "a bracket of queue1-[1 has no counterpart"),
        ("queue1-1]", "a bracket"),
        ("q[[1-2]]", "a bracket"),
        ("q1-[3-1]", "[3-1] is not a range of numbers"),
        ("q1-[]", "[] is not a range"),
        ("q1-[1-]", "[1-] is not a range"),
        ("q1-[a-b]", "[a-b] is not a range"),
        ("q1-[1-100000]", "[1-100000] has more than 65536 numbers"),
        ("q[1-500]-[1-500]", "q[1-500]-[1-500] has more than 65536 names"),
    ],
)
def test_a_malformed_list_of_nodes_is_named_with_its_mistake(tmp_path: Path, text: str, why: str) -> None:
    world = World(tmp_path / "head", live=True)
    with pytest.raises(UsageError) as raised:
        check._nodes(world.context, text)
    assert (raised.value.what, why in raised.value.why) == (f"{text} is not a list of nodes", True)


def test_nodes_that_slurm_does_not_know_are_folded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no such node: ALL,q1-st-c5-\[3-60000\]: Slurm has"):
        check._nodes(World(tmp_path / "head", live=True).context, "ALL,q1-st-c5-[1-60000]")


@pytest.mark.parametrize(("words", "daemon"), [("Munge encode failed", "munge"), ("Unable to contact", "slurmctld")])
def test_a_silent_slurm_names_the_daemon_that_is_silent(tmp_path: Path, words: str, daemon: str) -> None:
    world = World(tmp_path / "head", live=True)

    def silent(_: Sequence[str]) -> str:
        raise ProcessFailed("sinfo ended with 1", why=f"sinfo: error: {words}\nslurm_load_partitions: error")

    world.system.answers["sinfo"] = silent
    with pytest.raises(PetalError) as raised:
        check._nodes(world.context, "all")
    assert raised.value.remedy == (f"systemctl status {daemon}", "petal-node check")


def test_a_remedy_of_other_nodes_runs_there_as_root(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True)
    remedy = (
        "petal-node repair",
        "petal-node repair --yes    # removes it",
        "umount /x && petal-node bootstrap",
        "ask, then: petal-node bootstrap",
        "on the head node: petal-node repair",
        "petal-node bootstrap --config FILE",
        "ls -ld /x",
        "curl http://example.com/x | sh",
        "on the head node: curl http://example.com/x | sh",
    )
    bad = Finding("storage", Severity.FAIL, "/shared is new to this node", "", remedy)
    alone = Finding("shell", Severity.FAIL, "old", "", ("petal-node repair",))

    def answer(argv: Sequence[str]) -> str:
        (name,) = asked_nodes(argv)
        findings = (bad, alone) if name == "q2-st-1" else (bad,)
        return fleet.report_line(NodeReport(name, "compute", "t", None, findings), argv[-1])

    world.system.answers["srun"] = answer
    sinfo = "q1-st-1|idle|q1*|none\nq1-st-2|idle|q1*|none\nq2-st-1|idle|q2|none\n"
    reports = fleet.prove(world.context, parse_sinfo(sinfo))
    link = world.context.paths.link
    srun = world.system.which("srun")
    q1, q2 = (f"{srun} -p q1 -N2 -w q1-st-[1-2] {link}", f"{srun} -p q2 -N1 -w q2-st-1 {link}")
    assert [*reports[0].findings[0].remedy] == [
        f"{q1} repair    # as root",
        f"{q2} repair    # as root",
        f"{q1} repair --yes    # as root; removes it",
        f"{q2} repair --yes    # as root; removes it",
        "on q1-st-[1-2],q2-st-1: umount /x && petal-node bootstrap",
        f"ask, then: {q1} bootstrap    # as root",
        f"ask, then: {q2} bootstrap    # as root",
        remedy[4],
        *(f"on q1-st-[1-2],q2-st-1: {line}" for line in remedy[5:]),
    ]
    assert {report.findings[0] for report in reports} == {reports[0].findings[0]}  # the views show it once
    assert [line.replace("/opt/slurm/bin/", "") for line in reports[2].findings[1].remedy] == [
        f"{q2} repair    # as root"
    ]


def test_an_answer_that_cannot_be_read_fails_its_node_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(tmp_path / "head", live=True)
    known = fleet.report_of_lines

    def report_of(node: str, nonce: str, lines: Sequence[str]) -> NodeReport | None:
        if node.endswith("2"):
            raise AttributeError("unexpected")
        return known(node, nonce, lines)

    monkeypatch.setattr(fleet, "report_of_lines", report_of)
    problem = {"path": "stack", "message": "wrong", "place": ""}
    finding = Finding("storage", Severity.WARN, "x", problems=(problem,))

    def answer(argv: Sequence[str]) -> str:
        return fleet.report_line(NodeReport("x", "compute", "t", None, (GOOD, finding)), argv[-1])

    world.system.answers["srun"] = answer
    reports = fleet.prove(world.context, parse_sinfo(SINFO.replace("allocated", "planned"))[:2])
    assert [report.passed for report in reports] == [True, False]
    assert reports[1].findings[0].message == "its answer cannot be read"
    assert "AttributeError: unexpected" in reports[1].findings[0].why
    lines = [str(line) for line in fleet_view(Result("check", Status.DEGRADED, FleetReport(reports)))]
    assert "proved on 1 of 2 nodes" in lines[-1]


def test_a_check_without_a_checked_node_is_degraded_and_leaves_the_last_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "head", live=True)
    monkeypatch.setattr(check, "prepare", lambda *_, **__: world.context)
    ctx, proofs = world.context, []
    ctx.paths.state.mkdir(parents=True, exist_ok=True)
    for state, status in (("idle", Status.OK), ("allocated", Status.DEGRADED), ("idle~", Status.DEGRADED)):
        world.system.answers["sinfo"] = lambda _, state=state: f"q1-1|{state}|q1*|none\n"
        assert check.check(world.options(command="check", nodes="all"), world.services).status is status
        proofs.append(ClusterState(ctx.paths).proof())
    assert proofs[0] is not None
    assert proofs[0].is_whole
    assert proofs == [proofs[0]] * 3


def test_a_proof_is_one_of_the_release_and_of_the_section_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(tmp_path / "head", live=True)
    monkeypatch.setattr(check, "prepare", lambda options, *_, **__: replace(world.context, options=options))
    world.paths.state.mkdir(parents=True, exist_ok=True)
    world.system.answers["sinfo"] = lambda argv: "q1-1|idle|q1*|none\n" if "--Node" in argv else "q1|up|infinite\n"
    monkeypatch.setattr("bootstrap.steps.proof.find_slurm", lambda _: "/usr/bin/sinfo")
    draft = world.options(world.prefix / "draft.yaml", command="check", nodes="all")
    assert check.check(draft, world.services).status is Status.OK
    assert ClusterState(world.paths).proof() is None  # a check with another configuration proves nothing
    check.check(world.options(command="check", nodes="all"), world.services)
    assert Proof().probe(world.context).holds
    world.config_text = "check: {time: 60}"
    (report,) = engine.plan([Proof()], world.context)
    assert report.outcome is Outcome.SKIPPED  # the command in the reason does it, bootstrap does not
    assert report.reason == "the proof is of an earlier section check: petal-node check --nodes all"
    run = "run: [{command: a, queues: [q1, gone]}]"
    world.config_text = f"check: {{partition: typo, user: no-such-user, load: [nothing], {run}}}"
    (report,) = engine.plan([Proof()], world.context)
    assert report.outcome is Outcome.BLOCKED
    wrong = {line.split(": ")[1] for line in report.reason.splitlines()[1:]}
    assert wrong == {"check.partition", "check.user", "check.load[0]", "check.run[0].queues[1]"}


def test_a_partition_that_slurm_does_not_have_is_a_mistake_in_the_configuration(tmp_path: Path) -> None:
    world = World(tmp_path / "head", live=True, config_text="check: {partition: typo}")
    world.system.answers["sinfo"] = lambda argv: TWO_QUEUES if "--Node" in argv else "q1|up|infinite\n"
    with pytest.raises(ConfigError, match=r"check\.partition: typo is not a queue of this cluster: it has q1"):
        fleet.prove(world.context, parse_sinfo(TWO_QUEUES))
