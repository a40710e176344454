"""The command line: arguments -> a verb -> its Result -> the exit code. No logic, and no printing but through report.

Everything that a verb needs is imported when it is called: ``version`` answers in the time that Python needs to start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    import argparse

    from .commands.common import Asked
    from .core.model import Result

INNER = ("worker", "build-job", "mpi-rank")


def entry() -> None:
    """The program ``petal-node``. Modes are ours, and Spack's and tar's too, not those of whoever's umask it was."""
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if list(argv) in (["version"], ["--version"]):
        sys.stdout.write(f"petal-node {__version__}\n")
        return 0
    try:
        return _run(_parser(inner=bool(argv) and argv[0] in INNER).parse_args(argv))
    except SystemExit as ended:  # argparse has said what is wrong
        code = ended.code if isinstance(ended.code, int) else 2
        return _run(_refused_hook(argv)) if code and list(argv[:1]) == ["hook"] else code


def _run(arguments: argparse.Namespace) -> int:
    from .host.log import close_log, open_log
    from .host.processes import mark_run
    from .report import render as report

    progress = report.Progress(silent=arguments.json or arguments.quiet)
    asked = _asked(arguments, progress)
    mark_run(asked.run_id)
    if asked.system.is_root() or not asked.paths().live:
        open_log(asked.paths().log, asked.run_id)
    try:
        result = _guarded(asked, arguments)
    finally:
        progress.close()
    report.show(result, as_json=arguments.json, quiet=arguments.quiet, steps_told=progress.told)
    close_log()
    return result.exit_code


def _asked(arguments: argparse.Namespace, progress: object) -> Asked:
    from pathlib import Path

    from .commands.common import Asked
    from .core.model import Role
    from .host.system import System, new_run_id
    from .host.tool import own_tool
    from .report.render import Progress

    assert isinstance(progress, Progress)
    return Asked(
        command=arguments.verb,
        tool=own_tool(__version__, os.environ.get("PETAL_ARCHIVE")),
        system=System(),
        run_id=getattr(arguments, "run_id", None) or new_run_id(),
        config=_absolute(arguments.config),
        config_sha256=arguments.config_sha256,
        prefix=Path(arguments.root).resolve(),
        role=Role(arguments.role) if arguments.role else None,
        listen=progress.step,
        note=progress.note,
    )


def _absolute(config: str | None) -> str | None:
    """A relative path as this directory means it: the worker runs elsewhere."""
    return config if config is None or ":" in config else os.path.abspath(config)  # noqa: PTH100 - keeps links


def _guarded(asked: Asked, arguments: argparse.Namespace) -> Result:
    """Expected errors become results here, and so do bugs: no traceback ever reaches an operator."""
    from .core.errors import PetalError, of_os_error
    from .core.model import Result, Status
    from .engine.run import crash

    try:
        verb: Callable[[Asked, argparse.Namespace], Result] = arguments.call
        return verb(asked, arguments)
    except PetalError as error:
        return Result.of_error(asked.command, error, asked.run_id)
    except OSError as error:
        return Result.of_error(asked.command, of_os_error(error, asked.paths().shared_mount), asked.run_id)
    except KeyboardInterrupt:
        interrupted = {"code": "interrupted", "what": "interrupted", "why": "", "remedy": []}
        return Result(asked.command, "error", Status.FAILED, {}, (interrupted,), asked.run_id, 130)
    except Exception as error:  # noqa: BLE001 - the last door before the operator
        bug = crash(error, asked.paths(), asked.run_id)
        return Result(asked.command, "error", Status.FAILED, {}, (bug,), asked.run_id, 70)


def _hook(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands import hook

    return hook.hook(asked, arguments.event_name, strict=arguments.strict)


def _refused_hook(argv: Sequence[str]) -> argparse.Namespace:
    """A hook whose arguments nobody understands: stderr is thrown away on a node, a record is not."""
    import argparse

    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--root", nargs="?", default="/", const="/")
    known.set_defaults(config=None, config_sha256=None, role=None, json=False, quiet=False)
    known.set_defaults(verb="hook", call=_hook_usage, words=list(argv[1:]), strict="--strict" in argv)
    return known.parse_known_args(argv)[0]


def _hook_usage(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands import hook
    from .commands.arguments import EVENTS

    event = next((word for word in arguments.words if word in EVENTS), "")
    return hook.refuse(asked, event, " ".join(arguments.words), strict=arguments.strict)


def _worker(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands import hook

    return hook.worker(asked, arguments.event)


def _build_job(asked: Asked, arguments: argparse.Namespace) -> Result:
    from pathlib import Path

    from .commands.build import build

    return build(asked, Path(arguments.place))


def _mpi_rank(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.rank import rank
    from .report import render as report

    return rank(asked, arguments.loaded, report.tell)


def _bootstrap(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.bootstrap import bootstrap

    return bootstrap(asked, arguments.lock_wait, accept_storage=arguments.accept_storage, image=arguments.layout)


def _lock(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.lock import lock

    return lock(asked, arguments.output)


def _converge(asked: Asked, _: argparse.Namespace) -> Result:
    from .commands.bootstrap import converge

    return converge(asked)


def _plan(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.bootstrap import plan

    return plan(asked, exit_code=arguments.exit_code)


def _repair(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.repair import plan_repair, repair

    if arguments.dry_run:
        return plan_repair(asked, yes=arguments.yes, deep=arguments.deep)
    return repair(asked, arguments.lock_wait, yes=arguments.yes, deep=arguments.deep)


def _check(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands import check
    from .report import render as report

    if arguments.html:
        report.try_page(arguments.html)
    if arguments.nodes:
        result = check.check_nodes(asked, arguments.nodes)
    else:
        result = check.check(asked, as_lines=arguments.lines)
    if arguments.html:
        report.write_page(result, arguments.html)
    return result


def _status(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.status import status, wait

    return wait(asked, arguments.timeout) if arguments.wait else status(asked)


def _releases(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.releases import releases

    return releases(asked, sizes=not arguments.no_sizes)


def _rollback(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.releases import rollback

    return rollback(asked, arguments.release, arguments.lock_wait)


def _gc(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.releases import gc

    return gc(asked, arguments.keep, arguments.lock_wait, yes=arguments.yes)


def _log(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .commands.log import log

    return log(asked, arguments.run, arguments.level, arguments.lines)


def _facts(asked: Asked, _: argparse.Namespace) -> Result:
    from .commands.about import facts

    return facts(asked)


def _version(asked: Asked, _: argparse.Namespace) -> Result:
    from .commands.about import version

    return version(asked)


CALLS: Mapping[str, Callable[[Asked, argparse.Namespace], Result]] = {
    "hook": _hook,
    "worker": _worker,
    "build-job": _build_job,
    "mpi-rank": _mpi_rank,
    "bootstrap": _bootstrap,
    "plan": _plan,
    "lock": _lock,
    "converge": _converge,
    "status": _status,
    "check": _check,
    "repair": _repair,
    "releases": _releases,
    "rollback": _rollback,
    "gc": _gc,
    "log": _log,
    "facts": _facts,
    "version": _version,
}


def _parser(*, inner: bool = True) -> argparse.ArgumentParser:
    from .commands.arguments import parser

    return parser(CALLS, inner=inner)
