"""The one place that calls Slurm: nodes, queues and jobs as its commands report them, and the jobs that are submitted.

Only this module builds command lines of sinfo, squeue, scontrol, srun, sbatch and scancel. Every function that runs one
raises ProcessFailed or ProcessTimeout if slurmctld does not answer.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..core.deadlines import COMMAND, POLL
from ..core.errors import AllocationRefused, JobError, PetalError, ProcessFailed
from ..core.text import at_most, grouped
from ..host.log import LOG
from ..host.system import USERS_OUTPUT, Completed, System, base_env, passwd_entry
from .hostlist import folded

# The states of sinfo(1), NODE STATE CODES, in Slurm 22.05 to 25.11; a suffix says more than the state.
FREE = frozenset({"idle", "mixed", "planned"})
UP = FREE | {"allocated", "completing", "reserved", "perfctrs", "blocked"}
DOWN = frozenset({"down", "error", "fail", "failing", "inval"})
POWERED_DOWN_MARKS = {"~", "%", "!"}  # powered down, powering down, about to be powered down
POWERED_DOWN = frozenset({"power_down", "powered_down", "powering_down"})
STATIC = "-st-"  # in the name of a static node, which ParallelCluster starts and keeps
# squeue(1), JOB STATE CODES: a job in one of these states has ended. The processes of a COMPLETING job may still run.
ENDED = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "DEADLINE", "PREEMPTED", "REVOKED"})
ENDED |= {"OUT_OF_MEMORY", "BOOT_FAIL", "NODE_FAIL"}
STARTED = frozenset({"RUNNING", "COMPLETING"})
OWNER = "root"  # of all jobs that are submitted here
# srun(1) without an allocation (src/srun/libsrun/allocate.c); any other message comes from a step that began.
REFUSED = ("Unable to allocate resources", "Immediate execution impossible", "Unable to confirm allocation")
SHOWN = 5  # lines of srun
# The nodes run other jobs. The words are exact: "Device or resource busy" is the error of a program.
NOT_FREE = ("Requested nodes are busy", "Immediate execution impossible")
# Refusals, and reasons of squeue(1), for the memory of the nodes or of the association, and for the time limit of the
# partition, the QOS or the association.
TOO_LARGE = ("emory", "Mem", "node configuration is not available")
TOO_LONG = ("time limit", "TimeLimit", "MaxWall", "accounting/QOS policy")
# scontrol write batch_script (src/slurmctld/proc_req.c, src/common/slurm_errno.c): the job is gone or has no script, or
# the script is that of another user.
NO_SCRIPT = ("Invalid job id specified", "Job script not specified")
NOT_THEIRS = ("Invalid user id", "User id missing")
# MaxSubmitJobs: the refusal, which is also that of limits of size and time, and the reason of squeue(1).
TOO_MANY = ("job submit limit", "SubmitJob")


@dataclass(frozen=True)
class SlurmNode:
    """A node as sinfo shows it.

    Args:
        state: without its suffix.
        partition: the first one that sinfo lists, of ``partitions``.
        reason: why the node is down or drained.
    """

    name: str
    state: str
    suffix: str
    partition: str
    reason: str = ""
    partitions: tuple[str, ...] = ()

    @property
    def up(self) -> bool:
        """The node runs jobs, or can. Nodes that are planned for a job (``-``) or end one (``+``) count."""
        return self.word in ("free", "busy")

    @property
    def free(self) -> bool:
        """A small job can start there now."""
        return self.word == "free"

    @property
    def joining(self) -> bool:
        """The node powers up, is static and not started yet, or has not answered slurmctld since its restart.

        slurmctld calls a node that stays silent ``down`` after SlurmdTimeout.
        """
        is_late = self.word == "not responding" and self.state in UP
        return self.word == "joining" or is_late or (self.powered_down and STATIC in self.name)

    @property
    def powered_down(self) -> bool:
        return self.word == "powered off"

    @property
    def failed(self) -> bool:
        """The node should run jobs and does not: it is down, or does not answer slurmctld."""
        return self.word in ("down", "not responding")

    @property
    def expected(self) -> bool:
        """An administrator or Slurm itself decided that no job can start there now; it needs no repair."""
        return self.up or self.word in ("powered off", "rebooting", "in maintenance", "not configured yet")

    @property
    def condition(self) -> str:
        """Its word, followed by Slurm's own state."""
        return f"{self.word} ({self.state}{self.suffix})"

    @property
    def word(self) -> str:
        """Why a job can or cannot start there now: the first one that fits."""
        marks, state = set(self.suffix), self.state
        # With a reason Slurm, ParallelCluster (no capacity, for example) or an administrator keeps jobs away.
        is_out = bool(self.reason) and (state in DOWN or state.startswith("drain"))
        words = {
            "powered off": not is_out and (marks & POWERED_DOWN_MARKS or state in POWERED_DOWN),
            "joining": "#" in marks or state in ("unknown", "powering_up"),
            "rebooting": marks & {"@", "^"} or state.startswith("reboot"),
            "in maintenance": "$" in marks or state == "maint",
            "not configured yet": state == "future",
            "draining": state.startswith("drain"),
            "not responding": "*" in marks,
            "down": state in DOWN,
            "free": state in FREE,
            "busy": state in UP,
        }
        return next((word for word, fits in words.items() if fits), "not available")


