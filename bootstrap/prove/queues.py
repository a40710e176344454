"""The queues of a job that proves the software, and what each may ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ..cluster.slurm import NOT_FREE, TOO_LARGE, TOO_LONG, TOO_MANY, Partition, SlurmNode, partitions
from ..core.errors import AllocationRefused, ConfigError, PetalError
from ..host.log import LOG
from ..state.context import Context

T = TypeVar("T")
SHORT = 60  # seconds of a job if Slurm refuses a longer one
MEMORY = "200M"
# Reasons of squeue(1) that pass by themselves, and those of a node whose other jobs leave too little.
NOT_STARTED = frozenset({"Resources", "Priority", "None", "Prolog"})
SETTINGS = "or set check.partition, check.account, check.user or check.time in the configuration"


class NoQueue(PetalError):
    """No queue takes the job; ``reasons`` has Slurm's words for each queue that was tried."""

    def __init__(self, reasons: Mapping[str, str]) -> None:
        self.reasons = reasons
        why = "; ".join(f"{queue}: {reason}" for queue, reason in reasons.items())
        remedy = (*(f"scontrol show partition {queue}" for queue in reasons), SETTINGS)
        super().__init__("no queue takes the job", why=why, remedy=remedy)

    @property
    def is_busy(self) -> bool:
        """True if the nodes only are not free."""
        return all(
            reason in NOT_STARTED or any(words in reason for words in NOT_FREE) for reason in self.reasons.values()
        )

    @property
    def may_be_limited(self) -> bool:
        """True if a queue may take the job after other jobs have ended."""
        return any(words in reason for reason in self.reasons.values() for words in TOO_MANY)


def limits_of(ctx: Context) -> dict[str, Partition]:
    """The partitions, empty if Slurm does not answer."""
    try:
        return partitions(ctx.system)
    except PetalError as error:
        LOG.warning("slurm: %s", error)
        return {}


def require_queue(key: str, queue: str, limits: Mapping[str, Partition]) -> None:
    """Refuses a queue that Slurm does not have; ``key`` names it in the configuration.

    Raises:
        ConfigError: ``job-queue``.
    """
    if limits and queue not in limits:
        what, remedy = f"{key}: {queue} is not a queue of this cluster", f"correct {key} in the configuration"
        raise ConfigError(what, why=f"it has {', '.join(limits)}", remedy=remedy, code="job-queue")


def queues_for(ctx: Context, node: SlurmNode, limits: Mapping[str, Partition]) -> tuple[str, ...]:
    """The partitions to try for a job on a node: that of ``check.partition``, else all, those first that are up."""
    known = node.partitions or (node.partition,)
    if ctx.config.check.partition:
        return tuple(queue for queue in known if queue == ctx.config.check.partition)
    return tuple(sorted(known, key=lambda queue: queue in limits and limits[queue].state != "up"))


def job_seconds(ctx: Context, queue: str, limits: Mapping[str, Partition]) -> int:
    """The time limit of a job: ``check.time``, or that of the partition if it is less."""
    most = limits[queue].seconds if queue in limits else None
    return min(ctx.config.check.time, most or ctx.config.check.time)


def job_options(ctx: Context, memory: str = MEMORY) -> tuple[str, ...]:
    """The options of all jobs. Without ``--mem`` a job asks for all memory of its nodes."""
    account = ctx.config.check.account
    return (f"--mem={memory}", *([f"--account={account}"] if account else []))


def in_first_queue(
    ctx: Context,
    queues: Iterable[str],
    limits: Mapping[str, Partition],
    run: Callable[[str, int, Sequence[str]], T],
    memory: str = MEMORY,
) -> T:
    """Runs a job in the first queue that takes it, shorter or without ``--mem`` if Slurm refuses it otherwise.

    Args:
        run: runs the job with a queue, a time limit in seconds and options of srun; may raise AllocationRefused.
        memory: of the job on each node.

    Raises:
        NoQueue: each queue refused it.
    """
    reasons: dict[str, str] = {}
    for queue in queues:
        options, seconds = job_options(ctx, memory), job_seconds(ctx, queue, limits)
        while queue not in reasons:
            try:
                return run(queue, seconds, options)
            except AllocationRefused as refused:
                if any(words in refused.why for words in TOO_LONG) and seconds > SHORT:
                    seconds = SHORT
                elif any(words in refused.why for words in TOO_LARGE) and any("--mem=" in option for option in options):
                    options = options[1:]
                else:
                    reasons[queue] = refused.why
    raise NoQueue(reasons)
