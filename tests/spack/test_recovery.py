"""Real Spack of both families: after kills, damage and full disks the next run ends well and rebuilds nothing whole."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest

from bootstrap import lock
from bootstrap.errors import LockTimeout
from bootstrap.model import Outcome, Status
from bootstrap.paths import Paths
from bootstrap.processes import has_process
from bootstrap.spack import database, recovery
from tests.spack.conftest import VERSIONS, Site, make_site
from tests.spack.test_spack import BOTH, bootstrap, steps, store_of

TOP = Path(__file__).parents[2]
SECONDS = 90.0
HELD = '''\
import os
import time

{imports}from spack.package import *


class Held(Package):
    """Stays in its phase ``build`` while a file is there; its prefix is begun by then."""

    has_code = False
    phases = ["build", "install"]
    for number in range(1, 30):
        version(str(number))

    def build(self, spec, prefix):
        mkdirp(prefix.bin)
        with open("{started}.part", "w") as stream:
            stream.write(str(os.getpid()))
        os.rename("{started}.part", "{started}")
        limit = time.monotonic() + 120
        while os.path.exists("{hold}") and time.monotonic() < limit:
            time.sleep(0.05)

    def install(self, spec, prefix):
        with open(join_path(prefix.bin, "held"), "w") as stream:
            stream.write(str(spec.version))
'''


def until(what: str, holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < limit, f"not within {SECONDS:.0f} s: {what}"
        time.sleep(0.02)


@dataclass
class Victim:
    """A head node whose builds can be held, one new version of the package at a time."""

    site: Site
    prefix: Path
    store: Path
    hold: Path
    started: Path
    numbers: Iterator[int]

    def config(self, number: int) -> str:
        return self.site.config.replace("[probe]", f"[held@{number}]")

    def begin(self, number: int) -> tuple[subprocess.Popen[str], int]:
        """A worker whose builder is held, and the builder's process."""
        self.started.unlink(missing_ok=True)
        self.hold.touch()
        path = self.prefix.with_suffix(".yaml")
        path.write_text(self.config(number))
        argv = [sys.executable, "-m", "bootstrap", "bootstrap", "--config", path, "--root", self.prefix]
        worker = subprocess.Popen(
            [*map(str, argv), "--role", "head"], cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        until("the builder is in its phase build", lambda: self.started.exists() or worker.poll() is not None)
        if worker.poll() is not None:
            raise AssertionError(worker.communicate()[0])
        return worker, int(self.started.read_text())

    def processes(self) -> list[str]:
        """Everything that works for this head node, whatever its parent has become."""
        found = []
        for process in psutil.process_iter():
            try:
                if any(str(self.prefix) in value for value in process.environ().values()):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[-120:]}")
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def victims(
    request: pytest.FixtureRequest, clingo: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], Victim]]:
    """Makes the head node of a version, once."""
    made: dict[str, Victim] = {}

    def victim(version: str) -> Victim:
        if version not in made:
            place = tmp_path_factory.mktemp("victim")
            made[version] = _victim(version, place, make_site(version, place, clingo, request))
        return made[version]

    yield victim
    for one in made.values():
        assert one.processes() == []


def _victim(version: str, place: Path, site: Site) -> Victim:
    prefix, hold, started = place / "head", place / "hold", place / "started"
    site.add("held", HELD, hold=hold, started=started)
    made = Victim(site, prefix, store_of(prefix, version), hold, started, count(1))
    first = bootstrap(prefix, made.config(next(made.numbers)))
    assert first.status is Status.CHANGED, first
    return made


# Who gets which signal: each pair once, with the family that it is the worse for (both were run with all nine).
TABLE = {
    "1.1.1": (
        ("group", signal.SIGINT), ("group", signal.SIGTERM), ("spack", signal.SIGKILL), ("worker", signal.SIGTERM),
        ("worker", signal.SIGKILL),
    ),
    "0.23.0": (
        ("spack", signal.SIGINT), ("spack", signal.SIGTERM), ("group", signal.SIGKILL), ("worker", signal.SIGINT),
    ),
}  # fmt: skip
ROWS = [(version, who, number) for version in VERSIONS for who, number in TABLE[version]]


