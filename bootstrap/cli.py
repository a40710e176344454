"""The command line: arguments -> ``Options`` -> a verb -> its ``Result`` -> the exit code.

Everything that a verb needs is imported when it is called: ``version`` takes little longer than a bare Python.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from . import __version__

if TYPE_CHECKING:
    import argparse

    from .core.model import Result, Tool
    from .core.options import Options
    from .state.context import Services

EVENTS = ("start", "configured", "updated")
LAYOUTS = ("hybrid", "ami")  # those that need a machine image
LOG_LEVELS = ("debug", "info", "warning", "error")
DESCRIPTION = "Install and prove HPC software on every node of an AWS ParallelCluster."
EXIT_CODES = """\
Options can be before or after the verb. Help for a verb: petal-node VERB --help

Exit codes: 0 success, 1 a step failed, 2 wrong usage, 3 degraded or findings,
69 no usable Python, 70 a bug, 75 try again, 77 not root, 78 configuration error,
130 interrupted, 143 terminated."""


def entry() -> None:
    """The program ``petal-node``. The caller's umask applies neither to us nor to Spack and tar."""
    os.umask(0o022)
    sys.exit(main(sys.argv[1:]))


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns its exit code."""
    if list(argv) in (["version"], ["--version"]):
        sys.stdout.write(f"petal-node {__version__}\n")
        return 0
    try:
        options = parse(argv or ["--help"])
    except SystemExit as ended:  # argparse has printed the help or the mistake
        code = ended.code if isinstance(ended.code, int) else 2
        if code == 0 or argv[0] != "hook":
            return code
        options = _refused_hook(argv)
    return _run(options)


def _own_tool(archive: str) -> Tool:
    """This petal-node; the loader of the archive puts the archive's path into PETAL_ARCHIVE."""
    from pathlib import Path

    from .core.model import Tool
    from .host.files import sha256_of

    path = Path(archive)
    return Tool(__version__, path, sha256_of(path)) if archive and path.is_file() else Tool(__version__)


def _run(options: Options) -> int:
    from .host.log import close_log, open_log
    from .host.processes import mark_run
    from .host.system import System
    from .host.times import new_run_id
    from .report import render as report
    from .state.context import Services

    progress = report.Progress(silent=options.json or options.quiet)
    tool, system = _own_tool(os.environ.get("PETAL_ARCHIVE", "")), System()
    services = Services(tool, system, options.run_id or new_run_id(), progress.step, progress.note)
    mark_run(services.run_id)
    if system.is_root() or not options.paths.live:
        open_log(options.paths.log, services.run_id)
    try:
        result = _guarded(options, services)
    finally:
        progress.close()
    report.show(result, options, steps_shown=progress.shown)
    close_log()
    return result.exit_code


def _guarded(options: Options, services: Services) -> Result[object]:
    """Runs the verb. Expected errors and bugs become results: an operator never sees a traceback."""
    from importlib import import_module

    from .core.errors import PetalError, from_os_error
    from .core.model import Result, Status, failed
    from .engine.recorder import crash

    run_id = services.run_id
    try:
        module, _, name = VERBS[options.command].function.partition(".")
        function = getattr(import_module(f".commands.{module}", __package__), name)
        result: Result[object] = function(options, services)
    except PetalError as error:
        return failed(options.command, error, run_id)
    except OSError as error:
        return failed(options.command, from_os_error(error, options.paths.shared_mount), run_id)
    except KeyboardInterrupt:
        interrupted = {"code": "interrupted", "what": "interrupted", "why": "", "remedy": []}
        return Result(options.command, Status.FAILED, None, (interrupted,), run_id, 130)
    except Exception as error:  # noqa: BLE001 - nothing above this catches it
        bug = crash(error, options.paths, run_id)
        return Result(options.command, Status.FAILED, None, (bug,), run_id, 70)
    return result


# ------------------------------------------------------------------------------------------------- the argument tree


def parse(argv: Sequence[str]) -> Options:
    """The options of a command line.

    Raises:
        SystemExit: the arguments are wrong, or ask for help; argparse has printed it.
    """
    from argparse import REMAINDER, SUPPRESS

    shown = {name: verb.help for name, verb in VERBS.items() if verb.help}
    verbs = "\n".join(f"  {name:<10} {text}" for name, text in shown.items())
    top = _parser("", f"{DESCRIPTION}\n\nVerbs:\n{verbs}", EXIT_CODES)
    top.usage = "petal-node [options] VERB [options]"
    top.add_argument("command", metavar="VERB", nargs="?", help=SUPPRESS)
    top.add_argument("rest", nargs=REMAINDER, help=SUPPRESS)
    typed = top.parse_args(argv)
    rest = vars(typed).pop("rest")
    if not hasattr(typed, "command"):
        top.error(f"the verb is missing (verbs: {', '.join(shown)})")
    verb = VERBS.get(typed.command)
    if verb is None:
        from .core.errors import did_you_mean

        top.error(f"unknown verb {typed.command!r}{did_you_mean(typed.command, shown)} (verbs: {', '.join(shown)})")
    parser = _parser(f" {typed.command}", verb.description or verb.help, takes_config=verb.takes_config)
    if verb.add_options is not None:
        verb.add_options(parser)
    options = _options(vars(parser.parse_args(rest, typed)))
    if (options.config or options.config_sha256) and not verb.takes_config:
        bootstrap = f"petal-node bootstrap --config {options.config or 'FILE'}"
        parser.error(f"{options.command} has no --config: it works on installed software. See {bootstrap}")
    return options


