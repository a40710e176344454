"""The MPI job of two ranks on two nodes: ``srun --mpi=pmix`` on the head node, as an ordinary user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from ..cluster.slurm import Partition, SlurmNode, mpi_plugins, raise_refusal, srun
from ..core.errors import PetalError, ProcessTimeout, StateError
from ..core.model import Finding, NodeReport, Severity
from ..host.log import LOG
from ..host.system import Completed
from ..modules.tree import MPI
from ..state.context import Context
from ..state.release import current_release, read_manifest
from .mpi_judge import Evidence, judge
from .queues import NoQueue, in_first_queue, limits_of, queues_for
from .user import ordinary_user

SECONDS = 180  # of the job; a rank ends itself after 60
MEMORY = "1G"  # on each node, for a rank of any MPI and the buffers of its network
IMMEDIATE_SECONDS = 60  # the job that checked the nodes may just be ending
# Arguments: the module, petal-node. The job has no PATH (``--export``): the login shell sets it.
SCRIPT = 'module load "$1"; code=$?; exec "$2" mpi-rank --loaded "$code"'


def between_nodes(ctx: Context, nodes: Sequence[SlurmNode], reports: Sequence[NodeReport]) -> tuple[Finding, ...]:
    """The findings that need two nodes, if the configuration asks for them (``check.mpi``).

    Args:
        nodes: the nodes that were checked.
        reports: their reports; nodes that see no release are left out.
    """
    if not ctx.config.check.mpi or not nodes:
        return ()
    usable = {report.node for report in reports if report.was_checked and report.release is not None}
    return prove_release(ctx, [node for node in nodes if node.name in usable])


def prove_release(ctx: Context, nodes: Sequence[SlurmNode]) -> tuple[Finding, ...]:
    """Tries every MPI of the current release on two nodes of one queue."""
    limits = limits_of(ctx)
    queues = {node.name: queues_for(ctx, node, limits) for node in nodes}
    # A job has all its nodes in one queue.
    pairs = ((a.name, b.name) for a, b in combinations(nodes, 2) if set(queues[a.name]) & set(queues[b.name]))
    pair = next(pairs, None)
    if pair is None:
        return (Finding("mpi", Severity.SKIP, f"two nodes of one queue are needed, and {len(nodes)} can be used"),)
    shared = [queue for queue in queues[pair[0]] if queue in queues[pair[1]]]
    try:
        current = current_release(ctx.paths)
        manifest = read_manifest(ctx.paths, current) if current else None
    except StateError as error:
        return (Finding("mpi", Severity.FAIL, error.what, error.why, error.remedy),)
    core = manifest.core_modules(ctx.facts.host.target) if manifest else ()
    modules = [name for name in core if name.partition("/")[0] in MPI]
    if not modules:
        return (Finding("mpi", Severity.SKIP, f"the release has no MPI: none of {', '.join(sorted(MPI))} in Core"),)
    return tuple(prove_mpi(ctx, module, pair, shared, limits) for module in modules)


def prove_mpi(
    ctx: Context, module: str, names: Sequence[str], queues: Sequence[str], limits: Mapping[str, Partition]
) -> Finding:
    """Runs one job of two tasks on two nodes, which exchange messages through the module's MPI.

    Args:
        queues: the job runs in the first one in which Slurm does not refuse it.
    """
    ctx.note(f"trying {module} between {' and '.join(names)}")
    check, show = f"mpi:{module}", f"scontrol show node {','.join(names)}"

    def run(queue: str, seconds: int, options: Sequence[str]) -> Completed:
        done = srun(
            ctx.system,
            ["/bin/bash", "-lc", SCRIPT, "petal-mpi", module, str(ctx.paths.link)],
            name=f"petal-mpi-{ctx.run_id}",
            nodes=names,
            queue=queue,
            seconds=min(SECONDS, seconds),
            immediate=IMMEDIATE_SECONDS,
            mpi="pmix",
            export="HOME,LANG",
            # srun marks each line with its task, whatever the line says, and ends a rank 10 s after the other one.
            options=("--label", "--wait=10", "--kill-on-bad-exit=0", *options),
            user=ordinary_user(ctx),
        )
        if not done.stdout:
            raise_refusal(done, names)
        return done

    try:
        done = in_first_queue(ctx, queues, limits, run, MEMORY)
        plugins = "" if done.returncode == 0 else mpi_plugins(ctx.system)
    except NoQueue as refused:
        if refused.is_busy:
            return Finding(check, Severity.SKIP, "the nodes were not free", refused.why, (show,))
        return Finding(check, Severity.FAIL, f"Slurm: {refused.what}", refused.why, refused.remedy)
    except ProcessTimeout as error:
        return Finding(check, Severity.FAIL, "Slurm: the job did not end", str(error), ("scontrol ping", show))
    except PetalError as error:
        return Finding(check, Severity.FAIL, error.what, error.why, error.remedy or (show,))
    LOG.debug("MPI job: %s\n%s", done.stdout.strip(), done.stderr.strip())
    return judge(Evidence(module, tuple(names), done.returncode, done.stdout, done.stderr, plugins))