@pytest.mark.parametrize(
    ("version", "who", "number"),
    ROWS,
    ids=[f"{version}-{who}-{number.name}" for version, who, number in ROWS],
)
def test_whatever_is_killed_no_builder_is_left_and_the_next_run_ends_well(
    victims: Callable[[str], Victim], version: str, who: str, number: signal.Signals
) -> None:
    victim = victims(version)
    paths, release = Paths(victim.prefix), next(victim.numbers)
    before, whole = paths.current.resolve(), _manifests(victim.store)
    worker, builder = victim.begin(release)
    if who == "group":
        os.killpg(os.getpgid(builder), number)
    else:
        os.kill({"spack": os.getsid(builder), "worker": worker.pid}[who], number)
    if (who, number) == ("spack", signal.SIGINT):
        victim.hold.unlink()  # Spack's own process alone waits for its builder then
    said, _ = worker.communicate(timeout=SECONDS)
    if (who, number) == ("worker", signal.SIGKILL):
        assert not _may_be_taken_over(paths), "another node would not know of the builder"
    else:
        assert not has_process(builder), said
        assert victim.processes() == [], said
    if worker.returncode != 0:
        assert paths.current.resolve() == before, "something half is visible"

    victim.hold.unlink(missing_ok=True)
    record = bootstrap(victim.prefix, victim.config(release))
    assert record.status in (Status.CHANGED, Status.OK), record
    assert not has_process(builder)
    assert victim.processes() == []
    condition = recovery.look(victim.store)
    assert condition.agrees
    assert not condition.partial
    assert (next(victim.store.glob(f"linux-*/held-{release}-*/bin/held"))).read_text() == str(release)
    assert paths.current.resolve().name == record.release
    now = _manifests(victim.store)
    assert {path: now.get(path) for path in whole} == whole, "what was whole was built again"


def _may_be_taken_over(paths: Paths) -> bool:
    """As another node sees it, which cannot end the builder."""
    try:
        with lock.builders_ended(paths.locks / "stack.builders", None, 0.5, lambda _: None):
            return True
    except LockTimeout:
        return False


def _manifests(store: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in store.glob("linux-*/*/.spack/install_manifest.json")}


def _index(store: Path) -> dict[str, Any]:
    records: dict[str, Any] = database.records(database.index_of(store))
    return records


def _explicit(store: Path) -> set[str]:
    return {record["spec"]["name"] for record in _index(store).values() if record["explicit"]}


# ------------------------------------------------------------------------------------------------ the database


@BOTH
def test_a_lost_or_damaged_index_comes_back_and_nothing_whole_is_built_again(
    version: str, sites: Callable[[str], Site], tmp_path: Path
) -> None:
    site, prefix = sites(version), tmp_path / "head"
    assert bootstrap(prefix, site.config).status is Status.CHANGED
    store = store_of(prefix, version)
    before, index = _manifests(store), database.index_of(store)
    assert _explicit(store) == {"probe"}
    assert len(before) > 1, "nothing is implicit here"

    shutil.rmtree(index.parent)  # 1: all of Spack's database is gone, and a copy is there
    _repaired(prefix, site.config, "is missing, though", "is restored from")
    assert (_manifests(store), _explicit(store)) == (before, {"probe"})

    index.write_text(index.read_text()[:200])  # 2: cut off, without any copy, and a package is half there
    shutil.rmtree(store / recovery.COPIES)
    half = next(store.glob("linux-*/probe-2-*"))
    (half / ".spack" / "install_manifest.json").unlink()
    _repaired(prefix, site.config, "is not JSON", "no copy", f"did not finish: {half.name}", "made anew")
    after = _manifests(store)
    assert {path for path in before if after[path] != before[path]} == {half / ".spack" / "install_manifest.json"}
    assert _explicit(store) == {"probe"}, "what nobody asked for would get a module of its own"

    old, config = index.read_bytes(), site.config.replace("[probe]", "[probe@1]")  # 3: an index older than the store
    assert bootstrap(prefix, config).status is Status.CHANGED
    now = _manifests(store)
    index.write_bytes(old)
    _repaired(prefix, config, "differ")
    assert _manifests(store) == now
    assert len([record for record in _index(store).values() if record["explicit"]]) == 2
    assert bootstrap(prefix, config).status is Status.OK


