"""Power cuts on a real ext4 and xfs: each file that has its final name has its content."""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from bootstrap.config.model import Origin
from bootstrap.core.model import Role, RunRecord, Status
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.engine.run import run
from bootstrap.host import atomic
from bootstrap.host.files import sha256_of
from bootstrap.host.system import System
from bootstrap.lmod import bundle
from bootstrap.spack import program
from bootstrap.state.release import RECEIPT
from bootstrap.steps.seed_from_image import SeedFromImage
from tests.disks import LoopDisk
from tests.world import World, services, tarball

FILES = 40
RUNS = count()


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LoopDisk]:
    made = LoopDisk.make(request.param, tmp_path)
    yield made
    made.unmount()


def write_journal(place: Path) -> None:
    """Write the names of all files to disk, and the content of one: the kernel does so every 5 seconds."""
    atomic.write_atomic(place / "journal", b"x")


def tree_of(place: Path) -> dict[str, int]:
    """The sizes of all files without those under private names."""
    paths = (path for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    files = {str(path.relative_to(place)): path.stat().st_size for path in paths}
    return {name: size for name, size in files.items() if not re.search(r"\.(part|old)(/|$)", name)}


def spack_tree(place: Path, source: Path) -> None:
    origin = Origin(str(source), sha256_of(source))
    program.fetch_missing((origin,), place, program.unpack, Paths(place.parents[1] / "node"), None)


def wheels(place: Path, source: Path) -> None:
    with zipfile.ZipFile(source.with_suffix(".whl"), "w") as wheel:
        for number in range(FILES):
            wheel.writestr(f"clingo/m{number}.py", "# code\n" * 500)
    origin = Origin(str(source.with_suffix(".whl")))
    program.fetch_missing((origin,), place, program.unpack_wheel, Paths(place.parents[1] / "node"), None)


def executable(place: Path, source: Path) -> None:
    atomic.install_executable(source, place / "petal-node", sha256_of(source))


def spacks_lmod(place: Path, source: Path) -> None:
    """Spack installs the head node's copy without a flush."""
    with tarfile.open(source) as tar:
        tar.extractall(place)
    bundle.relativize(place)


def packed_lmod(place: Path, source: Path) -> None:
    copy = place / "lmod"
    spacks_lmod(copy, source)
    bundle.build(copy, place / "8.7-abcdefg.tar.gz", lambda: None)


def unpacked_lmod(place: Path, source: Path) -> None:
    packed_lmod(place / "packed", source)
    paths = Paths(place / "node")
    bundle.install(System(), paths, place / "packed" / "8.7-abcdefg.tar.gz")
    assert bundle.is_complete(paths.lmod_in_use)


def copy_of_an_image(place: Path, source: Path) -> None:
    place.parent.mkdir(parents=True)
    world = World(place, live=True)
    world.system.answers["cp"] = lambda argv: subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    release = world.paths.release(world.release)
    world.paths.shared_root.mkdir(parents=True)
    for path in (world.paths.store / "linux", release):
        path.mkdir(parents=True)
        with tarfile.open(source) as tar:
            tar.extractall(path)
    world.paths.manifest(world.release).write_text("{}")
    os.sync()  # the image is not new
    SeedFromImage().apply(world.context)
    assert len(list(world.paths.shared_root.rglob("tool*"))) == 2 * FILES


WRITERS = (spack_tree, wheels, executable, spacks_lmod, packed_lmod, unpacked_lmod, copy_of_an_image)


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_files_that_were_reported_as_done_have_their_content(
    write: Callable[[Path, Path], None], disk: LoopDisk, tmp_path: Path
) -> None:
    content = {f"top/bin/tool{number}": "#!/bin/sh\n" * 500 for number in range(FILES)}
    tarball(tmp_path / "source.tar.gz", content)
    write(disk.place / "x" / "written", tmp_path / "source.tar.gz")
    before = tree_of(disk.place)
    assert before
    write_journal(disk.place)
    disk.boot(disk.cut())
    after = tree_of(disk.place)
    assert {name: after.get(name) for name in before} == before


def bootstrap(head: Path, config: Path) -> RunRecord:
    options = Options("bootstrap", str(config), root=head, role=Role.HEAD)
    return run(options, services(System(), run_id=f"run-{next(RUNS)}"))


def test_a_bootstrap_that_is_cut_at_any_moment_leaves_nothing_empty_and_the_next_one_completes_it(
    disk: LoopDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moments are the first ones at which the result of a step has its name on disk."""
    lines = []
    for name in ("alpha", "beta"):
        source = tarball(tmp_path / f"{name}.tgz", {f"top/bin/{name}{i}": "#!/bin/sh\n" * 500 for i in range(FILES)})
        lines.append(f"- {{name: {name}, version: '1', source: {source}, sha256: {sha256_of(source)}}}")
    (tmp_path / "petal.yaml").write_text("packages:\n" + "\n".join(lines))
    head = disk.place / "head"
    paths = Paths(head)
    results = {
        "a package": "shared/petal/root/store/*/alpha-*",
        "the module tree": "shared/petal/root/releases/*/modules.json",
        "the manifest": "shared/petal/root/releases/*/manifest.json",
        "the link": "shared/petal/root/current",
    }
    cuts: dict[str, tuple[Path, dict[str, int]]] = {}

    def cut(moment: str) -> None:
        before = tree_of(disk.place)
        write_journal(disk.place)
        cuts[moment] = disk.cut(), before

    flush, process = atomic.flush_directory, os.getpid()

    def flush_and_cut(path: Path) -> None:
        flush(path)
        for moment, pattern in results.items():
            if moment not in cuts and os.getpid() == process and path != disk.place and any(head.glob(pattern)):
                cut(moment)

    (head / "shared").mkdir(parents=True)
    with monkeypatch.context() as patched:
        patched.setattr(atomic, "flush_directory", flush_and_cut)
        assert bootstrap(head, tmp_path / "petal.yaml").status is Status.CHANGED
    cut("the end")
    assert [moment for moment in results if moment not in cuts] == []

    complete = {name: size for name, size in cuts["the end"][1].items() if "/store/" in name or "/releases/" in name}
    for moment, (image, before) in cuts.items():
        disk.boot(image)
        after = tree_of(disk.place)
        lost = {name: (size, after.get(name)) for name, size in before.items() if after.get(name) != size}
        assert {name for name in lost if not name.startswith(("head/var/log", "head/var/cache"))} == set(), moment
        assert bootstrap(head, tmp_path / "petal.yaml").status in (Status.OK, Status.CHANGED)
        assert tree_of(disk.place).items() >= complete.items()
        assert len(list(paths.store.glob(f"*/*/{RECEIPT}"))) == 2