def find_slurm(system: System) -> str | None:
    """The path of sinfo, or None on a machine without Slurm."""
    return system.which("sinfo")


def nodes(system: System, queue: str | None = None) -> tuple[SlurmNode, ...]:
    """Every node once, with all its partitions, hidden ones too; or those of one queue: sinfo refuses --all with it."""
    command = ["sinfo", "--noheader", "--all", "--Node", "--format=%N|%T|%P|%E"]
    shown = parse_sinfo(system.run(command, timeout=COMMAND).stdout)
    return tuple(node for node in shown if queue in (None, *node.partitions))


def known_nodes(system: System) -> tuple[SlurmNode, ...]:
    """Every node once, none if Slurm does not answer."""
    try:
        return nodes(system)
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return ()


def parse_sinfo(text: str) -> tuple[SlurmNode, ...]:
    """Lines of ``sinfo -h -N -o '%N|%T|%P|%E'``. The default partition is the first one of its nodes."""
    by_name: dict[str, SlurmNode] = {}
    for name, full, partition, reason in _rows(text, 4):
        state, queue = full.rstrip("*~#!%$@^-+"), partition.rstrip("*")
        node = by_name.get(name)
        known = node.partitions if node else ()
        known = (queue, *known) if partition.endswith("*") else (*known, queue)
        why = "" if reason == "none" else reason
        by_name[name] = SlurmNode(name, state.lower(), full[len(state) :], known[0], why, known)
    return tuple(by_name.values())


def states(nodes: Iterable[SlurmNode]) -> str:
    """The conditions of nodes, each with Slurm's reason: ``q1-[1-2]: draining (drained): disk swap``."""
    groups = grouped((f"{node.condition}{': ' if node.reason else ''}{node.reason}", node.name) for node in nodes)
    return "; ".join(at_most(3, [f"{folded(names)}: {text}" for text, names in groups.items()]))


def _rows(text: str, columns: int) -> Iterator[list[str]]:
    """The lines that have so many fields between ``|``; the last field may contain more of them."""
    for line in text.splitlines():
        fields = line.strip().split("|", columns - 1)
        if len(fields) == columns:
            yield fields


class Partition(NamedTuple):
    """The state of a queue (up, down, drain, inact), and its time limit in seconds, None without one."""

    state: str
    seconds: int | None


def partitions(system: System) -> dict[str, Partition]:
    """The queues by name."""
    queues = {}
    shown = system.run(["sinfo", "--noheader", "--all", "--format=%R|%a|%l"], timeout=COMMAND).stdout
    for name, state, limit in _rows(shown, 3):  # a queue has one line for each state of its nodes
        days, _, clock = limit.rpartition("-")  # [days-]hours:minutes:seconds, minutes:seconds or infinite
        numbers = [int(part) for part in clock.split(":") if part.isdigit()]
        hours, minutes, seconds = [0, 0, 0, *numbers][-3:]
        limit_seconds = ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds if numbers else None
        queues[name] = Partition(state.lower(), limit_seconds)
    return queues


