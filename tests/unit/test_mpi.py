"""MPI between nodes: the output of a rank, the started job, and the findings for recorded jobs.

``mpi_jobs/*.txt`` are jobs of a real Slurm 22.05 with PMIx 4.2, Open MPI 4.1.4 and MPICH 4.0.2 in the lab. Those
named "newer" are of Slurm 24.11 with PMIx 5.0 and Open MPI 5.0.7. Each has one fault: the exit code, the output of the
ranks and of srun, and ``srun --mpi=list``.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from bootstrap.cluster.slurm import SlurmNode
from bootstrap.core.errors import ProcessFailed, ProcessTimeout
from bootstrap.core.model import Severity
from bootstrap.host.system import Completed
from bootstrap.prove import mpi_proof as proof
from bootstrap.prove import mpi_rank as rank
from bootstrap.prove.mpi_judge import Evidence, judge, quote
from bootstrap.prove.mpi_stages import LINE_BYTES, Stage, line, ranks_of
from bootstrap.state.release import Manifest, ModuleFile, Tree, write_manifest
from tests.world import World

JOBS = Path(__file__).with_name("mpi_jobs")
ONE, TWO = "queue1-st-c5-1", "queue1-st-c5-2"
SECTIONS = re.compile(r"# exit (\d+)\n# stdout\n(.*)# stderr\n(.*)# srun --mpi=list\n(.*)", re.DOTALL)
# The start of the message, and a line that the finding must quote.
FAILED = {
    "plugin-nowhere": ("Slurm: srun --mpi=list has no pmix plugin", "cannot find mpi plugin"),
    "plugin-not-on-nodes": (f"Slurm: {ONE} and {TWO} did not start the task", "Task launch for StepId=10.0 failed"),
    "plugin-not-on-one": (f"Slurm: {TWO} did not start the task", "Task launch for StepId=11.0 failed"),
    "newer-plugin-nowhere": ("Slurm: srun --mpi=list has no pmix plugin", "cannot find mpi plugin"),
    "newer-plugin-not-on-nodes": (f"Slurm: {ONE} and {TWO} did not start the task", "failed on node"),
    "newer-libpmix-not-on-one": (f"Slurm: {TWO} did not start the task", "Task launch for StepId=6.0 failed"),
    "newer-no-pmix-one": (f"PMIx: the rank on {TWO} has no PMIX_RANK in its environment", "SLURM_MPI_TYPE is pmix"),
    "newer-no-pmix-both": (f"PMIx: the rank on {ONE} has no PMIX_RANK in its environment", "SLURM_MPI_TYPE is pmix"),
    "newer-psquash": (f"MPI: rank 0 on {ONE} stopped in MPI_Init (Open MPI v5.0.7", "pmix_psquash_base_select failed"),
    "newer-firewall": (f"MPI: rank 0 on {ONE} stopped in the first exchange", "Unable to connect to the peer"),
    "no-slurmctld": ("Slurm: srun ended with 1, and no rank started", "Unable to contact slurm controller"),
    "libpmix-not-on-head": ("Slurm: srun ended with 1, and no rank started", "can not load PMIx"),
    "libpmix-not-on-one": (f"Slurm: {TWO} did not start the task", "Task launch for StepId=13.0 failed"),
    "no-pmix": (f"PMIx: the rank on {ONE} has no PMIX_RANK in its environment", "SLURM_MPI_TYPE is not set"),
    "psquash": (f"MPI: rank 0 on {ONE} stopped in MPI_Init (Open MPI v4.1.4, PMIx 4.2.2rc2)", "pmix_psquash_base_sel"),
    "psec": (f"MPI: rank 0 on {ONE} stopped in MPI_Init", "OMPI was not built with SLURM's PMI support"),
    "gds": (f"MPI: rank 0 on {ONE} stopped in MPI_Init", "PMIx stopped checking"),
    "pmix-isolated": (f"MPI: rank 0 on {ONE} stopped in MPI_Init", "getting job size failed"),
    "no-ext3x-one": (f"MPI: rank 1 on {TWO} stopped in MPI_Init", "getting job size failed"),
    "mpich-alone": ("MPI: each rank is alone: MPICH Version: 4.0.2 does not use", f"MPI_Comm_size is 1 on {ONE}"),
    "crash": (f"MPI: rank 1 on {TWO} stopped in MPI_Init", "Segmentation fault"),
    "crash-and-hang": (f"MPI: rank 0 on {ONE} hangs in MPI_Init", "malloc assertion failure"),
    "unreadable": (f"MPI: its library cannot be loaded on {ONE}", "libmpi.so: cannot open shared object file: Perm"),
    "needed-lib-one": (f"MPI: its library cannot be loaded on {TWO}", "libopen-pal.so.40: cannot open"),
    "no-lib": (f"MPI: the module brings no MPI library on {ONE}", "no libmpi.so in /opt/amazon/openmpi/lib, "),
    "no-module": (f"MPI: the module does not load on {ONE}", "The following module(s) are unknown"),
    "firewall": (f"MPI: rank 1 on {TWO} stopped in the first exchange", "Unable to connect to the peer 172.18.0.5"),
    "no-transport": (f"MPI: rank 0 on {ONE} stopped in the first exchange", "unable to reach each other"),
    "drop": (f"MPI: rank 0 on {ONE} hangs in the first exchange (MPI_Allreduce)", "no end within 60 s"),
    "blackhole": (f"MPI: rank 0 on {ONE} hangs in MPI_Init", "pmixp_p2p_send: queue1-st-c5-1"),
}


def recorded(name: str) -> Evidence:
    found = SECTIONS.fullmatch((JOBS / f"{name}.txt").read_text(encoding="utf-8"))
    assert found
    code, stdout, *texts = found.groups()
    return Evidence("openmpi/4.1", (ONE, TWO), int(code), labelled(stdout), *texts)


def labelled(stdout: str) -> str:
    """The output as ``srun --label`` prints it; the jobs were recorded without."""
    return re.sub(r'(?m)^.*\{"rank": (\d)', lambda found: f"{found[1]}: {found[0]}", stdout)


# --------------------------------------------------------------------------------------------------------- findings


@pytest.mark.parametrize("name", FAILED)
def test_the_finding_names_node_and_stage_and_quotes_the_decisive_line(name: str) -> None:
    message, why = FAILED[name]
    finding = judge(recorded(name))
    assert (finding.check, finding.severity) == ("mpi:openmpi/4.1", Severity.FAIL)
    assert finding.message.startswith(message), finding
    assert why in finding.why, finding
    assert finding.remedy[-1].startswith(f"srun --mpi=pmix -N2 -n2 -w {ONE},{TWO} bash -lc")
    assert "Killed" not in finding.why
    assert "StepId=7" not in finding.why


def test_every_recorded_job_has_an_expected_finding() -> None:
    assert {path.stem for path in JOBS.glob("*.txt")} == {*FAILED, "well", "newer-well", "busy", "drained"}


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("well", "0.0185 s with Open MPI v4.1.4, PMIx 4.2.2rc2"),
        ("newer-well", "0.0714 s with Open MPI v5.0.7, PMIx 5.0.7a1"),
    ],
)
def test_a_successful_job_is_ok(name: str, how: str) -> None:
    finding = judge(recorded(name))
    assert finding.severity is Severity.OK
    assert finding.message == f"2 ranks on {ONE} and {TWO} sent each other 4 MiB in {how}"


def job(*texts: str, code: int = 1, stderr: str = "") -> Evidence:
    return Evidence("openmpi/4.1", (ONE, TWO), code, "\n".join(texts), stderr)


def at(number: int, stage: Stage, **facts: Any) -> str:
    return f"{number}: {line(number, (ONE, TWO)[number], stage, {'pmix': True, 'version': 'V', **facts})}"


@pytest.mark.parametrize(
    ("evidence", "message"),
    [
        (job(), "Slurm: srun ended with 1, and no rank started"),
        (job(at(0, Stage.INIT)), f"Slurm: the rank on {TWO} reported nothing"),
        (
            job(at(0, Stage.BULK), at(1, Stage.BULK, error="no end", hangs=True)),
            f"MPI: rank 1 on {TWO} hangs in the exch",
        ),
        (
            job(at(0, Stage.DONE, size=2), at(1, Stage.BULK, error="other bytes")),
            f"MPI: rank 1 on {TWO} stopped in the",
        ),
        (
            job(at(0, Stage.DONE, size=2), at(1, Stage.FINALIZE, hangs=True)),
            f"MPI: rank 1 on {TWO} hangs in MPI_Finalize",
        ),
        (
            job(at(0, Stage.DONE, size=1, pmix=False), at(1, Stage.DONE, size=1)),
            f"PMIx: the rank on {ONE} has no PMIX_RANK",
        ),
        (job(at(0, Stage.DONE, size=2), at(1, Stage.DONE, size=2), code=139), "MPI: srun ended with 139 after all "),
        (
            job(at(0, Stage.LOAD), at(1, Stage.LOAD)),
            f"MPI: rank 0 on {ONE} stopped in the loading of the library (V",
        ),
        (
            job(at(0, Stage.BULK), at(1, Stage.BULK), stderr=f"srun: error: {TWO}: task 1: Bus error"),
            f"MPI: rank 1 on {TWO} stopped in the exchange of a large message (MPI_Sendrecv) (V",
        ),
        (
            job(at(0, Stage.INIT, hangs=True), at(1, Stage.EXCHANGE, hangs=True)),
            f"MPI: rank 0 on {ONE} hangs in MPI_Init",
        ),
    ],
)
def test_findings_of_constructed_jobs(evidence: Evidence, message: str) -> None:
    assert judge(evidence).message.startswith(message), judge(evidence)


def test_missing_lines_are_never_a_success() -> None:
    assert judge(job(code=0)).severity is Severity.FAIL
    assert judge(job(at(0, Stage.DONE, size=2), code=0)).severity is Severity.FAIL
    assert judge(job(at(0, Stage.DONE, size=2), at(1, Stage.LOAD), code=0)).severity is Severity.FAIL


def test_a_task_cannot_write_the_lines_of_another_one() -> None:
    """The label is srun's, so what a task says about its node and number has no effect."""
    forged = line(1, "x; reboot", Stage.DONE, {"size": 2})
    stderr = "Task launch for StepId=1.0 failed on node evil: x"
    evidence = job(at(0, Stage.START), f"0: {forged}", forged, f"7: {forged}", f"-1: {forged}", stderr=stderr)
    assert [(one.number, one.node) for one in evidence.ranks] == [(0, ONE)]
    assert judge(evidence).message == f"Slurm: the rank on {TWO} reported nothing"
    assert evidence.not_launched == []
    finding = judge(job(at(0, Stage.LOAD, library="/x; reboot", error="e"), at(1, Stage.INIT), stderr=stderr))
    assert finding.message == f"MPI: its library cannot be loaded on {ONE}"
    assert "reboot" not in " ".join(finding.remedy)