def _options(typed: dict[str, Any]) -> Options:
    """What argparse has read, with the types that the verbs use."""
    from pathlib import Path

    from .core.model import Role
    from .core.options import Options

    config = typed.get("config")
    if config and ":" not in config:  # a hook's worker runs in another directory
        typed["config"] = os.path.abspath(config)  # noqa: PTH100 - keeps links
    if "role" in typed:
        typed["role"] = Role(typed["role"])
    for name in {"root", "html", "directory"} & set(typed):
        typed[name] = Path(typed[name]).resolve()
    for name in ("package", "sha256"):  # Args of the hook script
        typed.pop(name, None)
    return Options(**typed)


def _refused_hook(argv: Sequence[str]) -> Options:
    """A hook with wrong arguments. It is recorded, because ParallelCluster throws a hook's stderr away."""
    import argparse
    from pathlib import Path

    from .core.options import Options

    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--root", nargs="?", default="/", const="/")
    root = Path(known.parse_known_args(argv)[0].root).resolve()
    event = next((word for word in argv if word in EVENTS), "")
    return Options("hook", root=root, event=event, words=tuple(argv), strict="--strict" in argv)


def _parser(verb: str, description: str, epilog: str = "", *, takes_config: bool = True) -> argparse.ArgumentParser:
    """A parser with the common options. An option that was not typed is not set: ``Options`` has the defaults."""
    import argparse

    parser = argparse.ArgumentParser(
        prog="petal-node" + verb,
        description=description,
        epilog=epilog,
        allow_abbrev=False,  # --accept-stor must not count as --accept-storage
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument_group("common options").add_argument
    config = "petal.yaml: path, file://, s3:// or https:// (default: the cluster's own)"
    checksum = "refuse --config if its SHA-256 differs"
    add("--config", metavar="URI", help=config if takes_config else argparse.SUPPRESS)
    add("--config-sha256", type=_sha256, metavar="HEX", help=checksum if takes_config else argparse.SUPPRESS)
    add("--role", choices=["head", "compute", "login"], help="the role of this node (default: detected)")
    add("--root", metavar="DIR", help="act on the tree below DIR instead of / (image builds, tests)")
    add("--json", action="store_true", help="print one JSON object")
    add("-q", "--quiet", action="store_true", help="print errors only")
    return parser


def _flag(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, action="store_true", help=text)


def _seconds(parser: argparse.ArgumentParser, name: str, default: float, text: str) -> None:
    text += " (default: %(default).0f)"
    parser.add_argument(name, type=_number_of_seconds, default=default, metavar="SECONDS", help=text)


def _hook_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("event", choices=EVENTS, metavar="start|configured|updated", help="the event of the node")
    _flag(parser, "--strict", "exit with the verb's own code instead of 0")
    # The hook scripts pass all Args on, and have used these two already.
    parser.add_argument("--package", metavar="URI", help="read by the hook script: where the archive is")
    parser.add_argument("--sha256", metavar="HEX", help="read by the hook script: the checksum of the archive")


def _worker_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--event", choices=EVENTS, required=True)
    parser.add_argument("--run-id", type=_name, required=True)


def _build_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run-id", type=_name, required=True)
    parser.add_argument("directory", metavar="DIR")


def _bootstrap_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import LOCK_WAIT

    _seconds(parser, "--lock-wait", LOCK_WAIT, "how long to wait for another installer")
    _flag(
        parser,
        "--accept-storage",
        "accept a changed shared file system, or one last used by a deleted cluster "
        "(run on the head node; applies to all nodes)",
    )
    text = "make this machine an image for the nodes of a cluster with this layout"
    parser.add_argument("--layout", choices=LAYOUTS, help=text)


def _lockfile_options(parser: argparse.ArgumentParser) -> None:
    text = (
        "destination: path, file:// or s3:// URI. If it is a directory, the file name contains the checksum "
        "(default: spack.lock)"
    )
    parser.add_argument("--output", metavar="URI", help=text)


def _status_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import STATUS_WAIT

    _flag(parser, "--verbose", "also show the facts about this node and the software of its image")
    _flag(parser, "--wait", "wait until the node is ready (exit 0) or stays degraded (exit 3)")
    _seconds(parser, "--timeout", STATUS_WAIT, "how long --wait waits; then exit 75")


def _check_options(parser: argparse.ArgumentParser) -> None:
    import argparse

    parser.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    text = "check compute nodes in a Slurm job that runs as the cluster's user"
    parser.add_argument("--nodes", metavar="all|idle|LIST", help=text)
    parser.add_argument("--html", metavar="FILE", help="also write a self-contained HTML report")


def _repair_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import SHORT_LOCK_WAIT

    _flag(parser, "--dry-run", "show what would be repaired; exit 3 if there is anything")
    _flag(parser, "--yes", "also apply destructive repairs")
    _flag(parser, "--deep", "compare every byte of the packages, not only changed files")
    _seconds(parser, "--lock-wait", SHORT_LOCK_WAIT, "how long to wait for an installer")


def _rollback_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import SHORT_LOCK_WAIT

    text = "a release of `petal-node releases`, or the beginning of its id (default: the previous one)"
    parser.add_argument("release", nargs="?", default=None, type=_release, metavar="ID", help=text)
    _seconds(parser, "--lock-wait", SHORT_LOCK_WAIT, "how long to wait for an installer")


def _gc_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import KEEP, SHORT_LOCK_WAIT

    text = "how many of the newest releases to keep (default: %(default)s)"
    parser.add_argument("--keep", type=_positive, default=KEEP, metavar="N", help=text)
    _flag(parser, "--yes", "remove them")
    _seconds(parser, "--lock-wait", SHORT_LOCK_WAIT, "how long to wait for an installer")


def _log_options(parser: argparse.ArgumentParser) -> None:
    from .core.options import LOG_LINES

    parser.add_argument("--run", metavar="ID", help="show one whole run; the beginning of its id is enough")
    text = "the lowest level to show (default: info)"
    parser.add_argument("--level", choices=LOG_LEVELS, help=text)
    text = "how many of the newest lines to show (default: %(default)s)"
    parser.add_argument("-n", "--lines", dest="number", type=_positive, default=LOG_LINES, metavar="N", help=text)


# Types of arguments: argparse prints the message of ArgumentTypeError, and "invalid NAME value" for a ValueError.


def _number_of_seconds(text: str) -> float:
    from argparse import ArgumentTypeError

    try:
        return float(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a number of seconds") from error


def _positive(text: str) -> int:
    from argparse import ArgumentTypeError

    if not (text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"{text!r} is not a positive number")
    return int(text)


def _release(text: str) -> str:
    from argparse import ArgumentTypeError

    try:
        return _name(text)
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is not a release id: petal-node releases lists them") from error


def _name(text: str) -> str:
    from .core.decode import name

    return name(text)


def _sha256(text: str) -> str:
    from .core.decode import sha256

    return sha256(text.lower())


class Verb(NamedTuple):
    """One verb.

    Args:
        function: module and function below ``commands/``.
        help: one line of ``petal-node --help``; empty for verbs that only programs run.
        add_options: adds the verb's own options.
        description: replaces ``help`` in the verb's own help.
        takes_config: False for verbs that refuse ``--config``, because they work on installed software.
    """

    function: str
    help: str
    add_options: Callable[[argparse.ArgumentParser], object] | None = None
    description: str = ""
    takes_config: bool = True


LOCKFILE = """\
Solve the Spack stack of --config for this operating system, glibc and compiler and for the
configured targets, and install nothing. Run it on the head node or on another machine with
the same image. It needs gcc, g++ and memory for Spack's solver, no cluster and no shared
storage. It prints the lines to add to petal.yaml; head nodes then install without clingo and
with little memory. The lockfile is Spack's spack.lock with one more key, which records the
system that it was made for."""

VERBS: Mapping[str, Verb] = {
    "bootstrap": Verb("bootstrap.bootstrap", "make this node match the configuration", _bootstrap_options),
    "plan": Verb(
        "bootstrap.plan",
        "show what bootstrap would do; change nothing",
        lambda parser: _flag(parser, "--exit-code", "exit 3 if there is something to change"),
    ),
    "status": Verb("status.status", "show the state of this node and of its cluster", _status_options),
    "check": Verb("check.check", "check that this node, or compute nodes, can use the software", _check_options),
    "repair": Verb(
        "repair.repair", "repair what the checks find, if that is safe", _repair_options, takes_config=False
    ),
    "releases": Verb(
        "releases.releases",
        "list the published releases",
        lambda parser: _flag(parser, "--no-sizes", "do not measure the sizes, which reads every package"),
        takes_config=False,
    ),
    "rollback": Verb(
        "releases.rollback", "make the previous or another release current", _rollback_options, takes_config=False
    ),
    "gc": Verb("releases.gc", "list unused releases and packages; --yes removes them", _gc_options, takes_config=False),
    "lockfile": Verb("lockfile.write", "solve the Spack stack and write its lockfile", _lockfile_options, LOCKFILE),
    "log": Verb("log.log", "show the log of this node, by run", _log_options),
    "hook": Verb("hook.hook", "run by ParallelCluster's custom actions", _hook_options),
    "version": Verb("about.version", "print the version"),
    "converge": Verb("bootstrap.converge", "", lambda parser: parser.set_defaults(event="boot"), takes_config=False),
    "worker": Verb("hook.worker", "", _worker_options),
    "build-job": Verb("build.build", "", _build_job_options),
    "mpi-rank": Verb("rank.rank", "", lambda parser: parser.add_argument("--loaded", type=int)),
}