def silent_daemon(error: PetalError) -> str:
    """The daemon that did not answer a command of Slurm: ``munge`` or ``slurmctld``."""
    return "munge" if "munge" in str(error).lower() else "slurmctld"


def as_root_on(system: System, nodes: Iterable[tuple[str, str]], command: str) -> tuple[str, ...]:
    """Lines of a remedy that run a command as root on other nodes, one for each partition.

    Args:
        nodes: a partition and the name of each node.
        command: may end with a comment.
    """
    program = system.which("srun") or "srun"  # sudo's secure_path lacks Slurm's directory
    command, _, comment = command.partition("    # ")
    note = f"    # as root{'; ' if comment else ''}{comment}"
    groups = sorted(grouped(nodes).items())  # one srun cannot use nodes of two partitions
    return tuple(f"{program} -p {queue} -N{len(names)} -w {folded(names)} {command}{note}" for queue, names in groups)


def ping(system: System, seconds: float) -> Completed:
    """``scontrol ping``: exits 0 and prints UP if slurmctld answers."""
    return system.run(["scontrol", "ping"], timeout=seconds, ok=None)


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it.

    Args:
        submitted: seconds since the epoch.
        reason: why it is pending or has ended.
    """

    id: str
    user: str
    submitted: float
    state: str
    reason: str

    @property
    def number(self) -> str:
        """The id without the index of an array or of a part (``7`` of ``7_[1-4]``, ``7_2`` and ``7+1``)."""
        return re.split(r"[_+]", self.id)[0]

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def gone(self) -> bool:
        """No process of the job is alive. Processes on a node that Slurm has lost may be."""
        return self.ended and self.state != "NODE_FAIL"

    @property
    def started(self) -> bool:
        return self.state in STARTED

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason not in ("", "None") else ""
        return f"job {self.id} is {self.state}{why}"


def jobs(system: System, name: str | None = None, user: str = OWNER) -> tuple[Job, ...]:
    """All jobs in squeue, of all users and queues, those that have ended recently too; or a user's jobs of one name.

    ProcessFailed also if a submission time is not a number.
    """
    selection = [f"--user={user}", f"--name={name}"] if name else []
    command = ["squeue", "--noheader", "--all", "--states=all", *selection, "--format=%i|%u|%V|%T|%r"]
    env = {**base_env(), "SLURM_TIME_FORMAT": "%s"}  # squeue(1); the default is local time without its zone
    shown = system.run(command, timeout=COMMAND, env=env).stdout
    try:
        return tuple(
            Job(number, user, float(submitted), state, reason)
            for number, user, submitted, state, reason in _rows(shown, 5)
        )
    except ValueError as error:
        raise ProcessFailed("squeue does not say when a job was submitted", why=str(error)) from error


def batch_script(system: System, job: Job) -> str | None:
    """The script of a job; empty if the job is one of srun or salloc, or has gone; None if this user may not read it.

    The exit code is not enough: versions of scontrol exit 0 if they print an error.
    """
    command = ["scontrol", "write", "batch_script", re.split(r"_\[|\+", job.id)[0], "-"]
    done = system.run(command, timeout=COMMAND, ok=None)
    if done.returncode == 0 and done.stdout:
        return done.stdout
    answer = done.tail()
    if any(words in answer for words in NO_SCRIPT):
        return ""
    if any(words in answer for words in NOT_THEIRS):
        return None
    raise ProcessFailed(f"scontrol does not print the script of job {job.id}", why=answer)


def submit(
    system: System, script: Path | None, *, name: str, queue: str, minutes: int, output: Path, options: Sequence[str]
) -> str:
    """Submits a job on one node of a queue and returns its id. Slurm never runs the job a second time.

    Args:
        script: the program; None for a job that does nothing.
        minutes: the job's time limit.
        output: a file for the output of the job.
        options: more options of sbatch(1).

    Raises:
        JobError: ``job-not-started``.
    """
    command = ["sbatch", "--parsable", f"--partition={queue}", f"--job-name={name}", "--nodes=1", "--ntasks=1"]
    command += [f"--time={minutes}", "--no-requeue", "--chdir=/", "--export=NIL", f"--output={output}", *options]
    command += [str(script) if script else "--wrap=true"]
    try:
        done = system.run(command, timeout=COMMAND)
    except ProcessFailed as error:
        raise JobError(
            f"Slurm refused the job {name} on queue {queue}",
            why=error.why,
            remedy=f"scontrol show partition {queue}",
            code="job-not-started",
        ) from error
    return done.stdout.strip().partition(";")[0]


def cancel(system: System, name: str, user: str = OWNER) -> None:
    """Cancels a user's jobs of that name."""
    system.run(["scancel", f"--user={user}", f"--name={name}"], timeout=COMMAND)