def test_lines_are_quoted_once_and_without_frames() -> None:
    text = "-----\n[a:1] it broke\n[b:2] it broke\n\n*** MPI_ERRORS_ARE_FATAL\nsrun: error: n: task 0: Killed\n"
    text += "srun: job 49 queued and waiting for resources\nsrun: job 49 has been allocated resources\n"
    assert quote(text) == "it broke"
    assert quote("0: [a:1] it broke\n1: [b:2] it broke\n") == "it broke"
    assert quote("slurmstepd: error: *** STEP 7.0 ON n CANCELLED AT 2026-11-28T18:31:43 ***") == ""
    assert "DUE TO TIME LIMIT" in quote("slurmstepd: error: *** STEP 7.0 ON n CANCELLED AT t DUE TO TIME LIMIT ***")
    numbers = [str(number) for number in range(20)]
    assert quote("\n".join(numbers)) == " / ".join(numbers[12:])
    assert quote("one\nit failed\nthree") == "it failed"


# ---------------------------------------------------------------------------------------------------------- the ranks


@pytest.mark.parametrize("text", ["x" * 5000, '"\\' * 3000, "\u00fc" * 5000])
def test_no_line_of_a_rank_is_longer_than_srun_keeps_whole(text: str) -> None:
    facts = {"library": text, "version": text, "error": text, "mpirun": text}
    assert len(line(1, "n" * 300, Stage.START, facts)) < LINE_BYTES


