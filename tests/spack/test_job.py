"""The build job with real Spack and full shared storage; tests/lab runs it with real Slurm."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bootstrap.core.errors import PetalError
from bootstrap.core.model import Role, Status
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.engine.prepare import prepare
from bootstrap.host.system import System
from bootstrap.spack.job.directory import DONE, JobDirectory, JobReport
from bootstrap.spack.job.on_node import BuildJob
from bootstrap.spack.job.worker import order_of
from bootstrap.spack.solve import with_lockfile
from bootstrap.state.context import Context
from tests.disks import mounted
from tests.spack.conftest import Site
from tests.spack.test_spack import bootstrap, store_of
from tests.world import services

RECIPE = '''\
{imports}from spack.package import *


class {name}(Package):
    """Needs so many MiB where it is installed."""

    has_code = False
    version("1")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open(join_path(prefix.bin, "data"), "wb") as stream:
            stream.write(bytes({size} << 20))
'''
BLOCK = 4096


@pytest.fixture
def disk() -> Iterator[Callable[[Path, int], Path]]:
    """Mount a disk with this number of MiB."""
    with ExitStack() as disks:
        yield lambda place, size: disks.enter_context(mounted(place, size))


def fill(place: Path, left: int = 0) -> None:
    """Fill a disk to the last block, or until ``left`` bytes are free."""
    room = os.statvfs(place)
    with (place / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        for _ in range(room.f_bavail * room.f_bsize - left, 0, -BLOCK):
            stream.write(bytes(BLOCK))
    assert os.statvfs(place).f_bavail * room.f_bsize <= left


def ordered(prefix: Path, config: str) -> tuple[Context, JobDirectory]:
    """Do the worker's part before the submission of the job."""
    path = prefix.with_suffix(".yaml")
    path.write_text(config)
    ctx = prepare(
        Options("bootstrap", str(path), root=prefix, role=Role.HEAD),
        services(System(), run_id="run-of-job", note=print),
    )
    spacks = {target: with_lockfile(ctx, target) for target in ctx.targets}
    directory = JobDirectory(ctx.paths, ctx.run_id)
    directory.create()
    directory.prepare(order_of(ctx, spacks), spacks, "")
    return ctx, directory


def job(ctx: Context, directory: JobDirectory, printed: list[str]) -> tuple[tuple[PetalError, ...], JobReport]:
    """Do the compute node's part, and return its errors and report."""
    errors = BuildJob(directory, ctx.facts.host, System(), ctx.paths.scratch, printed.append).run()
    assert not (ctx.paths.scratch / "build-job").exists()
    return errors, directory.report()


def built(prefix: Path, name: str) -> list[Path]:
    return [
        path.parents[1] for path in store_of(prefix, "1.1.1").glob(f"linux-*/{name}-1-*/.spack/install_manifest.json")
    ]


def test_a_full_disk_prevents_neither_the_jobs_report_nor_its_packages(
    sites: Callable[[str], Site], disk: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """The packages' disk has space; the disk of the files between worker and job has none."""
    site, prefix = sites("1.1.1"), tmp_path / "head"
    site.add("quick", RECIPE, name="Quick", size=1)
    disk(Paths(prefix).builds, 2)
    assert bootstrap(prefix, site.config).status is Status.CHANGED
    ctx, directory = ordered(prefix, site.config.replace("[probe]", "[probe, quick]"))
    fill(Paths(prefix).builds)
    errors, state = job(ctx, directory, [])
    assert errors == ()
    assert (state.stage, state.node, state.errors) == (DONE, ctx.facts.host.name, ())
    assert built(prefix, "quick")


def test_a_package_that_fills_shared_storage_is_reported_with_the_nodes_name(
    sites: Callable[[str], Site], disk: Callable[[Path, int], Path], tmp_path: Path
) -> None:
    """Spack itself ends then, so whether independent packages are built depends on their order."""
    site, prefix = sites("1.1.1"), tmp_path / "head"
    site.add("fat", RECIPE, name="Fat", size=64)
    disk(prefix / "shared", 200)
    assert bootstrap(prefix, site.config).status is Status.CHANGED
    ctx, directory = ordered(prefix, site.config.replace("[probe]", "[probe, fat]"))
    fill(prefix / "shared", 32 << 20)
    errors, state = job(ctx, directory, [])
    (error,), (reported,) = errors, state.errors
    assert state.stage == DONE
    assert error.to_dict() == reported
    assert reported["code"] == "file-no-space"
    assert reported["what"].startswith(f"on {ctx.facts.host.name}: ")
    assert "fat@1 failed in phase install" in reported["why"]
    assert built(prefix, "fat") == []
    assert "No space left on device" in directory.spack_log.read_text()
    (log,) = directory.logs.glob("fat-1-*.log")
    assert str(log) in reported["why"]
