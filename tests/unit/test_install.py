"""What an install says of itself: progress from Spack's lines, the time left, failures, and how cores are used."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.spack import install
from bootstrap.spack.install import Failure, Teller, explain, sort_out
from bootstrap.spack.lockfile import Locked
from bootstrap.spack.parallel import GIB, Parallel, split
from bootstrap.spack.progress import Progress, Running, Watch, in_words, makespan


def locked(name: str, *needs: Locked) -> Locked:
    return Locked(name, "1.0", (name * 32)[:32], False, False, tuple(spec.hash for spec in needs))


ZLIB = locked("zlib")
HDF5 = locked("hdf5", ZLIB)
MPI = locked("openmpi")
OSU = locked("osu", MPI)
ALL = (ZLIB, HDF5, MPI, OSU)


def full(spec: Locked) -> str:
    return f"{spec.name}-{spec.version}-{spec.hash}"


def watch(*lines: str, **options: object) -> Watch:
    """One that has seen these lines, a second apart."""
    made = Watch(ALL, (), 2, **options)  # type: ignore[arg-type]
    for number, line in enumerate(lines):
        made.line(line, float(number))
    return made


def test_packages_names_and_phases_are_counted_from_interleaved_lines() -> None:
    seen = watch(
        f"==> Installing {full(ZLIB)}",
        f"==> Installing {full(MPI)} [2/4]",
        "==> zlib: Executing phase: 'build'",
        "==> openmpi: Executing phase: 'configure'",
        f"==> zlib: Successfully installed {full(ZLIB)}",
        "[+] /usr (external gcc-12.2.0-5dnx622yva4j3a4qt4veuj5koh7gugrv)",
        f"==> Installing {full(HDF5)}",
    )
    assert seen.at(7).done == 1
    assert seen.at(7).running == (Running("openmpi", "configure"), Running("hdf5", "fetch"))
    assert str(seen.at(7)).startswith("installing 1 of 4: openmpi (configure), hdf5 (fetch); ")


def test_what_was_there_or_another_process_built_is_done_too() -> None:
    seen = watch(f"[+] /opt/petal/store/linux-debian12-x86_64_v3/zlib-1.0-{ZLIB.hash[:7]}")
    assert seen.at(1).done == 1
    assert Watch(ALL, [ZLIB.hash, "of another stack"], 2).at(0) == Progress(1, 4)


def test_an_error_belongs_to_the_package_that_it_names_though_others_talk_in_between() -> None:
    seen = watch(
        f"==> Installing {full(ZLIB)}",
        f"==> Installing {full(MPI)}",
        "==> zlib: Executing phase: 'build'",
        "==> Error: ProcessError: Command exited with status 1:",
        "    'make'",
        "==> openmpi: Executing phase: 'configure'",
        f"  /stage/spack-stage-{full(ZLIB)}/spack-build-out.txt",
        f"==> Warning: Skipping build of {full(HDF5)} since {full(ZLIB)} failed",
        f"==> Error: {full(HDF5)}: Package was not installed",
    )
    seen.end()
    now = seen.at(9)
    assert (now.failed, now.running) == (("zlib",), (Running("openmpi", "configure"),))
    assert "'make'" in seen.error_of(ZLIB)
    assert "openmpi" not in seen.error_of(ZLIB)
    assert seen.error_of(HDF5) == ""
    assert (seen.phase_of(ZLIB), seen.phase_of(HDF5)) == ("build", None)


def test_the_cause_the_victims_and_what_was_never_begun_are_told_apart() -> None:
    seen = watch(f"==> Installing {full(ZLIB)}")
    failed, waiting, left = sort_out((ZLIB, HDF5, MPI, OSU), seen)
    assert (failed, waiting, left) == ([ZLIB], [HDF5, OSU], [MPI])
    text = explain([Failure(ZLIB, "build", ("zlib.c:1: error",), Path("/log/zlib.log"))], waiting, left)
    assert text.splitlines() == [
        "zlib@1.0 failed in phase build",
        "    zlib.c:1: error",
        "  log: /log/zlib.log",
        "not tried, since they need what failed: hdf5, osu",
        "not begun: openmpi",
    ]


def test_nothing_is_estimated_from_nothing() -> None:
    assert watch(f"==> Installing {full(ZLIB)}").at(5).left is None


def test_the_estimate_is_of_this_run_and_of_earlier_ones() -> None:
    earlier = watch(seconds={"zlib": 60.0, "hdf5": 240.0, "openmpi": 100.0, "osu": 20.0})
    assert earlier.at(0).left == 300
    assert "about 5 min left" in str(earlier.at(0))
    measured = watch(f"==> Installing {full(ZLIB)}", *[""] * 9, f"==> zlib: Successfully installed {full(ZLIB)}")
    assert measured.at(10).left == 20, "openmpi then osu, hdf5 beside them, each as long as zlib took"


def test_what_runs_counts_only_for_the_rest_and_never_below_nothing() -> None:
    seen = watch(f"==> Installing {full(ZLIB)}", seconds={spec.name: 10.0 for spec in ALL})
    assert seen.at(4).left == 20 - 4 + 4, "openmpi and osu take the other place for 20 s"
    assert Watch((ZLIB,), (), 1, {"zlib": 10.0}).at(0).left == 10
    alone = Watch((ZLIB,), (), 1, {"zlib": 10.0})
    alone.line(f"==> Installing {full(ZLIB)}", 0)
    assert alone.at(99).left == 0


@pytest.mark.parametrize(
    ("workers", "seconds"), [(1, 40), (2, 20), (9, 20)]
)  # fmt: skip
def test_the_time_of_a_graph(workers: int, seconds: float) -> None:
    needs = {spec.hash: spec.needs for spec in ALL}
    assert makespan({spec.hash: 10.0 for spec in ALL}, needs, (), workers) == seconds


def test_what_needs_a_failed_package_takes_no_time() -> None:
    costs = {spec.hash: 10.0 for spec in ALL}
    assert makespan(costs, {spec.hash: spec.needs for spec in ALL}, (), 1, [MPI.hash]) == 20


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(12, "less than a minute"), (350, "about 6 min"), (5300, "about 88 min"), (6000, "about 1 h 40 min")],
)
def test_durations_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


@pytest.mark.parametrize(
    ("cores", "memory", "limit", "expected"),
    [
        (1, 1, 0, Parallel(1, 1)), (2, 4, 0, Parallel(2, 2)), (4, 8, 0, Parallel(2, 4)), (8, 16, 0, Parallel(3, 6)),
        (16, 32, 0, Parallel(4, 8)), (64, 128, 0, Parallel(8, 16)), (192, 384, 0, Parallel(8, 48)),
        (8, 2, 0, Parallel(2, 2)), (8, 0, 0, Parallel(1, 1)), (64, 128, 2, Parallel(2, 2)), (2, 4, 64, Parallel(2, 2)),
    ],
)  # fmt: skip
def test_cores_are_shared_by_one_rule(cores: int, memory: int, limit: int, expected: Parallel) -> None:
    assert split(cores, memory * GIB, limit) == expected


def test_the_record_is_not_written_for_each_line_and_not_forgotten_in_silence() -> None:
    now = [0.0]
    said: list[str] = []
    teller = Teller(Watch((ZLIB,), (), 2, {"zlib": 600.0}), said.append, lambda: now[0])
    teller.line(f"==> Installing {full(ZLIB)}")
    for second in range(100):
        now[0] = float(second)
        teller.line("==> zlib: Executing phase: 'build'" if second % 2 else "compiling")
    assert len(said) <= 1 + 100 / install.TELL_SECONDS
    before = len(said)
    for second in range(100, 400):
        now[0] = float(second)
        teller.idle()
    assert len(said) > before, "the estimate goes down while nothing comes"
    assert len(said) - before <= 300 / install.IDLE_SECONDS + 1


def test_only_the_logs_of_the_newest_runs_are_kept(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"2026112{number}T000000.000Z-aaaaaa").mkdir()
    (tmp_path / "spack-20261120T000000.000Z-aaaaaa.log").write_text("")
    install.prune(tmp_path)
    assert [path.name[:8] for path in sorted(tmp_path.iterdir()) if path.is_dir()] == [
        f"2026112{n}" for n in range(3, 8)
    ]
    assert len(list(tmp_path.glob("*.log"))) == 1


def test_what_needs_a_package_of_an_earlier_slice_that_failed_is_not_tried() -> None:
    needs = {spec.hash: set(spec.needs) for spec in ALL}
    last = locked("last", OSU)
    needs[last.hash] = set(last.needs)
    part = [ZLIB.hash, HDF5.hash, OSU.hash, last.hash]
    assert install._in_vain(part, needs, {MPI.hash}) == {OSU.hash, last.hash}
    assert install._in_vain(part, needs, set()) == set()


def test_what_came_from_a_build_cache_is_counted() -> None:
    seen = watch(
        f"==> Installing {full(ZLIB)} [1/4]",
        f"==> Extracting {full(ZLIB)} from binary cache",
        f"[+] /opt/petal/store/linux-debian12-x86_64_v3/zlib-1.0-{ZLIB.hash[:7]}",
        f"==> Installing {full(HDF5)} [2/4]",
        f"==> Extracting {full(HDF5)} from binary cache",
    )
    assert str(seen.at(5)).startswith("installing 1 of 4 (1 from a build cache): hdf5 (unpack)")
    assert Watch(ALL, [ZLIB.hash], 2, cached=[ZLIB.hash, MPI.hash]).at(0) == Progress(1, 4, cached=1)
