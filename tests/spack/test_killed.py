"""Real Spack of both families, killed: no builder remains, nothing incomplete is visible, and the next run succeeds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
import pytest

from bootstrap.core.errors import LockTimeout
from bootstrap.core.model import Status
from bootstrap.core.paths import Paths
from bootstrap.host import locks as lock
from bootstrap.host.processes import has_process
from bootstrap.spack import database
from tests.spack.conftest import VERSIONS, Site, make_site, manifests
from tests.spack.test_spack import bootstrap, store_of

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


def until(event: str, holds: Callable[[], bool]) -> None:
    limit = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < limit, f"not within {SECONDS:.0f} s: {event}"
        time.sleep(0.02)


@dataclass
class Victim:
    """A head node whose builds can be held; each run builds a new version of the package."""

    site: Site
    prefix: Path
    store: Path
    hold: Path
    started: Path
    numbers: Iterator[int]

    def config(self, number: int) -> str:
        return self.site.config.replace("[probe]", f"[held@{number}]")

    def start_held(self, number: int) -> tuple[subprocess.Popen[str], int]:
        """Start a worker and hold its builder; return the worker and the builder's pid."""
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
        """All processes of this head node, including orphans."""
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
    """Create the head node of a version once."""
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


# The signalled process and the signal: each pair once, with the more critical family (both were run with all nine).
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
def test_after_a_kill_no_builder_remains_and_the_next_run_succeeds(
    victims: Callable[[str], Victim], version: str, who: str, number: signal.Signals
) -> None:
    victim = victims(version)
    paths, release = Paths(victim.prefix), next(victim.numbers)
    before, whole = paths.current.resolve(), manifests(victim.store)
    worker, builder = victim.start_held(release)
    if who == "group":
        os.killpg(os.getpgid(builder), number)
    else:
        os.kill({"spack": os.getsid(builder), "worker": worker.pid}[who], number)
    if (who, number) == ("spack", signal.SIGINT):
        victim.hold.unlink()  # only Spack's own process waits for its builder then
    output, _ = worker.communicate(timeout=SECONDS)
    if (who, number) == ("worker", signal.SIGKILL):
        assert not _may_be_taken_over(paths), "another node could take over despite the builder"
    else:
        assert not has_process(builder), output
        assert victim.processes() == [], output
    if worker.returncode != 0:
        assert paths.current.resolve() == before, "an incomplete release is visible"

    victim.hold.unlink(missing_ok=True)
    record = bootstrap(victim.prefix, victim.config(release))
    assert record.status in (Status.CHANGED, Status.OK), record
    assert not has_process(builder)
    assert victim.processes() == []
    assert database.compare(victim.store) == ([], True)
    assert (next(victim.store.glob(f"linux-*/held-{release}-*/bin/held"))).read_text() == str(release)
    assert paths.current.resolve().name == record.release
    now = manifests(victim.store)
    assert {path: now.get(path) for path in whole} == whole, "a complete package was built again"


def _may_be_taken_over(paths: Paths) -> bool:
    """Return whether another node, which cannot end the builder, could take the lock."""
    try:
        with lock.builders_ended(paths.locks / "stack.builders", None, 0.5, lambda _: None):
            return True
    except LockTimeout:
        return False