def test_other_lines_are_ignored() -> None:
    noise = [
        "",
        "{",
        "[1]",
        '{"rank": Infinity, "node": "n", "stage": "init"}',
        '{"rank": "x"}',
        '{"rank": 0, "node": "n", "stage": "flight"}',
        "[" * 100_000,
    ]
    found = ranks_of(
        [*noise, "1: welcome" + at(1, Stage.LOAD, library="/l")[3:], at(1, Stage.INIT), at(0, Stage.START)], (ONE, TWO)
    )
    assert {number: one.stage for number, one in found.items()} == {0: Stage.START, 1: Stage.INIT}
    assert (found[1].library, str(found[1])) == ("/l", f"rank 1 on {TWO}")


class FakeLibrary:
    """An MPI library in which only the configured call fails."""

    size = 2
    pause = 0.0

    def __init__(self, path: Path) -> None:
        self.path = path

    def version(self) -> str:
        return "Fake MPI"

    def init(self) -> None:
        time.sleep(self.pause)

    def rank_and_size(self) -> tuple[int, int]:
        return 0, self.size

    def exchange(self, _rank: int, _size: int) -> None: ...

    def bulk(self, _rank: int, _size: int) -> None:
        raise rank.RankFailed("the message has other bytes than were sent")

    def finalize(self) -> None: ...


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """The files of an MPI with the links of distributions."""
    (tmp_path / "mpi" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "lib64").mkdir()
    (tmp_path / "usr" / "bin" / "orterun").touch(0o755)
    (tmp_path / "mpi" / "bin" / "mpirun").symlink_to("../../usr/bin/orterun")
    return tmp_path