def wait_until_gone(system: System, name: str, seconds: float, *, cancelling: bool) -> bool:
    """Waits until no process of root's jobs of that name can be alive.

    Args:
        cancelling: cancel the jobs, again and again until they are gone.

    Returns:
        False if that was not seen within ``seconds``: Slurm or the job's node does not answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            if all(job.gone for job in jobs(system, name)):
                return True
            if cancelling:
                cancel(system, name)
        except PetalError as error:
            LOG.warning("waiting for the end of job %s: %s", name, error)
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL)


def srun(
    system: System,
    argv: Sequence[str],
    *,
    name: str,
    nodes: Sequence[str],
    queue: str,
    seconds: int,
    immediate: int | None = None,
    mpi: str = "none",
    export: str = "NONE",
    options: Sequence[str] = (),
    user: str | None = None,
    on_line: Callable[[str], None] | None = None,
    each_second: Callable[[], None] | None = None,
) -> Completed:
    """Runs one task of ``argv`` on each of the nodes, in a job of its own, with the first task on the first node.

    If this call is interrupted, the job is cancelled.

    Args:
        name: a name that no other job of the user has.
        queue: a partition that all of the nodes are in.
        seconds: the job's time limit.
        immediate: seconds that the job may wait for the nodes, None without a limit.
        mpi, export, options: further options of srun(1).
        user: an ordinary user of the cluster; None runs the job as the caller.
        on_line, each_second: as for ``System.run``.

    Returns:
        How srun ended, whatever its exit code.
    """
    count, limit = len(nodes), f"{seconds // 60}:{seconds % 60:02}"
    command = ["srun", f"--mpi={mpi}", f"--job-name={name}", f"--partition={queue}", f"--nodes={count}"]
    command += [f"--ntasks={count}", "--ntasks-per-node=1", f"--nodelist={','.join(nodes)}"]
    command += ["--distribution=arbitrary"] if count > 1 else []  # srun(1): only this keeps the order of the list
    command += [f"--time={limit}", f"--export={export}", "--chdir=/", *options]
    command += [f"--immediate={immediate}"] if immediate else []
    timeout = (immediate or 0) + seconds + COMMAND
    try:
        return system.run(
            [*command, *argv], timeout=timeout, user=user, ok=None, on_line=on_line, each_second=each_second,
            most=USERS_OUTPUT,
        )  # fmt: skip
    except BaseException:
        try:
            cancel(system, name, passwd_entry(user).pw_name)
        except PetalError as error:
            LOG.warning("job %s may still run: %s", name, error)
        raise


def raise_refusal(done: Completed, nodes: Sequence[str]) -> None:
    """Raises AllocationRefused with Slurm's words if srun got no allocation."""
    output = f"{done.stderr}\n{done.stdout}".splitlines()
    lines = [line for line in output if any(words in line for words in REFUSED)]
    if done.returncode != 0 and lines:
        # A plugin of the site for job_submit(3) may have explained it in the lines before.
        lines = [line for line in output if line.startswith("srun: error: ")][-SHOWN:] or lines[-1:]
        words = (line.removeprefix("srun: error: ").removeprefix("Unable to allocate resources: ") for line in lines)
        why = " / ".join(map(str.strip, words))
        what = f"Slurm gave no allocation on {folded(nodes)}"
        raise AllocationRefused(what, why=why, remedy=f"sinfo -N -n {folded(nodes)}")


def mpi_plugins(system: System) -> str:
    """The output of ``srun --mpi=list``; older versions of Slurm print it to stderr."""
    done = system.run(["srun", "--mpi=list"], timeout=COMMAND, ok=None)
    return done.stdout + done.stderr
