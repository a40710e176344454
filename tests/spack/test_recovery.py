"""Real Spack of both families: a lost index, few locks, a full disk. No complete package is built again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest

from bootstrap.commands.releases import gc, rollback
from bootstrap.core.model import Outcome, Role, Status
from bootstrap.core.options import Options
from bootstrap.core.paths import Paths
from bootstrap.host.system import System
from bootstrap.spack import database
from tests.disks import LoopDisk, mounted
from tests.spack.conftest import Site, manifests
from tests.spack.test_spack import BOTH, bootstrap, steps, store_of
from tests.world import services


def _index(store: Path) -> dict[str, Any]:
    records: dict[str, Any] = database.records(database.index_of(store))
    return records


def _explicit(store: Path) -> set[str]:
    return {record["spec"]["name"] for record in _index(store).values() if record["explicit"]}


# ------------------------------------------------------------------------------------------------ the database


@BOTH
def test_a_lost_or_damaged_index_is_restored_without_rebuilding_complete_packages(
    version: str, sites: Callable[[str], Site], tmp_path: Path
) -> None:
    site, prefix = sites(version), tmp_path / "head"
    assert bootstrap(prefix, site.config).status is Status.CHANGED
    store = store_of(prefix, version)
    before, index = manifests(store), database.index_of(store)
    assert _explicit(store) == {"probe"}
    assert len(before) > 1, "the stack has no implicit package"

    shutil.rmtree(index.parent)  # 1: Spack's database is missing, a copy exists
    _repaired(prefix, site.config, "is missing, but", "is restored from")
    assert (manifests(store), _explicit(store)) == (before, {"probe"})

    index.write_text(index.read_text()[:200])  # 2: a truncated index without a copy, and an incomplete package
    shutil.rmtree(store / database.COPIES)
    half = next(store.glob("linux-*/probe-2-*"))
    (half / ".spack" / "install_manifest.json").unlink()
    _repaired(prefix, site.config, "is not JSON", "no copy", f"did not finish: {half.name}", "is rebuilt")
    after = manifests(store)
    assert {path for path in before if after[path] != before[path]} == {half / ".spack" / "install_manifest.json"}
    assert _explicit(store) == {"probe"}, "an implicit package would get a module"

    old, config = index.read_bytes(), site.config.replace("[probe]", "[probe@1]")  # 3: an index older than the store
    assert bootstrap(prefix, config).status is Status.CHANGED
    now = manifests(store)
    index.write_bytes(old)
    _repaired(prefix, config, "differ")
    assert manifests(store) == now
    assert len([record for record in _index(store).values() if record["explicit"]]) == 2
    assert bootstrap(prefix, config).status is Status.OK


def _repaired(prefix: Path, config: str, *output: str) -> None:
    notes: list[str] = []
    record = bootstrap(prefix, config, notes)
    assert steps(record)["spack"].outcome is Outcome.CHANGED, record
    text = "\n".join(notes)
    assert all(words in text for words in output), text


@pytest.mark.parametrize(("version", "kind"), [("1.1.1", "ext4"), ("0.23.0", "xfs")])
def test_a_package_that_is_recorded_and_empty_after_a_power_cut_is_installed_again(
    version: str, kind: str, sites: Callable[[str], Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails after Spack and before the flush. Its index and manifests are on disk, its caches are empty."""
    site, disk = sites(version), LoopDisk.make(kind, tmp_path / "loop")
    prefix, keep_copy, cuts = disk.place / "head", database.keep_copy, []
    store = store_of(prefix, version)

    def cut(place: Path, flush: Callable[[Path], None]) -> None:
        if not cuts and (whole := manifests(place)):
            for path in (database.index_of(place), *whole):
                with path.open() as file:
                    os.fsync(file.fileno())
            cuts.append(disk.cut())
        keep_copy(place, flush)

    try:
        with monkeypatch.context() as patched:
            patched.setattr(database, "keep_copy", cut)
            assert bootstrap(prefix, site.config).status is Status.CHANGED
        disk.boot(cuts[0])
        monkeypatch.setattr(System, "boot_id", lambda _: "the next boot")
        (program,) = store.glob("linux-*/probe-2-*/bin/probe")
        assert program.stat().st_size == 0
        assert database.is_whole(program.parents[1])
        assert program.parents[1] in database.installed(store).values()
        _repaired(prefix, site.config, "did not finish", program.parents[1].name)
        subprocess.run([program], check=True)
        assert bootstrap(prefix, site.config).status is Status.OK
    finally:
        disk.unmount()


# -------------------------------------------------------------------------------------------------- few locks

