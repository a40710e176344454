"""``hook EVENT``: the verb that custom actions call. It starts a detached worker and waits for it for a bounded time.

A hook returns long before any limit of ParallelCluster and exits 0 whatever fails; with ``--strict`` it exits with the
code of the run, which the record has in any case. The worker is the same program; it holds neither stdout nor stderr of
the hook, because ParallelCluster's executor waits until every process has closed them.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

from ..cluster.detect import read_cluster
from ..cluster.limits import OTHER_SECONDS
from ..core.deadlines import HEARTBEAT
from ..core.errors import PetalError, UsageError, WaitTimeout, from_error
from ..core.model import Outcome, Result, Role, RunRecord, Status
from ..core.options import Options
from ..engine.configuration import check_config_uri
from ..engine.converge import status_of
from ..engine.recorder import Recorder, crash
from ..host import systemd
from ..host.files import make_dir
from ..host.log import LOG
from ..host.processes import has_process
from ..state.context import Services
from ..state.runs import Runs
from ..steps.self_install import keep_archive
from .common import require_root, result_of_run

UNIT = "petal-node-worker"
UNKNOWN_BUDGET = 120.0  # of a head node whose worker has not written its record yet
STARTED = "PETAL_HOOK_STARTED"  # seconds since boot at which the hook script started
SHELLS = frozenset({"SUDO_USER", "SSH_CONNECTION"})  # set in the shell of an operator, not in ParallelCluster
POLL_SECONDS = 0.05
RESTART_SECONDS = 10.0  # systemd starts a killed worker again within this time
WORKER_LOGS = ("journalctl -u 'petal-node-worker-*'", "less /var/log/petal-node-worker.log")
# The worker of a checkout; its first argument is the checkout.
FROM_CHECKOUT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootstrap.cli import entry; entry()"


def hook(options: Options, services: Services) -> Result[RunRecord]:
    """Runs one event of this node's life. A failure, also a bug, is recorded."""
    try:
        record = _through_worker(options, services)
    except (PetalError, OSError) as error:
        record = _recorded(options, services, from_error(error, None))
    except Exception as error:  # noqa: BLE001 - a bug is recorded like a failure
        record = _recorded(options, services, crash(error, options.paths, services.run_id))
    return result_of_run(record)


def _through_worker(options: Options, services: Services) -> RunRecord:
    """Starts the worker and waits for it. The time that the hook script used counts too."""
    if options.words or not options.event:
        raise UsageError(
            "the arguments of the hook cannot be used",
            why=" ".join(options.words),
            remedy=("petal-node hook --help", "correct Args in the cluster configuration"),
            code="hook-usage",
        )
    require_root(options, services)
    if options.config is not None:
        check_config_uri(options.config)  # refuses a URI with a secret: every user can list the arguments of a process
    paths = options.paths
    started = os.environ.pop(STARTED, "")
    is_typed = not started or not SHELLS.isdisjoint(os.environ)
    if is_typed and paths.live:
        systemd.take_environment()
    try:
        spent = max(0.0, services.system.clock() - float(started))
    except ValueError:
        spent = 0.0
    make_dir(paths.runs)
    make_dir(paths.log.parent)
    systemd.detach(
        _worker_argv(options, services),
        services.system,
        unit=f"{UNIT}-{services.run_id.lower()}" if paths.live else None,  # its environment file is outside of --root
        output=paths.log.parent / "petal-node-worker.log",
        is_typed=is_typed,
    )
    return _wait(options, services, Runs(paths), spent)


def _worker_argv(options: Options, services: Services) -> list[str]:
    """The command line of the worker. Its archive stays, also if systemd starts the worker again.

    That of this process may not: another hook removes a download that it has installed, and ParallelCluster deletes a
    custom action that has ended.
    """
    archive = services.tool.archive
    if archive is None:
        program = [sys.executable, "-c", FROM_CHECKOUT, str(Path(__file__).resolve().parents[2])]
    else:
        try:
            program = [str(keep_archive(services.tool, options.paths))]
        except (PetalError, OSError) as error:  # the step self-install reports it
            LOG.warning("the worker runs from %s: %s", archive, error)
            program = [str(archive)]
    run = ["--event", options.event, "--run-id", services.run_id]
    return [*program, "worker", *run, *options.common_arguments(), "--quiet"]


def _wait(options: Options, services: Services, runs: Runs, spent: float) -> RunRecord:
    """Returns when every step that a hook waits for has ended, or the budget is used up and the worker continues alone.

    ``spent`` seconds of the budget were used before.

    Raises:
        WaitTimeout: the worker wrote no record, or was killed and systemd did not start it again.
    """
    role = options.role or read_cluster(options.paths).role
    unknown = UNKNOWN_BUDGET if role in (None, Role.HEAD) else OTHER_SECONDS
    started = time.monotonic() - spent
    heartbeat = time.monotonic()
    listed: set[str] = set()
    lost: float | None = None
    while True:
        record = runs.load(services.run_id)
        if record is not None:
            _list_steps(services, record, listed)
            if record.hook_may_return:
                return _as_returned(services, record)
        now = time.monotonic()
        budget = unknown if record is None or record.budget is None else record.budget
        if now - started > budget:
            if record is not None:
                return replace(record, status=Status.RUNNING, exit=0)
            why = f"it wrote no record within {budget:.0f} s"
            raise WaitTimeout("the worker did not start", why=why, remedy=WORKER_LOGS, code="worker-missing")
        lost = None if record is None or has_process(record.pid, record.process_start) else lost or now
        if lost is not None and now - lost > RESTART_SECONDS:
            remedy = ("petal-node bootstrap", *WORKER_LOGS)
            why = f"its process ended, and systemd did not start it again within {RESTART_SECONDS:.0f} s"
            raise WaitTimeout("the worker was killed", why=why, remedy=remedy, code="worker-missing")
        if now - heartbeat > HEARTBEAT:
            heartbeat = now
            running = [step for step in record.steps if step.outcome.is_running] if record else []
            activity = f"{running[-1].name}: {running[-1].headline}" if running else "starting"
            services.note(f"{activity} ({now - started:.0f} s of {budget:.0f} s)")
        time.sleep(POLL_SECONDS)


def _list_steps(services: Services, record: RunRecord, listed: set[str]) -> None:
    """Shows each step that has ended or waits, once."""
    for step in record.steps:
        event = f"{step.name} waits" if step.outcome is Outcome.WAITING else step.name
        if step.outcome is not Outcome.RUNNING and event not in listed:
            listed.add(event)
            services.listen(step)


def _as_returned(services: Services, record: RunRecord) -> RunRecord:
    """The record with the result of the hook, which does not depend on the steps that continue after it."""
    if record.finished is not None:
        return record
    for step in record.steps:
        if step.outcome is Outcome.RUNNING and not step.background:  # users wait for it, but not for the proof
            services.listen(replace(step, outcome=Outcome.WAITING))
    status = status_of([step for step in record.steps if not step.outcome.is_running])
    status = Status.DEGRADED if status is Status.FAILED else status
    return replace(record, status=status, exit=int(status.exit))


def _recorded(options: Options, services: Services, error: PetalError) -> RunRecord:
    """The record of a hook that failed before its worker started, as written."""
    LOG.error("%s", error)
    recorder = Recorder(options, services)
    try:
        recorder.close(Status.DEGRADED, error.exit, error.to_dict())
    except OSError as write_error:
        LOG.error("the record cannot be written: %s", write_error)
    return recorder.record
