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
from ..core.errors import ExitCode, PetalError, UsageError, WaitTimeout, from_os_error
from ..core.model import Outcome, Result, Role, RunRecord, Status, Tool
from ..core.options import Options
from ..core.paths import Paths
from ..engine.configuration import check_config_uri
from ..engine.recorder import Recorder, crash, new_record
from ..engine.run import run
from ..host import systemd
from ..host.files import make_dir
from ..host.log import LOG
from ..host.processes import has_process
from ..host.times import timestamp
from ..state.context import Services
from ..state.store import Runs
from ..steps.self_install import keep_archive
from .common import require_root, result_of_run

UNIT = "petal-node-worker"
UNKNOWN_BUDGET = 120.0  # of a head node whose worker has not written its record yet
STARTED = "PETAL_HOOK_STARTED"  # seconds since boot at which the hook script started
POLL_SECONDS = 0.05
HEARTBEAT_SECONDS = 60.0
RESTART_SECONDS = 10.0  # systemd starts a killed worker again within this time
WORKER_LOGS = ("journalctl -u 'petal-node-worker-*'", "less /var/log/petal-node-worker.log")
# The worker of a checkout; its first argument is the checkout.
FROM_CHECKOUT = "import sys; sys.path.insert(0, sys.argv.pop(1)); from bootstrap.cli import entry; entry()"


def hook(options: Options, services: Services) -> Result[RunRecord | None]:
    """Runs one event of this node's life."""
    if options.words or not options.event:
        return _refuse(options, services)
    try:
        require_root(options, services)
        record = _through_worker(options, services)
        result: Result[RunRecord | None] = result_of_run("hook", record)
    except PetalError as error:
        result = _recorded(options, services, error)
    except OSError as error:
        result = _recorded(options, services, from_os_error(error, options.paths.shared_mount))
    except Exception as error:  # noqa: BLE001 - promise 1 also holds for bugs
        bug = crash(error, options.paths, services.run_id)
        result = Result("hook", Status.DEGRADED, None, (bug,), services.run_id, int(ExitCode.BUG))
    return _ended(result, strict=options.strict)


def _refuse(options: Options, services: Services) -> Result[RunRecord | None]:
    """Records that the arguments are wrong, and does nothing else."""
    error = UsageError(
        "the arguments of the hook cannot be used",
        why=" ".join(options.words),
        remedy=("petal-node hook --help", "correct Args in the cluster configuration"),
        code="hook-usage",
    )
    return _ended(_recorded(options, services, error), strict=options.strict)


def _ended(result: Result[RunRecord | None], *, strict: bool) -> Result[RunRecord | None]:
    return result if strict else replace(result, exit=int(ExitCode.OK))


def worker(options: Options, services: Services) -> Result[RunRecord]:
    """The detached process: does the work and writes the record that the hook reads."""
    return result_of_run("hook", run(options, services))


def _through_worker(options: Options, services: Services) -> RunRecord:
    """Starts the worker and waits for it. The time that the hook script used counts too."""
    if options.config is not None:
        check_config_uri(options.config)  # refuses a URI with a secret: every user can list the arguments of a process
    paths = options.paths
    try:
        spent = max(0.0, services.system.clock() - float(os.environ.pop(STARTED, "")))
    except ValueError:
        spent = 0.0
    make_dir(paths.runs)
    make_dir(paths.log.parent)
    systemd.detach(
        _worker_argv(options, services),
        services.system,
        unit=f"{UNIT}-{services.run_id.lower()}" if paths.live else None,  # its environment file is outside of --root
        output=paths.log.parent / "petal-node-worker.log",
    )
    return _wait(options, services, Runs(paths), spent)


def _worker_argv(options: Options, services: Services) -> list[str]:
    if services.tool.archive is not None:
        program = [str(_lasting_archive(services.tool, options.paths))]
    else:
        program = [sys.executable, "-c", FROM_CHECKOUT, str(Path(__file__).resolve().parents[2])]
    run = ["--event", options.event, "--run-id", services.run_id]
    return [*program, "worker", *run, *options.common_arguments(), "--quiet"]


def _lasting_archive(tool: Tool, paths: Paths) -> Path:
    """The archive that the worker runs from, also if systemd starts the worker again.

    It is not the archive of this process: another hook removes a download that it has installed, and ParallelCluster
    deletes a custom action that has ended.
    """
    assert tool.archive is not None
    try:
        return keep_archive(tool, paths)
    except (PetalError, OSError) as error:  # the step self-install reports it
        LOG.warning("the worker runs from %s: %s", tool.archive, error)
        return tool.archive


def _wait(options: Options, services: Services, runs: Runs, spent: float) -> RunRecord:
    """Returns when every step that a hook waits for has ended, or the budget is used up and the worker continues alone.

    Args:
        spent: seconds of the budget that were used before.

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
        lost = None if record is None or has_process(record.pid) else lost or now
        if lost is not None and now - lost > RESTART_SECONDS:
            remedy = ("petal-node bootstrap", *WORKER_LOGS)
            why = f"its process ended, and systemd did not start it again within {RESTART_SECONDS:.0f} s"
            raise WaitTimeout("the worker was killed", why=why, remedy=remedy, code="worker-missing")
        if now - heartbeat > HEARTBEAT_SECONDS:
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
    ended = [step for step in record.steps if not step.outcome.is_running]
    for step in record.steps:
        if step.outcome is Outcome.RUNNING and not step.background:  # users wait for it, but not for the proof
            services.listen(replace(step, outcome=Outcome.WAITING))
    failed = any(step.error or not step.outcome.holds for step in ended)
    changed = any(step.outcome is Outcome.CHANGED for step in ended)
    status = Status.DEGRADED if failed else Status.CHANGED if changed else Status.OK
    return replace(record, status=status, exit=int(status.exit))


def _recorded(options: Options, services: Services, error: PetalError) -> Result[RunRecord]:
    """Writes the record of a hook that failed before its worker started."""
    LOG.error("%s", error)
    recorder = Recorder(options.paths, new_record(options, services))
    try:
        recorder.update(
            finished=timestamp(),
            status=Status.DEGRADED,
            exit=int(error.exit),
            errors=(error.to_dict(),),
            hook_may_return=True,
        )
    except OSError as write_error:
        LOG.error("the record cannot be written: %s", write_error)
    return result_of_run("hook", recorder.record)
