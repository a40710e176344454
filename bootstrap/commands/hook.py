"""``hook EVENT``: what the custom actions call. It starts a worker that outlives it, and waits a bounded time.

Promise 1: a hook returns long before any ParallelCluster limit and ends with 0, whatever happens; ``--strict`` turns
that off. The record keeps the verb's own code. The worker is this program again, detached: nothing of it holds the
hook's stdout or stderr (ParallelCluster's executor waits for whoever does).
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..cluster.detect import read_cluster
from ..cluster.limits import OTHER_SECONDS
from ..core.errors import ExitCode, PetalError, UsageError, WaitTimeout, of_os_error
from ..core.model import Outcome, Result, Role, RunRecord, Status
from ..core.options import Options
from ..engine.prepare import check_place
from ..engine.run import Recorder, crash, new_record, run
from ..host import systemd
from ..host.files import make_dir
from ..host.log import LOG
from ..host.processes import has_process
from ..host.system import timestamp
from ..state.store import Runs
from ..steps.registry import STEPS
from .common import Services, request_of, require_root, result_of_run

UNIT = "petal-node-worker"
UNKNOWN_BUDGET = 120.0
STARTED = "PETAL_HOOK_STARTED"
POLL_SECONDS = 0.05
HEARTBEAT_SECONDS = 60.0
BACKGROUND = frozenset(step.name for step in STEPS if step.background)
BEGIN_AGAIN_SECONDS = 10.0
WORKER_SAID = ("journalctl -u 'petal-node-worker-*'", "less /var/log/petal-node-worker.log")
# The worker of a checkout; its first argument is the checkout.
FROM_CHECKOUT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootstrap.cli import entry; entry()"


def hook(options: Options, services: Services) -> Result:
    """Runs one event of this node's life."""
    if options.words or not options.event:
        return _refuse(options, services)
    try:
        require_root(options, services)
        record = _through_worker(options, services)
        result = result_of_run("hook", record)
    except PetalError as error:
        result = _recorded(options, services, error)
    except OSError as error:
        result = _recorded(options, services, of_os_error(error, options.paths.shared_mount))
    except Exception as error:  # noqa: BLE001 - promise 1 also holds for bugs
        bug = crash(error, options.paths, services.run_id)
        result = Result("hook", "error", Status.DEGRADED, {}, (bug,), services.run_id, int(ExitCode.BUG))
    return _ended(result, strict=options.strict)


def _refuse(options: Options, services: Services) -> Result:
    """Records a hook whose arguments do not make sense, and does nothing."""
    error = UsageError(
        "the hook's arguments are not understood",
        why=" ".join(options.words),
        remedy=("petal-node hook --help", "correct Args in the cluster configuration"),
        code="hook-usage",
    )
    return _ended(_recorded(options, services, error), strict=options.strict)


def _ended(result: Result, *, strict: bool) -> Result:
    code = result.exit_code
    return replace(result, exit=code if strict else int(ExitCode.OK), data={**result.data, "verb_exit": code})


def worker(options: Options, services: Services) -> Result:
    """The detached half: does the work and keeps the record that the hook reads."""
    record = run(request_of(options, services), services.system, "hook", services.listen, services.note)
    return result_of_run("hook", record)


def _through_worker(options: Options, services: Services) -> RunRecord:
    if options.config is not None:
        check_place(options.config)  # before it stands in the arguments of a process that everybody can list
    paths = options.paths
    spent = _spent(services)
    make_dir(paths.runs)
    make_dir(paths.log.parent)
    systemd.detach(
        _worker_argv(options, services),
        services.system,
        unit=f"{UNIT}-{services.run_id.lower()}" if paths.live else None,  # a unit's environment lies outside of --root
        output=paths.log.parent / "petal-node-worker.log",
    )
    return _wait(options, services, Runs(paths), spent)


def _spent(services: Services) -> float:
    """Seconds that the hook script used up before it came to us; it says when it started, by the machine's clock."""
    try:
        spent = services.system.clock() - float(os.environ.pop(STARTED, ""))
    except ValueError:
        return 0.0
    return max(0.0, spent)


def _worker_argv(options: Options, services: Services) -> list[str]:
    argv = [*_own_command(services), "worker", "--event", options.event, "--run-id", services.run_id, "--quiet"]
    passed_on = (
        ("--config", options.config),
        ("--config-sha256", options.config_sha256),
        ("--role", options.role and options.role.value),
    )
    for option, value in passed_on:
        argv += [option, str(value)] if value else []
    return [*argv, "--root", str(options.root)] if not options.paths.live else argv


