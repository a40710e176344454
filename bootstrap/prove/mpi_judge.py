"""The finding of an MPI job of two ranks: a pure function of what the job left.

A cause is named only if facts prove it: the plugins that Slurm lists, the exit code, the lines of the ranks. In all
other cases the finding names the rank that got least far and its stage, and quotes the output. Output is written by an
ordinary user, so node names are used only if they are the job's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from ..core.model import Finding, Severity
from ..core.text import first_words, quoted
from .mpi_stages import BULK_BYTES, Rank, Stage, ranks_of

TALKS = (Stage.EXCHANGE, Stage.BULK, Stage.FINALIZE)  # the stages in which ranks send each other messages
QUOTED_LINES, QUOTED_CHARACTERS = 8, 1000  # of a line, because a user may have written it
NOT_LAUNCHED = re.compile(r"Task launch for \S+ failed on node (\S+?):")
TASK_ENDED = re.compile(r"(?m)^srun: error: (\S+): tasks? [\d,-]+: (?!Killed|Terminated)(.+)$")
ERROR = re.compile(
    r"(?i)\berror|fail|unable|can ?not|couldn't|not (found|find|built)|denied|unknown|invalid|signal:|fatal|DUE TO"
)
# Frames, text that every abort of Open MPI contains, and Slurm ending the other tasks.
NOISE = re.compile(
    r"^[-=\s]*$|^\*\*\*|\] \*\*\*\s|MPI_ERRORS_ARE_FATAL|Local abort before MPI_INIT|^\(null\)$"
    r"|CANCELLED AT (?!.*DUE TO)|^It looks like|^(fail during|environment problems|problems\.)|likely to abort"
    r"|^srun: (Terminating|StepId|First task|Job step|launch/slurm|job \d+ (queued|has been))"
    r"|^srun: error: \S+: tasks? [\d,-]+: (Exited|Killed|Terminated)"
)
# What differs between processes that print the same line: the time, the process, the program.
LABEL = re.compile(r"^\d+: ")  # of srun --label
PREFIX = re.compile(r"^\[\[\d+,\d+\],\d+\]|^\[[^\]\[]*\]\s*|^(slurmstepd-\S+|srun|slurmd):\s+|^(error|fatal):\s+")


@dataclass(frozen=True)
class Evidence:
    """What one job of two ranks left.

    Args:
        module: the module of the MPI.
        nodes: the names of the two nodes, in the order of the tasks.
        code: the exit code of srun.
        stdout: the lines of the ranks, each after the number of its task (``srun --label``).
        plugins: the output of ``srun --mpi=list`` on the head node, empty if the job succeeded.
    """

    module: str
    nodes: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    plugins: str = ""

    @cached_property
    def ranks(self) -> list[Rank]:
        ranks = ranks_of(self.stdout.splitlines(), self.nodes)
        return [ranks[number] for number in sorted(ranks)]

    @property
    def not_launched(self) -> list[str]:
        """The nodes that did not start their task."""
        return sorted(set(NOT_LAUNCHED.findall(self.stderr)) & set(self.nodes))

    @property
    def ended(self) -> dict[str, str]:
        """How tasks ended that Slurm did not kill, by node: ``Segmentation fault``."""
        return dict(TASK_ENDED.findall(self.stderr))

    def first(self, ranks: Iterable[Rank]) -> Rank | None:
        """The rank closest to the cause: of those that got least far, one that reported an error or was not killed."""
        stages = list(Stage)
        return min(
            ranks,
            key=lambda rank: (stages.index(rank.stage), not rank.error, rank.node not in self.ended, rank.number),
            default=None,
        )

    def in_shell(self, command: str) -> str:
        """A remedy that runs a command after the module was loaded."""
        return f"bash -lc 'module load {self.module} && {command}'"

    def how_built(self, rank: Rank) -> str:
        """A remedy that shows how the MPI of a rank uses PMIx."""
        program = "ompi_info --parsable" if rank.version.startswith("Open MPI") else f"ldd {quoted(rank.library)}"
        return self.in_shell(f"{program} | grep -i pmi")

    def failure(self, message: str, why: str, *remedy: str) -> Finding:
        """A failed finding; its last remedy repeats the job."""
        count, names = len(self.nodes), ",".join(self.nodes)
        repeat = f"srun --mpi=pmix -N{count} -n{count} -w {names} {self.in_shell('petal-node mpi-rank')}"
        return Finding(f"mpi:{self.module}", Severity.FAIL, message, why, (*remedy, repeat))


def judge(evidence: Evidence) -> Finding:
    """The finding ``mpi:MODULE``; the message of a failure begins with ``Slurm``, ``PMIx`` or ``MPI``."""
    for rule in (_not_started, _without_library, _not_connected, _stopped):
        failure = rule(evidence)
        if failure is not None:
            return failure
    rank = evidence.ranks[0]
    sent = f"{BULK_BYTES >> 20} MiB in {rank.facts.get('seconds')} s with {rank.version}, PMIx {rank.pmix_version}"
    message = f"{len(evidence.ranks)} ranks on {' and '.join(evidence.nodes)} sent each other {sent}"
    return Finding(f"mpi:{evidence.module}", Severity.OK, message)


def _not_started(evidence: Evidence) -> Finding | None:
    """Slurm started no task, or not on all nodes."""
    absent = evidence.not_launched
    if absent:
        log = (
            f"sudo $(command -v srun) --mpi=none -N{len(absent)} -w {','.join(absent)} grep -i mpi /var/log/slurmd.log"
        )
        listed = f"srun --mpi=none -w {absent[0]} srun --mpi=list"
        message = f"Slurm: {' and '.join(absent)} did not start the task"
        return evidence.failure(message, quote(evidence.stderr), listed, log)
    if evidence.ranks or evidence.code == 0:
        return None
    why, show = quote(evidence.stderr), f"scontrol show node {','.join(evidence.nodes)}"
    if evidence.plugins and "pmix" not in evidence.plugins:
        return evidence.failure("Slurm: srun --mpi=list has no pmix plugin", why, "srun --mpi=list")
    remedy = (show, "sinfo -N", "ls -l /opt/pmix/lib/libpmix.so*; ldconfig -p | grep pmix")
    return evidence.failure(f"Slurm: srun ended with {evidence.code}, and no rank started", why, *remedy)


def _without_library(evidence: Evidence) -> Finding | None:
    """The module or its MPI library does not load on a node; the rank reports why."""
    rank = evidence.first(rank for rank in evidence.ranks if rank.error and rank.stage in (Stage.START, Stage.LOAD))
    if rank is None:
        return None
    message, why, remedy = "the module brings no MPI library", rank.error, evidence.in_shell("type -a mpirun")
    if rank.stage is Stage.LOAD:
        message, remedy = "its library cannot be loaded", f"srun --mpi=none -w {rank.node} ldd {quoted(rank.library)}"
    elif rank.error.startswith("module load"):
        message, why = "the module does not load", f"{rank.error} / {quote(evidence.stderr)}"
    return evidence.failure(f"MPI: {message} on {rank.node}", why, remedy)


def _not_connected(evidence: Evidence) -> Finding | None:
    """A rank is missing, has no PMIx, or does not use it."""
    ranks = evidence.ranks
    silent = [name for name in evidence.nodes if name not in {rank.node for rank in ranks}]
    if silent:
        remedy = f"srun --mpi=none -w {','.join(silent)} hostname"
        message = f"Slurm: the rank on {' and '.join(silent)} reported nothing"
        return evidence.failure(message, quote(evidence.stderr), remedy)
    alone = [rank for rank in ranks if rank.size is not None and rank.size != len(ranks)]
    rank = evidence.first(alone or (rank for rank in ranks if rank.stage is Stage.INIT))
    if rank is not None and not rank.facts.get("pmix"):  # Slurm's PMIx plugin sets what a rank finds the others by
        message = f"PMIx: the rank on {rank.node} has no PMIX_RANK in its environment"
        why = f"SLURM_MPI_TYPE is {rank.facts.get('slurm_mpi') or 'not set'}"
        return evidence.failure(message, why, f"srun --mpi=pmix -w {rank.node} sh -c 'env | grep -E \"PMI|MPI\"'")
    if alone and rank is not None:
        message = f"MPI: each rank is alone: {rank.version} does not use the PMIx that Slurm offers"
        why = f"MPI_Comm_size is {rank.size} on {rank.node}, though Slurm started {len(ranks)} ranks"
        return evidence.failure(message, why, evidence.how_built(rank))
    return None


def _stopped(evidence: Evidence) -> Finding | None:
    """A rank did not reach the end: no cause is named, because only the output can show it."""
    rank = evidence.first(evidence.ranks)
    assert rank is not None
    if rank.stage is Stage.DONE:
        if evidence.code == 0:
            return None
        message = f"MPI: srun ended with {evidence.code} after all ranks had finished"
        return evidence.failure(message, quote(evidence.stderr))
    versions = f"{rank.version or 'MPI'}, PMIx {rank.pmix_version}"
    message = f"MPI: {rank} {'hangs' if rank.hangs else 'stopped'} in {rank.stage} ({versions})"
    how = rank.error or evidence.ended.get(rank.node, "")
    why = " / ".join(text for text in (how, quote(evidence.stderr)) if text)
    count, names = len(evidence.nodes), ",".join(evidence.nodes)
    network = (
        f"srun --mpi=none -N{count} -w {names} ip -br address",
        f"srun --mpi=none -w {evidence.nodes[0]} ping -c 2 {evidence.nodes[-1]}",
    )
    if rank.stage in TALKS:
        return evidence.failure(message, why, *network)
    return evidence.failure(message, why, evidence.how_built(rank), *(network if rank.hangs else ()))


def quote(text: str) -> str:
    """The last different lines that report an error, else the last lines, without frames."""
    lines = []
    for line in (first_words(LABEL.sub("", line), QUOTED_CHARACTERS).strip() for line in text.splitlines()):
        bare = line
        while bare != (shorter := PREFIX.sub("", bare)):
            bare = shorter
        if bare and not NOISE.search(line):
            lines.append(bare)
    unique = list(dict.fromkeys(lines))
    errors = [line for line in unique if ERROR.search(line)]
    return " / ".join((errors or unique)[-QUOTED_LINES:])