def _repaired(prefix: Path, config: str, *said: str) -> None:
    notes: list[str] = []
    record = bootstrap(prefix, config, notes)
    assert steps(record)["spack"].outcome is Outcome.CHANGED, record
    text = "\n".join(notes)
    assert all(words in text for words in said), text


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


@pytest.mark.parametrize(("version", "limit", "most"), [("1.1.1", None, len(GRAPH)), ("1.1.1", 5, 5), ("0.23.0", 7, 7)])
def test_where_few_locks_are_allowed_on_a_file_spack_is_asked_for_slices(
    version: str,
    limit: int | None,
    most: int,
    sites: Callable[[str], Site],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one shows what is counted: all of them in one install. In 0.23 glibc and the runtime are two more."""
    site, prefix, counts = sites(version), tmp_path / "head", tmp_path / "counts"
    lock = store_of(prefix, version) / ".spack-db" / "prefix_lock"
    for name, needed in GRAPH.items():
        kind = ("build", "run") if name == "top" else ("build",)
        needs = "".join(f'    depends_on("{other}", type={kind})\n' for other in needed)
        site.add(name, TINY, title=name.title(), name=name, needs=needs, lock=lock, counts=counts)
    monkeypatch.setattr("bootstrap.steps.spack._locks", lambda _: limit)
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


@pytest.fixture
def small_disk() -> Iterator[Callable[[Path], None]]:
    """Mounts a disk with 40 MiB."""
    mounted: list[Path] = []

    def mount(place: Path) -> None:
        place.mkdir(parents=True)
        argv = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "tmpfs", place]
        done = subprocess.run(argv, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"no file system of its own can be mounted here: {done.stderr.strip()}")
        mounted.append(place)

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.parametrize(("version", "full"), [("1.1.1", "store"), ("0.23.0", "stage")])
def test_a_disk_that_is_full_in_mid_build_is_told_and_the_next_run_goes_on(
    version: str, full: str, sites: Callable[[str], Site], small_disk: Callable[[Path], None], tmp_path: Path
) -> None:
    site, prefix = sites(version), tmp_path / "head"
    site.add("fat", FAT)
    store = store_of(prefix, version)
    paths = Paths(prefix)
    disk, place = paths.shared_root / store.name, store  # the root is bound to it
    if full == "stage":
        disk = place = paths.scratch / "spack" / "stage"
    small_disk(disk)
    first = bootstrap(prefix, site.config)
    assert first.status is Status.CHANGED, first
    whole, config = _manifests(store), site.config.replace("[probe]", "[probe, fat]")
    record = bootstrap(prefix, config)
    error = steps(record)["spack"].error
    assert error is not None
    assert error["code"] == "file-no-space", error
    assert "fat" in error["why"]
    assert str(place) in error["why"]
    assert "MiB" in error["why"]
    assert any(line.startswith("df -h") for line in error["remedy"])
    assert paths.current.resolve().name == first.release
    assert recovery.trouble(store) == ""

    subprocess.run(["mount", "-o", "remount,size=256m", disk], check=True)
    second = bootstrap(prefix, config)
    assert second.status is Status.CHANGED, second
    assert _manifests(store).items() > whole.items()
    assert recovery.look(store).agrees