def _own_command(services: Services) -> list[str]:
    if services.tool.archive is not None:
        return [str(services.tool.archive)]
    top = str(Path(__file__).resolve().parents[2])
    return [
        sys.executable,
        "-c",
        FROM_CHECKOUT,
        top,
    ]


def _wait(options: Options, services: Services, runs: Runs, spent: float) -> RunRecord:
    """Until the worker has nothing left that a hook waits for, or the budget is spent; the worker goes on then.

    Args:
        spent: seconds of the budget that are gone already.

    Raises:
        WaitTimeout: the worker did not even write its record, or was killed and systemd did not begin it again.
    """
    unknown = UNKNOWN_BUDGET if _may_be_head(options) else OTHER_SECONDS
    started = time.monotonic() - spent
    beat = time.monotonic()
    told: set[str] = set()
    lost: float | None = None
    while True:
        record = runs.load(services.run_id)
        if record is not None:
            _tell(services, record, told)
            if record.settled:
                _tell_what_goes_on(services, record)
                return _as_settled(record)
        now = time.monotonic()
        budget = unknown if record is None or record.budget is None else record.budget
        if now - started > budget:
            return _still_running(record, budget)
        lost = None if record is None or has_process(record.pid) else lost or now
        if lost is not None and now - lost > BEGIN_AGAIN_SECONDS:
            raise _worker_lost()
        if now - beat > HEARTBEAT_SECONDS:
            beat = now
            services.note(f"{_going_on(record)} ({now - started:.0f} s of {budget:.0f} s)")
        time.sleep(POLL_SECONDS)


def _may_be_head(options: Options) -> bool:
    """What the node's own files say, before the worker has found out: others never wait long."""
    role = options.role or read_cluster(options.paths).role
    return role in (None, Role.HEAD)


def _going_on(record: RunRecord | None) -> str:
    running = [step for step in record.steps if step.outcome.goes_on] if record else []
    return f"{running[-1].name}: {running[-1].headline}" if running else "starting"


def _tell(services: Services, record: RunRecord, told: set[str]) -> None:
    for step in record.steps:
        event = f"{step.name} waits" if step.outcome is Outcome.WAITING else step.name
        if step.outcome is not Outcome.RUNNING and event not in told:
            told.add(event)
            services.listen(step)


def _tell_what_goes_on(services: Services, record: RunRecord) -> None:
    """What nobody waits for and users miss while it lasts; the proof is none of it."""
    for step in record.steps:
        if step.outcome is Outcome.RUNNING and step.name not in BACKGROUND and record.finished is None:
            services.listen(replace(step, outcome=Outcome.WAITING))


def _as_settled(record: RunRecord) -> RunRecord:
    """What a hook answers for: the background steps that go on behind it do not count."""
    if record.finished is not None:
        return record
    changed = any(step.outcome is Outcome.CHANGED for step in record.steps)
    troubled = any(step.error or not step.outcome.holds for step in record.steps if not step.outcome.goes_on)
    status = Status.DEGRADED if troubled else Status.CHANGED if changed else Status.OK
    return replace(record, status=status, exit=int(status.exit))


def _still_running(record: RunRecord | None, budget: float) -> RunRecord:
    if record is None:
        raise WaitTimeout(
            "the worker did not start",
            why=f"it wrote no record within {budget:.0f} s",
            remedy=WORKER_SAID,
            code="worker-missing",
        )
    return replace(record, status=Status.RUNNING, exit=0)


def _worker_lost() -> WaitTimeout:
    return WaitTimeout(
        "the worker was killed",
        why="its process is gone, and none followed",
        remedy=("petal-node bootstrap", *WORKER_SAID),
        code="worker-killed",
    )


def _recorded(options: Options, services: Services, error: PetalError) -> Result:
    """The hook's own failure, in a record as every run has one."""
    LOG.error("%s", error)
    recorder = Recorder(options.paths, new_record(request_of(options, services), services.system, "hook"))
    try:
        recorder.update(
            finished=timestamp(),
            status=Status.DEGRADED,
            exit=int(error.exit),
            errors=(error.to_dict(),),
            settled=True,
        )
    except OSError as trouble:
        LOG.error("the record cannot be written: %s", trouble)
    return Result("hook", "error", Status.DEGRADED, {}, (error.to_dict(),), services.run_id, int(error.exit))
