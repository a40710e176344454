"""An install reads its progress and failures from Spack's output, and distributes the cores by one rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bootstrap.spack import install, progress
from bootstrap.spack.driver import GIB, split, usable_cores
from bootstrap.spack.install import Failure, classify_missing, explain, possible
from bootstrap.spack.lockfile import Locked
from bootstrap.spack.progress import InstallProgress, ProgressReporter, elapsed
from tests.world import HOST


def locked(name: str, *needs: Locked) -> Locked:
    return Locked(name, "1.0", (name * 32)[:32], False, False, tuple(spec.hash for spec in needs))


ZLIB = locked("zlib")
HDF5 = locked("hdf5", ZLIB)
MPI = locked("openmpi")
OSU = locked("osu", MPI)
ALL = (ZLIB, HDF5, MPI, OSU)


def full(spec: Locked) -> str:
    return f"{spec.name}-{spec.version}-{spec.hash}"


def watch(*lines: str) -> InstallProgress:
    """The progress after these lines."""
    made = InstallProgress(ALL, ())
    for line in lines:
        made.line(line)
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
    assert seen.text(420) == "installing 1 of 4: openmpi (configure), hdf5 (fetch); 7 min elapsed"


def test_packages_that_existed_or_that_another_process_built_count_as_done() -> None:
    seen = watch(f"[+] /opt/petal/store/linux-debian12-x86_64_v3/zlib-1.0-{ZLIB.hash[:7]}")
    assert seen.text(1) == "installing 1 of 4; 1 s elapsed"
    assert InstallProgress(ALL, [ZLIB.hash, "of another stack"], started=5).text(5) == "installing 1 of 4; 0 s elapsed"


def test_an_error_is_assigned_to_the_package_that_it_names() -> None:
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
    assert seen.text(9) == "installing 0 of 4: openmpi (configure); failed: zlib; 9 s elapsed"
    assert "'make'" in seen.error_of(ZLIB)
    assert "openmpi" not in seen.error_of(ZLIB)
    assert seen.error_of(HDF5) == ""
    assert (seen.phase_of(ZLIB), seen.phase_of(HDF5)) == ("build", None)


def test_failed_blocked_and_unstarted_packages_are_distinguished() -> None:
    seen = watch(f"==> Installing {full(ZLIB)}")
    failed, waiting, left = classify_missing((ZLIB, HDF5, MPI, OSU), seen)
    assert (failed, waiting, left) == ([ZLIB], [HDF5, OSU], [MPI])
    text = explain([Failure(ZLIB, "build", ("zlib.c:1: error",), Path("/log/zlib.log"))], waiting, left)
    assert text.splitlines() == [
        "zlib@1.0 failed in phase build",
        "    zlib.c:1: error",
        "  log: /log/zlib.log",
        "not tried, because they need a package that failed: hdf5, osu",
        "not begun: openmpi",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(-1, "0 s"), (12, "12 s"), (359, "5 min"), (3599, "59 min"), (6000, "1 h 40 min")]
)
def test_durations_are_formatted(seconds: float, words: str) -> None:
    assert elapsed(seconds) == words


@pytest.mark.parametrize(
    ("cores", "memory", "limit", "expected"),
    [
        (1, 1, 0, (1, 1)), (2, 4, 0, (2, 2)), (4, 8, 0, (2, 4)), (8, 16, 0, (3, 6)),
        (16, 32, 0, (4, 8)), (64, 128, 0, (8, 16)), (192, 384, 0, (8, 48)),
        (8, 2, 0, (2, 2)), (8, 0, 0, (1, 1)), (64, 128, 2, (2, 2)), (2, 4, 64, (2, 2)),
    ],
)  # fmt: skip
def test_cores_are_shared_by_one_rule(cores: int, memory: int, limit: int, expected: tuple[int, int]) -> None:
    host = replace(HOST, cpus=cores, memory=memory * GIB)
    assert split(usable_cores(host, limit)) == expected


def test_the_record_is_updated_at_intervals_also_without_output() -> None:
    now = [0.0]
    output: list[str] = []
    reporter = ProgressReporter(InstallProgress((ZLIB,), ()), output.append, lambda: now[0])
    reporter.line(f"==> Installing {full(ZLIB)}")
    for second in range(100):
        now[0] = float(second)
        reporter.line("==> zlib: Executing phase: 'build'" if second % 2 else "compiling")
    assert len(output) <= 1 + 100 / progress.REFRESH
    before = len(output)
    for second in range(100, 400):
        now[0] = float(second)
        reporter.idle()
    assert len(output) > before, "the elapsed time is reported while nothing comes"
    assert len(output) - before <= 300 / progress.IDLE_SECONDS + 1


def test_only_the_logs_of_the_newest_runs_are_kept(tmp_path: Path) -> None:
    for number in range(8):
        (tmp_path / f"2026112{number}T000000.000Z-aaaaaa").mkdir()
    (tmp_path / "spack-20261120T000000.000Z-aaaaaa.log").write_text("")
    install.prune(tmp_path)
    assert [path.name[:8] for path in sorted(tmp_path.iterdir()) if path.is_dir()] == [
        f"2026112{n}" for n in range(3, 8)
    ]
    assert len(list(tmp_path.glob("*.log"))) == 1


def test_dependents_of_a_failed_package_of_an_earlier_slice_are_not_installed() -> None:
    last = locked("last", OSU)
    needs = {spec.hash: spec.needs for spec in (*ALL, last)}
    part, lost = [ZLIB.hash, HDF5.hash, OSU.hash, last.hash], {MPI.hash}
    assert possible(part, needs, lost) == [ZLIB.hash, HDF5.hash]
    assert lost == {MPI.hash, OSU.hash, last.hash}
    assert possible(part, needs, set()) == part


def test_packages_from_a_build_cache_are_counted() -> None:
    seen = watch(
        f"==> Installing {full(ZLIB)} [1/4]",
        f"==> Extracting {full(ZLIB)} from binary cache",
        f"[+] /opt/petal/store/linux-debian12-x86_64_v3/zlib-1.0-{ZLIB.hash[:7]}",
        f"==> Installing {full(HDF5)} [2/4]",
        f"==> Extracting {full(HDF5)} from binary cache",
    )
    assert seen.text(5).startswith("installing 1 of 4 (1 from a build cache): hdf5 (unpack)")
    earlier = InstallProgress(ALL, [ZLIB.hash], cached=[ZLIB.hash, MPI.hash])
    assert earlier.text(0).startswith("installing 1 of 4 (1 from a build cache); ")