TINY = '''\
import os

{imports}from spack.package import *


class {title}(Package):
    """Writes down how many locks are held on the packages of its store."""

    has_code = False
    version("1")
{needs}
    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("{lock}") as file, open("/proc/locks") as locks:
            inode = ":" + str(os.fstat(file.fileno()).st_ino)
            held = sum(line.split()[-3].endswith(inode) for line in locks)
        with open("{counts}", "a") as stream:
            stream.write("{name} " + str(held) + "\\n")
        touch(join_path(prefix.bin, "{name}"))
'''
GRAPH = {
    **{f"low{number}": () for number in range(4)},
    **{f"middle{number}": (f"low{number}",) for number in range(4)},
    "top": tuple(f"middle{number}" for number in range(4)),
}


@pytest.mark.parametrize(("version", "limit", "most"), [("1.1.1", None, len(GRAPH)), ("1.1.1", 5, 5), ("0.23.0", 7, 6)])
def test_an_install_runs_in_slices_if_the_file_system_limits_locks(
    version: str,
    limit: int | None,
    most: int,
    sites: Callable[[str], Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first case shows the total: one install of all packages. In 0.23 glibc and the runtime count too."""
    site, prefix, counts = sites(version), tmp_path / "head", tmp_path / "counts"
    lock = store_of(prefix, version) / ".spack-db" / "prefix_lock"
    for name, needed in GRAPH.items():
        kind = ("build", "run") if name == "top" else ("build",)
        needs = "".join(f'    depends_on("{other}", type={kind})\n' for other in needed)
        site.add(name, TINY, title=name.title(), name=name, needs=needs, lock=lock, counts=counts)
    monkeypatch.setattr("bootstrap.spack.workspace.lock_limit", lambda _: limit)
    record = bootstrap(prefix, site.config.replace("[probe]", "[top]"))
    assert record.status is Status.CHANGED, record
    built = [line.split() for line in counts.read_text().splitlines()]
    assert sorted(name for name, _ in built) == sorted(GRAPH)
    assert _explicit(store_of(prefix, version)) == {"top"}
    assert max(int(held) for _, held in built) == most


# ------------------------------------------------------------------------------------------------- a full disk

FAT = '''\
{imports}from spack.package import *


class Fat(Package):
    """Needs room for its build, and for what it installs."""

    has_code = False
    version("1")

    def install(self, spec, prefix):
        mkdirp(prefix.bin)
        for place in ("built", join_path(prefix.bin, "fat")):
            with open(place, "wb") as stream:
                stream.write(bytes(64 << 20))
'''


LIMITED = '''\
import errno
import os

{imports}from spack.package import *


class Limited(Package):
    """Meets a quota."""

    has_code = False
    version("1")

    def install(self, spec, prefix):
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), prefix.bin)
'''


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], Path]]:
    """Mount a disk with 40 MiB."""
    with ExitStack() as disks:
        yield lambda place: disks.enter_context(mounted(place, 40))


@pytest.mark.parametrize(("version", "full"), [("1.1.1", "store"), ("0.23.0", "stage")])
def test_a_full_disk_during_a_build_is_reported_and_the_next_run_continues(
    version: str, full: str, sites: Callable[[str], Site], small_disk: Callable[[Path], Path], tmp_path: Path
) -> None:
    site, prefix = sites(version), tmp_path / "head"
    site.add("fat", FAT)
    store = store_of(prefix, version)
    paths = Paths(prefix)
    disk, place = paths.shared_root / store.name, store  # the root is a bind mount of it
    if full == "stage":
        disk = place = paths.scratch / "spack" / "stage"
    small_disk(disk)
    first = bootstrap(prefix, site.config)
    assert first.status is Status.CHANGED, first
    whole, config = manifests(store), site.config.replace("[probe]", "[probe, fat]")
    record = bootstrap(prefix, config)
    error = steps(record)["spack"].error
    assert error is not None
    assert error["code"] == "file-no-space", error
    assert "fat" in error["why"]
    assert str(place) in error["why"]
    assert "MiB" in error["why"]
    assert any(line.startswith("df -h") for line in error["remedy"])
    assert paths.current.resolve().name == first.release
    assert database.database_problem(store) == ""

    subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)
    second = bootstrap(prefix, config)
    assert second.status is Status.CHANGED, second
    assert manifests(store).items() > whole.items()
    assert database.compare(store).index_agrees

    if full == "store":
        site.add("limited", LIMITED)
        error = steps(bootstrap(prefix, site.config.replace("[probe]", "[limited]")))["spack"].error
        assert error is not None
        assert (error["code"], error["what"]) == ("file-quota", "a quota is reached, so packages are not installed")
        assert error["remedy"][0].startswith(f"quota -v; df -h {store}")

    with suppress(OSError), (disk / "of-a-user").open("wb", buffering=0) as user:
        while full == "store":
            user.write(bytes(4096))
    options = Options("gc", root=prefix, role=Role.HEAD, release=first.release, keep=1, yes=True)
    rollback(options, services(System()))
    removed = gc(options, services(System())).data
    assert [package.path.name[:4] for package in removed.packages] == ["fat-"]
    assert manifests(store) == whole
    assert database.compare(store).index_agrees
