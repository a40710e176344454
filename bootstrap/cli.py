"""The command line: arguments -> a verb -> its Result -> the exit code. No logic, and no printing but through report.

Everything that a verb needs is imported when it is called: ``version`` answers in the time that Python needs to start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from . import __version__

if TYPE_CHECKING:
    import argparse

    from .model import Result
    from .verbs.common import Asked

IMAGES = ("hybrid", "ami")
EVENTS = ("start", "configured", "updated")
INNER = ("worker", "build-job", "mpi-rank")
LOCK_WAIT = 7200.0
REPAIR_WAIT = 60.0
STATUS_WAIT = 3600.0
LOG_LEVELS = ("debug", "info", "warning", "error")


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
    from . import report
    from .log import close_log, open_log
    from .processes import mark_run

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

    from .model import Role
    from .report import Progress
    from .system import System, new_run_id
    from .tool import own_tool
    from .verbs.common import Asked

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
    from .errors import PetalError, of_os_error
    from .model import Result, Status
    from .run import crash

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
    from .verbs import hook

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
    from .verbs import hook

    event = next((word for word in arguments.words if word in EVENTS), "")
    return hook.refuse(asked, event, " ".join(arguments.words), strict=arguments.strict)


def _worker(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs import hook

    return hook.worker(asked, arguments.event)


def _build_job(asked: Asked, arguments: argparse.Namespace) -> Result:
    from pathlib import Path

    from .verbs.build import build

    return build(asked, Path(arguments.place))


def _mpi_rank(asked: Asked, arguments: argparse.Namespace) -> Result:
    from . import report
    from .verbs.rank import rank

    return rank(asked, arguments.loaded, report.tell)


def _bootstrap(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.bootstrap import bootstrap

    return bootstrap(asked, arguments.lock_wait, accept_storage=arguments.accept_storage, image=arguments.layout)


def _lock(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.lock import lock

    return lock(asked, arguments.output)


def _converge(asked: Asked, _: argparse.Namespace) -> Result:
    from .verbs.bootstrap import converge

    return converge(asked)


def _plan(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.bootstrap import plan

    return plan(asked, exit_code=arguments.exit_code)


def _repair(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.repair import plan_repair, repair

    if arguments.dry_run:
        return plan_repair(asked, yes=arguments.yes, deep=arguments.deep)
    return repair(asked, arguments.lock_wait, yes=arguments.yes, deep=arguments.deep)


def _check(asked: Asked, arguments: argparse.Namespace) -> Result:
    from . import report
    from .verbs import check

    if arguments.html:
        report.try_page(arguments.html)
    if arguments.nodes or arguments.queue:
        result = check.check_nodes(asked, arguments.nodes or "all", arguments.queue, short=arguments.short)
    else:
        result = check.check(asked, as_lines=arguments.lines, short=arguments.short)
    if arguments.html:
        report.write_page(result, arguments.html)
    return result


def _status(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.status import status, wait

    return wait(asked, arguments.timeout) if arguments.wait else status(asked)


def _log(asked: Asked, arguments: argparse.Namespace) -> Result:
    from .verbs.log import log

    return log(asked, arguments.run, arguments.level, arguments.lines)


def _facts(asked: Asked, _: argparse.Namespace) -> Result:
    from .verbs.about import facts

    return facts(asked)


def _version(asked: Asked, _: argparse.Namespace) -> Result:
    from .verbs.about import version

    return version(asked)


def _parser(*, inner: bool = True) -> argparse.ArgumentParser:
    """The whole command line.

    Args:
        inner: with the verbs that nobody types, so that an unknown verb's choices do not name them.
    """
    import argparse

    parser = argparse.ArgumentParser(
        prog="petal-node",
        allow_abbrev=False,  # a slip of the finger is none of --accept-storage
        parents=[_common(given=True)],
        description="Makes HPC software work on every node of an AWS ParallelCluster.",
        epilog="Exit codes: 0 fine, 1 a step failed, 2 wrong usage, 3 degraded or findings, 69 no usable Python, "
        "70 a bug, 75 try again, 77 not root, 78 configuration, 130 and 143 interrupted.",
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = _common(given=False)

    def verb(name: str, text: str, call: Callable[[Asked, argparse.Namespace], Result]) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text, parents=[common], allow_abbrev=False)
        added.set_defaults(call=call)
        return added

    if inner:
        worker = verbs.add_parser("worker", parents=[common], allow_abbrev=False)
        worker.set_defaults(call=_worker)
        worker.add_argument("--event", choices=EVENTS, required=True)
        worker.add_argument("--run-id", type=_run_id, required=True)
        job = verbs.add_parser("build-job", parents=[common], allow_abbrev=False)
        job.set_defaults(call=_build_job)
        job.add_argument("--run-id", type=_run_id, required=True)
        job.add_argument("place")
        rank = verbs.add_parser("mpi-rank", parents=[common], allow_abbrev=False)
        rank.set_defaults(call=_mpi_rank)
        rank.add_argument("--loaded", type=int, default=0)
    _hook_options(verb("hook", "what ParallelCluster's custom actions call", _hook))
    wait = verb("bootstrap", "make this node what the configuration says", _bootstrap)
    wait.add_argument(
        "--lock-wait",
        type=float,
        default=LOCK_WAIT,
        metavar="SECONDS",
        help="how long to wait for another installer (default %(default).0f)",
    )
    wait.add_argument(
        "--accept-storage",
        action="store_true",
        help="shared storage is another file system than before, or has served another cluster, which is gone, and "
        "it is meant; on the head node for all nodes",
    )
    wait.add_argument(
        "--layout",
        choices=IMAGES,
        help="make this machine, which is no node of a cluster, an image for nodes with this layout",
    )
    pending = verb("plan", "what bootstrap would do now; changes nothing", _plan)
    pending.add_argument("--exit-code", action="store_true", help="end with 3 when there is something to change")
    solved = verb("lock", "solve the stack here and write its lockfile, which can then be the stack", _lock)
    solved.description = (
        "Solves the stack of --config for this operating system, glibc and compiler and for the targets of the "
        "configuration, as an install here would, and installs nothing. The lockfile is Spack's own spack.lock with "
        "one key more, which says what it was made for. Run it on the head node, or on any machine of its image: it "
        "needs gcc, g++ and memory for Spack's solver, no cluster and no shared storage. What it prints at the end "
        "goes into petal.yaml; from then on head nodes install without clingo and with little memory."
    )
    solved.add_argument(
        "--output",
        default="spack.lock",
        metavar="URI",
        help="where to put it: a path, file:// or s3://; what ends with / or is a directory gets a file that is named "
        "after its checksum (default: %(default)s)",
    )
    verb("converge", "what the service at boot runs: become what the cluster wants", _converge)
    where = verb("status", "where this node and its cluster stand", _status)
    where.add_argument("--wait", action="store_true", help="until the node is ready (0), or stays degraded (3)")
    where.add_argument(
        "--timeout",
        type=float,
        default=STATUS_WAIT,
        metavar="SECONDS",
        help="of --wait; then 75 (default %(default).0f)",
    )
    which = verb("check", "can this node, or the compute nodes, use the software?", _check)
    which.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    which.add_argument("--nodes", metavar="all|idle|LIST", help="ask compute nodes through Slurm, as a job of the user")
    which.add_argument("--queue", metavar="NAME", help="of --nodes, those of this queue; alone: all of it")
    which.add_argument("--short", action="store_true", help="a line for each trouble, and the total")
    which.add_argument("--html", metavar="FILE", help="the table as a page that needs nothing else, too")
    _repair_options(verb("repair", "mend what the checks find, where that is safe", _repair))
    _log_options(verb("log", "what happened on this node, run by run", _log))
    verb("facts", "what petal-node sees of this node", _facts)
    verb("version", "the version", _version)
    return parser


def _repair_options(repair: argparse.ArgumentParser) -> None:
    repair.add_argument("--dry-run", action="store_true", help="what it would do; ends with 3 where that is anything")
    repair.add_argument(
        "--yes", action="store_true", help="also what takes away something that may be needed, or was done on purpose"
    )
    repair.add_argument("--deep", action="store_true", help="compare every byte of the packages, not only what changed")
    repair.add_argument(
        "--lock-wait", type=float, default=REPAIR_WAIT, metavar="SECONDS", help="for an install (default %(default).0f)"
    )


def _log_options(log: argparse.ArgumentParser) -> None:
    log.add_argument("--run", metavar="ID", help="all of this run, from --level on; the beginning of its id is enough")
    log.add_argument("--level", choices=LOG_LEVELS, default="info", help="the least to show (default %(default)s)")
    log.add_argument(
        "-n", "--lines", type=_positive, default=50, metavar="N", help="how many, the newest (default %(default)s)"
    )


def _positive(text: str) -> int:
    import argparse

    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _run_id(text: str) -> str:
    """A run's id becomes a file's name."""
    from .shapes import name

    return name(text)


def _sha256(text: str) -> str:
    """A checksum, in the case that sha256sum prints."""
    from .shapes import sha256

    return sha256(text.lower())


def _common(*, given: bool) -> argparse.ArgumentParser:
    """The options that every verb takes, before it and behind it.

    Args:
        given: with the defaults; behind the verb they would undo what stands before it.
    """
    import argparse

    common = argparse.ArgumentParser(add_help=False, argument_default=None if given else argparse.SUPPRESS)
    top, unless = ("/", False) if given else (argparse.SUPPRESS, argparse.SUPPRESS)
    common.add_argument(
        "--config",
        metavar="URI",
        help="petal.yaml: a path, file://, s3:// or https:// (default: what the cluster wants)",
    )
    common.add_argument("--config-sha256", type=_sha256, metavar="HEX", help="the checksum that --config must have")
    common.add_argument("--role", choices=["head", "compute", "login"], help="do not ask the node for its role")
    common.add_argument("--root", default=top, metavar="DIR", help="act on the tree below DIR (image builds, tests)")
    common.add_argument("--json", action="store_true", default=unless, help="one JSON envelope on stdout")
    common.add_argument("-q", "--quiet", action="store_true", default=unless, help="errors only")
    return common


def _hook_options(hook: argparse.ArgumentParser) -> None:
    hook.add_argument(
        "event_name", choices=EVENTS, metavar="start|configured|updated", help="the event of this node's life"
    )
    hook.add_argument("--strict", action="store_true", help="end with the verb's own exit code instead of 0")
    # Args of the hook script that are done with when it calls us
    hook.add_argument("--package", metavar="URI", help="where the hook script got this archive from")
    hook.add_argument("--sha256", metavar="HEX", help="the checksum that the hook script verified")