def started(env: dict[str, str], loaded: int = 0, seconds: float = 30) -> tuple[int, list[dict[str, Any]], list[int]]:
    lines: list[str] = []
    stopped: list[int] = []
    env = {"SLURM_PROCID": "1", "PMIX_RANK": "1", "PMIX_NAMESPACE": "slurm.pmix.5.0", "PMIX_VERSION": "4.2.2", **env}
    code = rank.Task(env, "n1", lines.append, loaded, stop=stopped.append).run(seconds)
    return code, [json.loads(text) for text in lines], stopped


def library(prefix: Path, *names: str) -> dict[str, str]:
    for name in names:
        (prefix / name).parent.mkdir(parents=True, exist_ok=True)
        (prefix / name).touch()
    return {"PATH": str(prefix / "mpi" / "bin")}


@pytest.mark.parametrize(
    ("files", "found"),
    [
        (("mpi/lib/libmpi.so.40", "mpi/lib/libmpi.so", "mpi/lib/libmpi_cxx.so"), "mpi/lib/libmpi.so"),
        (("mpi/lib64/libmpi.so.12.1", "usr/lib64/libmpi.so"), "mpi/lib64/libmpi.so.12.1"),
        (("usr/lib64/libmpich.so.12",), "usr/lib64/libmpich.so.12"),
        (("mpi/lib/release/libmpi.so.12", "elsewhere/libmpi.so"), "mpi/lib/release/libmpi.so.12"),
        (("elsewhere/libmpi.so",), "elsewhere/libmpi.so"),
    ],
)
def test_the_library_of_the_module_is_found(prefix: Path, files: tuple[str, ...], found: str) -> None:
    env = {**library(prefix, *files), "LD_LIBRARY_PATH": f":relative:{prefix}/elsewhere"}
    assert rank.find_library(env) == prefix / found


def test_without_a_library_the_error_names_the_directories(prefix: Path) -> None:
    with pytest.raises(rank.RankFailed, match=re.escape(f"no libmpi.so in {prefix}/mpi/lib, {prefix}/mpi/lib64")):
        rank.find_library(library(prefix))
    with pytest.raises(rank.RankFailed, match="no mpirun on PATH"):
        rank.find_library({"PATH": str(prefix)})


def test_a_rank_prints_each_stage_before_it_begins(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "Library", FakeLibrary)
    env = library(prefix, "mpi/lib/libmpi.so")
    code, lines, _ = started(env)
    assert (code, [entry["stage"] for entry in lines]) == (1, ["start", "load", "init", "exchange", "bulk", "bulk"])
    assert (lines[0]["pmix"], lines[0]["pmix_version"], lines[0]["rank"]) == (True, "4.2.2", 1)
    assert (lines[3]["size"], lines[-1]["error"]) == (2, "the message has other bytes than were sent")
    monkeypatch.setattr(FakeLibrary, "size", 1)
    code, lines, _ = started(env)
    assert (code, [entry["stage"] for entry in lines][-3:]) == (0, ["init", "finalize", "done"])


