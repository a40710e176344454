"""A batch job of root's, from its submission until it is certainly gone. Slurm is asked by the job's name.

The name holds the run's id, so that a job is found again whatever became of the process that submitted it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import JobError, PetalError, ProcessFailed
from ..host.log import LOG
from ..host.system import System
from .slurm import QUERY_SECONDS

# squeue(1), JOB STATE CODES: in these a job has ended; while it is COMPLETING its processes may still run.
ENDED = frozenset({
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "REVOKED",
    "TIMEOUT",
})  # fmt: skip
STARTED = frozenset({"RUNNING", "COMPLETING"})
POLL_SECONDS = 1.0
USER = "root"


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it; ``reason`` is why it waits or has ended, ``nodes`` are empty while it waits."""

    id: str
    state: str
    reason: str
    nodes: str

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def gone(self) -> bool:
        """None of its processes lives. A node that Slurm has lost may well run on."""
        return self.ended and self.state != "NODE_FAIL"

    @property
    def started(self) -> bool:
        return self.state in STARTED

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"job {self.id} is {self.state}{why}"


def submit(system: System, script: Path, *, name: str, queue: str, minutes: int, output: Path) -> str:
    """Hands a script to Slurm: one whole node of the queue, its own environment, never begun a second time.

    Args:
        minutes: the job's time limit.
        output: gets what the script prints.

    Returns:
        The job's id.

    Raises:
        JobError: ``job-refused``.
    """
    command = [
        "sbatch", "--parsable", f"--partition={queue}", f"--job-name={name}", "--nodes=1", "--ntasks=1", "--exclusive",
        "--mem=0", f"--time={minutes}", "--no-requeue", "--chdir=/", "--export=NIL", "--open-mode=append",
        f"--output={output}", str(script),
    ]  # fmt: skip
    try:
        done = system.run(command, timeout=QUERY_SECONDS)
    except ProcessFailed as error:
        remedy = (f"scontrol show partition {queue}", *elsewhere(queue))
        raise JobError(
            f"Slurm refused the build job on queue {queue}", why=error.why, remedy=remedy, code="job-refused"
        ) from error
    return done.stdout.strip().partition(";")[0]


def elsewhere(queue: str) -> tuple[str, ...]:
    """What to change where a queue does not build."""
    return (f"another install.queue than {queue}, or install: {{where: head}}, in the configuration",)


def look(system: System, name: str) -> tuple[Job, ...]:
    """All jobs of that name that Slurm still knows, those that have ended too.

    Raises:
        ProcessFailed, ProcessTimeout: slurmctld does not answer.
    """
    command = ["squeue", "--noheader", "--states=all", f"--user={USER}", f"--name={name}", "--format=%i|%T|%r|%N"]
    return parse_squeue(system.run(command, timeout=QUERY_SECONDS).stdout)


def parse_squeue(text: str) -> tuple[Job, ...]:
    """Lines of ``squeue -h -o '%i|%T|%r|%N'``."""
    fields = (line.strip().split("|", 3) for line in text.splitlines())
    return tuple(Job(*four) for four in fields if len(four) == 4)


def end(system: System, name: str, patience: float, *, cancel: bool = True) -> bool:
    """Waits until no process of the jobs of that name can live; cancels them first.

    Returns:
        False when that could not be seen within ``patience`` seconds: Slurm or the job's node does not answer.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            if all(job.gone for job in look(system, name)):
                return True
            if cancel:
                system.run(["scancel", f"--user={USER}", f"--name={name}"], timeout=QUERY_SECONDS)
        except PetalError as error:
            LOG.warning("Slurm was asked to end %s: %s", name, error)
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
