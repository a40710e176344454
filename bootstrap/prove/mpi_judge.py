"""Which of Slurm, PMIx, MPI and the network keeps two ranks apart: a pure function from what was seen to a finding.

Each rule below is a cause that real programs have shown (tests/unit/mpi_jobs has their words). The first one that
fits is told: they stand in the order in which a job meets them. What the ranks and their shells write is an ordinary
user's: names are taken from it only where they are those of the job.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Optional

from ..core.model import Finding, Mark
from .mpi_stages import BULK_BYTES, Rank, Stage, ranks_of

SLURM, PMIX, MPI, NETWORK = "Slurm", "PMIx", "MPI", "network"
TOLD_LINES = 3
NO_PLUGIN = r"cannot find mpi plugin|Invalid MPI type|MPI: Unable to load any plugin"
NO_LIBPMIX = r"can not load PMIx library|libpmix"
NOT_LAUNCHED = r"Task launch for \S+ failed on node (\S+?):"
NOT_FREE = r"Requested nodes are busy|Immediate execution impossible"
PMIX_MISFIT = r"PMIX[ _]ERR|pmix_\w+ failed|not built with SLURM's PMI|PMI2?_Init failed|PMIx stopped checking"
NO_SUCH_MODULE = r"Lmod has detected|^\"|not found"
FAILS = r"Returned|_init failed|failed$"
UNREACHED = (
    r"unable to reach each other|Unable to connect|BTLs attempted|No route|refused|timed out|unreachable|MPI_ERR"
)
CRASHED = r"Segmentation fault|Bus error|Illegal instruction|Process received signal|core dumped"
# What is no reason: frames, the same words of every death of an Open MPI, and Slurm tidying up.
NOISE = re.compile(
    r"^[-=\s]*$|^\*\*\*|\] \*\*\*\s|MPI_ERRORS_ARE_FATAL|Local abort before MPI_INIT|^\(null\)$"
    r"|CANCELLED AT (?!.*DUE TO)|^Your MPI job is now going|likely to abort|^It looks like"
    r"|^srun: (Terminating|StepId|First task|Job step|launch/slurm|job \d+ (queued|has been))"
    r"|^srun: error: \S+: tasks? [\d,-]+: (Exited|Killed|Terminated)"
)
# The process, the place in its source or the time before the words themselves.
OF_ONE = re.compile(r"^\[\[\d+,\d+\],\d+\]|^\[[^\]\[]*\]\s*|^(slurmstepd-\S+|srun|slurmd):\s+|^(error|fatal):\s+")


@dataclass(frozen=True)
class Evidence:
    """What one job of two ranks left behind.

    Args:
        module: the MPI's module.
        nodes: the names of the two nodes.
        code: how srun ended.
        stdout: the lines of the ranks.
        plugins: what ``srun --mpi=list`` says on the head node.
        slurmd: what slurmd wrote of the job on a node that did not launch it.
    """

    module: str
    nodes: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    plugins: str = ""
    slurmd: str = ""

    @property
    def ranks(self) -> list[Rank]:
        found = ranks_of(self.stdout.splitlines())
        return [found[number] for number in sorted(found) if found[number].node in self.nodes]

    @property
    def command(self) -> str:
        """The same by hand."""
        where = f"--mpi=pmix -N{len(self.nodes)} -n{len(self.nodes)} -w {','.join(self.nodes)}"
        return f"srun {where} bash -lc 'module load {self.module} && petal-node mpi-rank'"

    @property
    def gave_up(self) -> frozenset[int]:
        """The ranks that ended of their own; Slurm kills the others."""
        ended = re.findall(r"(?m)^srun: error: (\S+): tasks? [\d,-]+: (?!Killed|Terminated)", self.stderr)
        return frozenset(rank.number for rank in self.ranks if rank.node in ended)

    @property
    def not_launched(self) -> list[str]:
        """The nodes that did not start the task."""
        return sorted(set(re.findall(NOT_LAUNCHED, self.stderr)) & set(self.nodes))

    def first(self, ranks: Iterable[Rank]) -> Rank | None:
        """The one that tells most of the cause: of those that came least far, one with an error or not killed."""
        order = list(Stage)

        def place(rank: Rank) -> tuple[int, bool, bool, int]:
            return order.index(rank.stage), not rank.error, rank.number not in self.gave_up, rank.number

        return min(ranks, key=place, default=None)

    def says(self, pattern: str) -> re.Match[str] | None:
        return re.search(pattern, self.stderr)


@dataclass(frozen=True)
class Cause:
    """What is wrong: whose it is, in one sentence, the real words, and what to do."""

    who: str
    message: str
    why: str = ""
    remedy: tuple[str, ...] = ()
    mark: Mark = Mark.FAIL


Rule = Callable[[Evidence, "list[Rank]"], Optional[Cause]]


def judge(evidence: Evidence) -> Finding:
    """The finding ``mpi:MODULE``; a failure begins with one of the four that does not fit."""
    check = f"mpi:{evidence.module}"
    ranks = evidence.ranks
    for rule in RULES:
        cause = rule(evidence, ranks)
        if cause is not None:
            message = f"{cause.who}: {cause.message}" if cause.mark is Mark.FAIL else cause.message
            remedy = (*cause.remedy, evidence.command) if cause.mark is Mark.FAIL else cause.remedy
            return Finding(check, cause.mark, message, cause.why, remedy)
    return Finding(check, Mark.OK, _well(evidence, ranks))


def _well(evidence: Evidence, ranks: list[Rank]) -> str:
    first = ranks[0]
    how = f"{BULK_BYTES >> 20} MiB in {first.facts.get('seconds')} s with {first.version}"
    pmix = first.facts.get("pmix_version") or "unknown"
    return f"{len(ranks)} ranks on {' and '.join(evidence.nodes)} sent each other {how}, PMIx {pmix}"


# ----------------------------------------------------------------------------------------- the job does not start


def _not_free(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    if ranks or not evidence.says(NOT_FREE):
        return None
    remedy = (f"scontrol show node {','.join(evidence.nodes)}",)
    return Cause(SLURM, "the nodes were not free", told(evidence.stderr), remedy, Mark.SKIP)


def _no_plugin(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    if ranks or not (evidence.says(NO_PLUGIN) or (evidence.plugins and "pmix" not in evidence.plugins)):
        return None
    if evidence.says(NO_LIBPMIX):
        why = told(evidence.stderr, NO_LIBPMIX)
        return Cause(PMIX, "Slurm's plugin cannot load the PMIx library on this node", why, _libraries())
    known = ", ".join(
        word for word in evidence.plugins.split() if re.fullmatch(r"(cray_\w+|none|pmi\w*|openmpi)", word)
    )
    message = f"it has no PMIx plugin{f', only {known}' if known else ''}"
    return Cause(SLURM, message, told(evidence.stderr, NO_PLUGIN), ("srun --mpi=list",))


def _not_launched(evidence: Evidence, _ranks: list[Rank]) -> Cause | None:
    """Where its plugin cannot be used slurmd dies before the task, and srun does not say why."""
    nodes = evidence.not_launched
    if not nodes:
        return None
    where = " and ".join(nodes)
    remedy = (f"sudo srun --mpi=none -N{len(nodes)} -w {','.join(nodes)} grep -i mpi /var/log/slurmd.log",)
    if re.search(NO_LIBPMIX, evidence.slurmd):
        why = told(evidence.slurmd, NO_LIBPMIX)
        return Cause(
            PMIX, f"Slurm's plugin cannot load the PMIx library on {where}", why, (*_libraries(nodes), *remedy)
        )
    if re.search(NO_PLUGIN, evidence.slurmd):
        listed = f"srun --mpi=none -w {nodes[0]} srun --mpi=list"
        return Cause(SLURM, f"it has no PMIx plugin on {where}", told(evidence.slurmd, NO_PLUGIN), (listed, *remedy))
    why = " / ".join(text for text in (told(evidence.stderr, NOT_LAUNCHED), told(evidence.slurmd)) if text)
    return Cause(SLURM, f"{where} did not start the task", why, remedy)


def _libraries(nodes: Iterable[str] = ()) -> tuple[str, ...]:
    names = list(nodes)
    where = f"srun --mpi=none -N{len(names)} -w {','.join(names)} " if names else ""
    return (f"{where}sh -c 'ls -l /opt/pmix/lib/libpmix.so*; ldconfig -p | grep pmix'",)


def _refused(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    if ranks or evidence.code == 0:
        return None
    remedy = (f"scontrol show node {','.join(evidence.nodes)}", "sinfo -N")
    return Cause(SLURM, f"srun ended with {evidence.code}, and no rank began", told(evidence.stderr), remedy)


# ------------------------------------------------------------------------------------------ the library of the module


def _no_module(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    rank = evidence.first(rank for rank in ranks if rank.error and rank.stage is Stage.START)
    if rank is None:
        return None
    if rank.error.startswith("module load"):
        why = told(evidence.stderr, NO_SUCH_MODULE) or rank.error
        return Cause(
            MPI, f"the module does not load on {rank.node}", why, (f"bash -lc 'module load {evidence.module}'",)
        )
    remedy = (f"bash -lc 'module load {evidence.module}; type -a mpirun'",)
    return Cause(MPI, f"the module brings no MPI library on {rank.node}", rank.error, remedy)


def _not_loaded(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    rank = evidence.first(rank for rank in ranks if rank.error and rank.stage is Stage.LOAD)
    if rank is None:
        return None
    remedy = (f"srun --mpi=none -w {rank.node} ldd {rank.library}",)
    return Cause(MPI, f"its library cannot be loaded on {rank.node}", rank.error, remedy)


# ------------------------------------------------------------------------------------------------- how far they came


def _missing(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    if len(ranks) >= len(evidence.nodes):
        return None
    silent = [name for name in evidence.nodes if name not in {rank.node for rank in ranks}]
    remedy = (f"srun --mpi=none -w {','.join(silent)} hostname",) if silent else ()
    where = " and ".join(silent) or "one of the nodes"
    return Cause(NETWORK, f"nothing was heard of the rank on {where}", told(evidence.stderr), remedy)


def _alone(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    rank = evidence.first(rank for rank in ranks if rank.size is not None and rank.size != len(ranks))
    if rank is None:
        return None
    if not rank.has_pmix:
        return _without_pmix(evidence, rank)
    message = f"each rank is alone: {rank.version} does not use the PMIx that Slurm offers"
    why = f"MPI_Comm_size is {rank.size} on {rank.node}, though Slurm started {len(ranks)} ranks"
    return Cause(MPI, message, why, _how_built(evidence, rank))


def _init(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    """The causes are in the words of the library; without any, a rank that waits has not found the others."""
    rank = evidence.first(rank for rank in ranks if rank.stage is Stage.INIT)
    if rank is None:
        return None
    if not rank.has_pmix:
        return _without_pmix(evidence, rank)
    if evidence.says(PMIX_MISFIT):
        theirs = rank.facts.get("pmix_version") or "of another version"
        remedy = (*_how_built(evidence, rank), f"srun --mpi=pmix -w {rank.node} sh -c 'env | grep PMIX_'")
        why = told(evidence.stderr, PMIX_MISFIT)
        return Cause(PMIX, f"{rank.version} cannot use Slurm's, which is {theirs}", why, remedy)
    if evidence.says(CRASHED):
        return _crash(evidence, rank)
    if all(one.hangs for one in ranks if one.stage is Stage.INIT):
        why = told(evidence.stderr) or rank.error
        return Cause(NETWORK, "the ranks do not find each other in MPI_Init", why, _reach(evidence))
    why = told(evidence.stderr, FAILS) or rank.error
    return Cause(MPI, f"{rank.version} fails in MPI_Init on {rank.node}", why, _how_built(evidence, rank))


def _how_built(evidence: Evidence, rank: Rank) -> tuple[str, ...]:
    program = "ompi_info --parsable" if rank.version.startswith("Open MPI") else f"ldd {rank.library}"
    return (f"bash -lc 'module load {evidence.module}; {program} | grep -i pmi'",)


def _without_pmix(evidence: Evidence, rank: Rank) -> Cause:
    message = f"none of it reaches the rank on {rank.node}: there is no PMIX_RANK in its environment"
    seen = f"SLURM_MPI_TYPE is {rank.facts.get('slurm_mpi') or 'not set'}"
    words = told(evidence.stderr, PMIX_MISFIT)
    remedy = (f"srun --mpi=pmix -w {rank.node} sh -c 'env | grep -E \"PMI|MPI\"'",)
    return Cause(PMIX, message, f"{seen}{f' / {words}' if words else ''}", remedy)


def _crash(evidence: Evidence, rank: Rank) -> Cause:
    why = told(evidence.stderr, CRASHED)
    return Cause(MPI, f"{rank.version} crashed in {rank.stage} on {rank.node}", why)


def _talk(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    rank = evidence.first(rank for rank in ranks if rank.stage.talks)
    if rank is None:
        return None
    if evidence.says(CRASHED):
        return _crash(evidence, rank)
    if rank.hangs:
        why = told(evidence.stderr) or f"{rank}: {rank.error}"
        return Cause(NETWORK, f"the ranks hang in {rank.stage}", why, _reach(evidence))
    why = told(evidence.stderr, UNREACHED) or rank.error
    return Cause(NETWORK, f"{rank} failed in {rank.stage}", why, _reach(evidence))


def _reach(evidence: Evidence) -> tuple[str, ...]:
    first, second = evidence.nodes[0], evidence.nodes[-1]
    return (
        f"srun --mpi=none -N{len(evidence.nodes)} -w {','.join(evidence.nodes)} ip -br address",
        f"srun --mpi=none -w {first} ping -c 2 {second}",
    )


def _bad_end(evidence: Evidence, ranks: list[Rank]) -> Cause | None:
    """Whatever no other rule knows: nothing is well that has not said so."""
    rank = evidence.first(ranks)
    if evidence.code == 0 and all(one.stage is Stage.DONE for one in ranks):
        return None
    where = f"in {rank.stage} on {rank.node}" if rank and rank.stage is not Stage.DONE else "after all was done"
    return Cause(MPI, f"the job ended with {evidence.code} {where}", told(evidence.stderr))


RULES: tuple[Rule, ...] = (
    _not_free, _no_plugin, _not_launched, _refused, _no_module, _not_loaded, _missing, _alone, _init, _talk, _bad_end,
)  # fmt: skip


def told(text: str, pattern: str = "") -> str:
    """The lines that say why, each once and at most a few: those of the pattern where there are any, else the last."""
    lines = list(dict.fromkeys(_meaningful(text)))
    chosen = [line for line in lines if pattern and re.search(pattern, line)][:TOLD_LINES] or lines[-TOLD_LINES:]
    return " / ".join(chosen)


def _meaningful(text: str) -> Iterator[str]:
    for line in text.splitlines():
        bare = line.strip()
        while bare != (shorter := OF_ONE.sub("", bare)):
            bare = shorter
        if bare and not NOISE.search(line.strip()):
            yield bare
