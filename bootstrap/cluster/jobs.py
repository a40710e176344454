"""Which releases Slurm's jobs use: what slurmctld keeps of each batch job, its environment and its script.

A shell takes a release when it starts and keeps it (``PETAL_RELEASE``), and a job has the environment of the shell that
submitted it. slurmctld writes that to ``<StateSaveLocation>/hash.<id modulo 10>/job.<id>/`` (src/slurmctld/job_mgr.c)
and keeps it until the job is over. Of ``srun`` and ``salloc`` it knows no environment.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import ProcessFailed
from ..host.system import System

QUERY_SECONDS = 30.0
LIMIT = 1 << 24
RELEASE = re.compile(rb"PETAL_RELEASE=([^\0]*)")
NAMED = re.compile(rb"\b(?:petal|releases)/([0-9a-f]{12})\b")
# squeue(1), JOB STATE CODES: without --states it leaves suspended jobs out, with "all" it shows these too.
OVER = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
})  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One job that is not over.

    Args:
        releases: those that it is known to use; one that waits, and has none yet, takes what is current then.
        known: False where nobody knows what its shells took when they started: it may use any.
    """

    number: str
    user: str
    releases: frozenset[str]
    known: bool

    def __str__(self) -> str:
        return f"job {self.number} of {self.user}"


def jobs(system: System) -> tuple[Job, ...]:
    """Every job that waits, runs or is suspended.

    Raises:
        ProcessFailed, ProcessTimeout: slurmctld does not answer.
    """
    asked = ["squeue", "--noheader", "--all", "--states=all", "--array-unique", "--format=%A|%F|%u|%T"]
    lines = system.run(asked, timeout=QUERY_SECONDS).stdout.splitlines()
    found = [line.strip().split("|") for line in lines if line.count("|") == 3]
    alive = [fields for fields in found if fields[3] not in OVER]
    if not alive:
        return ()
    place = _state_of(system)
    return tuple(_job(place, *fields) for fields in alive)


def _state_of(system: System) -> Path:
    said = system.run(["scontrol", "show", "config"], timeout=QUERY_SECONDS).stdout
    found = re.search(r"^StateSaveLocation\s*=\s*(/\S+)", said, re.MULTILINE)
    if found is None:
        raise ProcessFailed("scontrol does not say where slurmctld keeps its state", remedy="scontrol show config")
    return Path(found.group(1))


def _job(place: Path, number: str, array: str, user: str, state: str) -> Job:
    texts = list(_kept(place, (number, array)))
    values = [Path(value.decode(errors="replace")).name for text in texts for value in RELEASE.findall(text)]
    taken = {name for name in values if name not in ("", "current")}
    named = {value.decode() for text in texts for value in NAMED.findall(text)}
    waits = bool(texts) and state == "PENDING"
    return Job(number, user, frozenset(taken | named), known=bool(taken) or waits)


def _kept(place: Path, numbers: Iterable[str]) -> Iterator[bytes]:
    """The environment, and behind it the script; nothing where there is no environment."""
    for number in dict.fromkeys(numbers):
        directory = place / f"hash.{int(number) % 10}" / f"job.{number}"
        if (directory / "environment").is_file():
            for name in ("environment", "script"):
                if (directory / name).is_file():
                    yield _start_of(directory / name)
            return


def _start_of(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(LIMIT)