def test_a_rank_that_hangs_prints_its_stage_and_ends(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank, "Library", FakeLibrary)
    monkeypatch.setattr(FakeLibrary, "pause", 0.3)
    _, lines, stopped = started(library(prefix, "mpi/lib/libmpi.so"), seconds=0.05)
    (output,) = (entry for entry in lines if entry.get("hangs"))
    assert (output["stage"], output["error"], stopped) == ("init", "no end within 0 s", [rank.HANGS])


def test_a_file_that_is_not_a_library_is_an_error(prefix: Path) -> None:
    code, lines, _ = started(library(prefix, "mpi/lib/libmpi.so"))
    assert (code, lines[-1]["stage"]) == (1, "load")
    assert "libmpi.so: file too short" in lines[-1]["error"]
    code, lines, _ = started({"PATH": ""}, loaded=127)
    assert (code, lines[-1]["error"]) == (1, "module load ended with 127")


# ------------------------------------------------------------------------------------------------------------ the job


def node(name: str, queue: str = "q1") -> SlurmNode:
    return SlurmNode(name, "idle", "", queue)


def published(world: World, *modules: str) -> None:
    files = tuple(ModuleFile(name.rpartition(":")[2], name.replace(":", "/") + ".lua", "spack") for name in modules)
    tree = Tree("debian12-x86_64", "x86_64", files)
    write_manifest(world.paths, Manifest("r1", "t", "debian12", "2.36", (), (tree,)))
    (world.paths.root / "current").symlink_to(world.paths.release("r1"))


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path / "head", config_text="check: {mpi: true}")
    made.paths.release("r1").mkdir(parents=True)
    made.system.answers["srun"] = lambda _: recorded("well").stdout
    return made


def test_the_mpis_of_a_release_are_those_in_core(world: World) -> None:
    published(world, "Core:openmpi/4.1.7", "openmpi:4.1.7/hdf5/1.14", "Core:gcc/12", "gcc/12:mpich/4", "Core:mpich/4.1")
    (first, second) = proof.prove_release(world.context, [node(ONE), node("x", "q2"), node(TWO)])
    assert (first.check, second.check) == ("mpi:openmpi/4.1.7", "mpi:mpich/4.1")
    assert {first.severity, second.severity} == {Severity.OK}


def test_the_job_has_two_ranks_on_two_nodes_of_one_queue(world: World) -> None:
    published(world, "Core:openmpi/4.1")
    proof.prove_release(world.context, [node("x", "q2"), node(ONE), node(TWO)])
    (command,) = (argv for argv in world.system.commands if argv[0] == "srun")
    wanted = {"--mpi=pmix", "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", f"--nodelist={ONE},{TWO}", "--label"}
    assert {*wanted, "--partition=q1", "--export=HOME,LANG"} <= set(command)
    assert command[-5:] == ("-lc", proof.SCRIPT, "petal-mpi", "openmpi/4.1", str(world.paths.link))


def test_the_job_runs_in_a_partition_that_takes_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    published(world, "Core:openmpi/4.1")
    asked = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        asked.extend(word for word in argv if word.startswith("--partition="))
        if "--partition=admin" in argv:
            return Completed(1, "", "srun: error: Unable to allocate resources: User's group not permitted")
        return Completed(0, recorded("well").stdout if argv[0] == "srun" else "", "")

    monkeypatch.setattr(world.system, "run", run)
    both = [SlurmNode(name, "idle", "", "admin", partitions=("admin", "q1", "q2")) for name in (ONE, TWO)]
    (finding,) = proof.prove_release(world.context, both)
    assert (finding.severity, asked) == (Severity.OK, ["--partition=admin", "--partition=q1"])


@pytest.mark.parametrize(
    ("modules", "nodes", "output"),
    [
        (("Core:openmpi/4.1",), [node(ONE)], "two nodes of one queue are needed, and 1 can be used"),
        (("Core:openmpi/4.1",), [node(ONE), node(TWO, "q2")], "two nodes of one queue are needed, and 2 can be used"),
        (("Core:hello/1", "gcc/12:openmpi/4"), [node(ONE), node(TWO)], "the release has no MPI"),
    ],
)
def test_without_two_nodes_or_an_mpi_the_finding_is_skipped(
    world: World, modules: Sequence[str], nodes: list[SlurmNode], output: str
) -> None:
    published(world, *modules)
    (finding,) = proof.prove_release(world.context, nodes)
    assert (finding.check, finding.severity) == ("mpi", Severity.SKIP)
    assert finding.message.startswith(output)
    assert not any(argv[0] == "srun" for argv in world.system.commands)


def answering(world: World, monkeypatch: pytest.MonkeyPatch, evidence: Evidence) -> list[Sequence[str]]:
    """Slurm answers as in a recorded job."""
    asked: list[Sequence[str]] = []

    def run(argv: Sequence[str], **_: Any) -> Completed:
        asked.append(argv)
        if "--mpi=pmix" in argv:
            return Completed(evidence.code, evidence.stdout, evidence.stderr)
        return Completed(0, "", evidence.plugins)

    monkeypatch.setattr(world.system, "run", run)
    return asked


@pytest.mark.parametrize("name", ["busy", "drained"])
def test_nodes_that_are_not_free_are_skipped(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    answering(world, monkeypatch, recorded(name))
    finding = proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {})
    assert (finding.severity, finding.message) == (Severity.SKIP, "the nodes were not free")
    assert "Requested nodes are busy" in finding.why


@pytest.mark.parametrize(
    "stderr",
    [
        "srun: error: Unable to allocate resources: Requested node configuration is not available",
        "mpirun: /dev/knem: Device or resource busy",
    ],
)
def test_only_slurms_own_words_for_busy_nodes_skip_the_proof(
    world: World, monkeypatch: pytest.MonkeyPatch, stderr: str
) -> None:
    """A broken MPI would be a passed proof."""
    answering(world, monkeypatch, job(stderr=stderr))
    finding = proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {})
    assert finding.severity is Severity.FAIL
    assert stderr.rpartition(": ")[2] in finding.why


def test_the_mpi_job_is_made_smaller_if_slurm_calls_it_too_long_or_too_large(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    policy = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"

    def run(argv: Sequence[str], **_: Any) -> Completed:
        asked.append([word for word in argv if word.startswith(("--mem=", "--time="))])
        for option, words in (("--time=3:00", policy), ("--mem=1G", "Requested node configuration is not available")):
            if option in argv:
                return Completed(1, "", f"srun: error: Unable to allocate resources: {words}")
        return Completed(0, recorded("well").stdout, "")

    monkeypatch.setattr(world.system, "run", run)
    assert proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {}).severity is Severity.OK
    assert asked == [["--time=3:00", "--mem=1G"], ["--time=1:00", "--mem=1G"], ["--time=1:00"]]


def test_no_second_job_starts_if_the_first_one_did_not(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(world, monkeypatch, recorded("libpmix-not-on-one"))
    finding = proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {})
    assert finding.message == f"Slurm: {TWO} did not start the task"
    assert "Task launch for StepId=13.0 failed" in finding.why
    assert "grep -i mpi /var/log/slurmd.log" in finding.remedy[1]
    assert [argv[1] for argv in asked] == ["--mpi=pmix", "--mpi=list"]


@pytest.mark.parametrize("what", ["the program printed more output than is accepted, and was stopped"])
def test_a_job_that_was_ended_for_its_output_is_not_called_endless(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def run(argv: Sequence[str], **_: Any) -> Completed:
        raise ProcessFailed(what)

    monkeypatch.setattr(world.system, "run", run)
    finding = proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {})
    assert (finding.severity, finding.message) == (Severity.FAIL, what)


def test_a_job_that_does_not_end_is_a_failure_of_slurm(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[str], **_: Any) -> Completed:
        raise ProcessTimeout(f"{argv[0]} did not end within 250 s and was stopped", why="")

    monkeypatch.setattr(world.system, "run", run)
    finding = proof.prove_mpi(world.context, "openmpi/4.1", [ONE, TWO], ["q1"], {})
    assert (finding.severity, finding.message) == (Severity.FAIL, "Slurm: the job did not end")
    assert "did not end within 250 s" in finding.why
