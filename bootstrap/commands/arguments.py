"""The verbs, their options, and the parser: a command line becomes ``Options``."""

from __future__ import annotations

import math
import os
import re
import shlex
from argparse import REMAINDER, SUPPRESS, ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..core import decode
from ..core.errors import did_you_mean
from ..core.model import Role
from ..core.options import BOOT, EVENTS, IMAGES, LOG_LEVELS, Options, root_of

T = TypeVar("T")

NO_DIRECTORY = "{!r} is relative, and the working directory was removed: cd to another one"
SHORT_LOCK_WAIT = 60.0  # seconds; bootstrap waits longer for another installer
DESCRIPTION = "Install and prove HPC software on every node of an AWS ParallelCluster."
EXIT_CODES = """\
Options can be before or after the verb. Help for a verb: petal-node VERB --help

Exit codes: 0 success, 1 a step failed, 2 wrong usage, 3 degraded or findings,
69 no usable Python, 70 a bug, 75 try again, 77 not root, 78 configuration error,
130 interrupted, 143 terminated."""
LOCKFILE = """\
Solve the Spack stack of --config for this operating system, glibc and compiler and for the
configured targets, and install nothing. Run it on the head node or on another machine with
the same image. It needs gcc, g++ and memory for Spack's solver, no cluster and no shared
storage. It prints the lines to add to petal.yaml; head nodes then install without clingo and
with little memory. The lockfile is Spack's spack.lock with one more key, which records the
system that it was made for."""


def _type(convert: Callable[[str], T], what: str) -> Callable[[str], T]:
    """A type of argument with a message of its own."""

    def converted(text: str) -> T:
        try:
            return convert(text)
        except ValueError as error:
            raise ArgumentTypeError(f"{text!r} is not {what}") from error

    return converted


def _positive_number(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise ValueError(text)
    return int(text)


def _finite_seconds(text: str) -> float:
    seconds = float(text)
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(text)
    return seconds


def _uri(text: str) -> str:
    """A URI, or a path that is valid in the directory of a hook's worker too."""
    if not text:
        raise ArgumentTypeError("the URI is empty")
    try:
        return text if ":" in text else os.path.abspath(text)  # noqa: PTH100 - keeps links
    except OSError as error:
        raise ArgumentTypeError(NO_DIRECTORY.format(text)) from error


def _path(text: str) -> Path:
    """A path without its links resolved: one in /tmp may be another user's."""
    if not text:
        raise ArgumentTypeError("the path is empty")
    try:
        return Path(os.path.abspath(text))  # noqa: PTH100 - keeps links
    except OSError as error:
        raise ArgumentTypeError(NO_DIRECTORY.format(text)) from error


def _root(text: str) -> Path:
    path = _path(text).resolve()
    if re.search(r"\s", str(path)):
        raise ArgumentTypeError(f"{str(path)!r} has a space, and Lmod writes no cache for such a path")
    return path


SECONDS = _type(_finite_seconds, "a number of seconds")


def _value(text: str, metavar: str | None = None, **keywords: Any) -> dict[str, Any]:
    """Keywords of ``add_argument`` for an option with a value."""
    return {"help": text, "metavar": metavar, **keywords}


def _flag(text: str) -> dict[str, Any]:
    return {"help": text, "action": "store_true"}


def _seconds(default: float, text: str) -> dict[str, Any]:
    return _value(f"{text} (default: {default:.0f})", "SECONDS", type=SECONDS, default=default)


POSITIVE = _type(_positive_number, "a positive number")
RELEASE = _type(decode.name, "a release id: petal-node releases lists them")
SHA256 = _type(lambda text: decode.sha256(text.lower()), "a SHA-256")
RUN = _type(decode.name, "the id of a run")
RUN_ID = _value("the id of the run", "ID", type=RUN, required=True)
LOCK_WAIT_OPTION = _seconds(SHORT_LOCK_WAIT, "how long to wait for an installer")
COMMON = {
    "--config": _value("petal.yaml: path, file://, s3:// or https:// (default: the cluster's own)", "URI", type=_uri),
    "--config-sha256": _value("refuse --config if its SHA-256 differs", "HEX", type=SHA256),
    "--role": _value("the role of this node (default: detected)", choices=[role.value for role in Role]),
    "--root": _value("act on the tree below DIR instead of / (image builds, tests)", "DIR", type=_root),
    "--json": _flag("print one JSON object"),
    "-q --quiet": _flag("print errors, failures and warnings only"),
}


class Verb(NamedTuple):
    """One verb.

    Args:
        function: module and function below ``commands/``.
        help: one line of ``petal-node --help``; empty for verbs that only programs run.
        takes_config: False for verbs that refuse ``--config``, because they read no configuration.
        makes_root: True for verbs that may make the directory of ``--root``.
        description: replaces ``help`` in the verb's own help.
    """

    function: str
    help: str = ""
    takes_config: bool = True
    makes_root: bool = False
    description: str = ""


VERBS: Mapping[str, Verb] = {
    "bootstrap": Verb("bootstrap.bootstrap", "make this node match the configuration", makes_root=True),
    "plan": Verb("bootstrap.plan", "show what bootstrap would do; change nothing"),
    "status": Verb("status.status", "show the state of this node and of its cluster", takes_config=False),
    "check": Verb("check.check", "check that this node, or compute nodes, can use the software"),
    "repair": Verb("repair.repair", "repair what the checks find, if that is safe", takes_config=False),
    "releases": Verb("releases.releases", "list the releases, and when each was published", takes_config=False),
    "rollback": Verb("releases.rollback", "make the previous or another release current", takes_config=False),
    "gc": Verb("releases.gc", "list unused releases, packages and files; --yes removes them", takes_config=False),
    "lockfile": Verb(
        "lockfile.lockfile", "solve the Spack stack and write its lockfile", makes_root=True, description=LOCKFILE
    ),
    "log": Verb("log.log", "show the log of this node, by run", takes_config=False),
    "explain": Verb("explain.explain", "show the documentation of a code, check or key", takes_config=False),
    "hook": Verb("hook.hook", "run by ParallelCluster's custom actions", makes_root=True),
    "version": Verb("about.version", "print the version", takes_config=False),
    "converge": Verb(
        "bootstrap.bootstrap", takes_config=False, description="apply the desired state (run at boot and by the timer)"
    ),
    "worker": Verb("bootstrap.bootstrap", makes_root=True),
    "build-job": Verb("build.build"),
    "mpi-rank": Verb("rank.rank"),
}
OPTIONS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "bootstrap": {
        "--lock-wait": _seconds(Options.lock_wait, "how long to wait for another installer"),
        "--accept-storage": _flag(
            "accept a changed shared file system, or one last used by a deleted cluster "
            "(run on the head node; applies to all nodes)"
        ),
        "--layout": _value("make this machine an image for the nodes of a cluster with this layout", choices=IMAGES),
    },
    "plan": {"--exit-code": _flag("exit 3 if there is something to change")},
    "status": {
        "--verbose": _flag("also show the facts about this node and the software of its image"),
        "--wait": _flag("wait until the node is ready (exit 0) or stays degraded (exit 3)"),
        "--timeout": _seconds(Options.timeout, "how long --wait waits; then exit 75"),
    },
    "check": {
        "--lines": _value(SUPPRESS, "NONCE"),
        "--nodes": _value("check compute nodes in a Slurm job that runs as the cluster's user", "all|idle|LIST"),
        "--html": _value("also write a self-contained HTML report", "FILE", type=_path),
    },
    "repair": {
        "--dry-run": _flag("show what would be repaired; exit 3 if there is anything"),
        "--yes": _flag("also apply destructive repairs"),
        "--deep": _flag("compare every byte of the packages, not only changed files"),
        "--lock-wait": LOCK_WAIT_OPTION,
    },
    "releases": {"--no-sizes": _flag("do not measure the sizes, which reads every package")},
    "rollback": {
        "release": _value(
            "a release of `petal-node releases`, or the beginning of its id (default: the previous one)",
            "ID",
            nargs="?",
            default=None,
            type=RELEASE,
        ),
        "--lock-wait": LOCK_WAIT_OPTION,
    },
    "gc": {
        "--keep": _value(f"how many of the newest releases to keep (default: {Options.keep})", "N", type=POSITIVE),
        "--yes": _flag("remove them"),
        "--lock-wait": LOCK_WAIT_OPTION,
    },
    "lockfile": {
        "--output": _value(
            "destination: path, file:// or s3:// URI. If it is a directory, the file name contains the checksum "
            f"(default: {Options.output})",
            "URI",
        )
    },
    "log": {
        "--run": _value("show one whole run; the beginning of its id is enough", "ID", type=RUN),
        "--level": _value(f"the lowest level to show (default: {Options.level})", choices=LOG_LEVELS),
        "-n --lines": _value(
            f"how many of the newest lines to show (default: {Options.number})", "N", dest="number", type=POSITIVE
        ),
    },
    "explain": {
        "topic": _value("for example disk-space, spack.specs (default: list all)", "NAME", nargs="?", default=None)
    },
    "hook": {
        "event": _value("the event of the node", "start|configured|updated", choices=EVENTS),
        "--strict": _flag("exit with the verb's own code instead of 0"),
        # The hook scripts pass all Args on, and have used these two already.
        "--package": _value("read by the hook script: where the archive is", "URI"),
        "--sha256": _value("read by the hook script: the checksum of the archive", "HEX"),
    },
    "converge": {"--event": _value(SUPPRESS, choices=(BOOT,), default=BOOT), "--if-due": _flag(SUPPRESS)},
    "worker": {"--event": _value("the event of the hook", choices=EVENTS, required=True), "--run-id": RUN_ID},
    "build-job": {"--run-id": RUN_ID, "directory": _value("the directory of the order", "DIR", type=_path)},
    "mpi-rank": {"--loaded": _value("the exit code of module load", "CODE", type=int)},
}


def parse(argv: Sequence[str]) -> Options:
    """The options of a command line.

    Raises:
        SystemExit: the arguments are wrong, or ask for help; argparse has printed it.
    """
    shown = {name: verb.help for name, verb in VERBS.items() if verb.help}
    lines = "\n".join(f"  {name:<10} {text}" for name, text in shown.items())
    top = _parser("", f"{DESCRIPTION}\n\nVerbs:\n{lines}", EXIT_CODES)
    top.usage = "petal-node [options] VERB [options]"
    top.add_argument("command", metavar="VERB", nargs="?", help=SUPPRESS)
    top.add_argument("rest", nargs=REMAINDER, help=SUPPRESS)
    namespace = top.parse_args(argv)
    rest = vars(namespace).pop("rest")
    known = f"(verbs: {', '.join(shown)})"
    if not hasattr(namespace, "command"):
        top.error(f"the verb is missing {known}")
    name = namespace.command
    if name not in VERBS:
        top.error(f"unknown verb {name!r}{did_you_mean(name, shown)} {known}")
    verb = VERBS[name]
    parser = _parser(name, verb.description or verb.help)
    values = vars(parser.parse_args(rest, namespace))
    for own in ("package", "sha256"):  # Args of the hook script
        values.pop(own, None)
    words = _words(name, values)
    if "role" in values:
        values["role"] = Role(values["role"])
    options = Options(**values, argv=words)
    if not verb.makes_root and not os.path.isdir(options.root):  # noqa: PTH112 - it never raises
        parser.error(f"--root {options.root} is not a directory")
    if (options.config or options.config_sha256) and not verb.takes_config:
        bootstrap = shlex.join(["petal-node", "bootstrap", "--config", options.config or "FILE"])
        parser.error(f"{name} reads no configuration, so it has no --config. To apply one: {bootstrap}")
    if options.config_sha256 and not options.config:
        parser.error("--config-sha256 is the checksum of --config, which is missing")
    return options


def _words(verb: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that have these values, without defaults."""
    words = [verb]
    for names, keywords in {**OPTIONS.get(verb, {}), **COMMON}.items():
        option = names.split()[-1]
        value = values.get(keywords.get("dest") or option.lstrip("-").replace("-", "_"))
        if value != keywords.get("default") and value is not None:
            words += [option] if option.startswith("-") else []
            words += [] if value is True else [f"{value:g}" if isinstance(value, float) else str(value)]
    return tuple(words)


def parse_refused_hook(argv: Sequence[str]) -> Options:
    """A hook with wrong arguments. It is recorded, because ParallelCluster throws a hook's stderr away."""
    event = next((word for word in argv if word in EVENTS), "")
    return Options("hook", root=root_of(argv), event=event, words=tuple(argv), strict="--strict" in argv)


def _parser(verb: str, description: str, epilog: str = "") -> ArgumentParser:
    """A parser with the common options. An option that was not typed is not set: ``Options`` has the defaults."""
    parser = ArgumentParser(
        prog=f"petal-node {verb}".rstrip(),
        description=description,
        epilog=epilog,
        allow_abbrev=False,  # --accept-stor must not count as --accept-storage
        argument_default=SUPPRESS,
        formatter_class=RawDescriptionHelpFormatter,
    )
    common = parser.add_argument_group("common options")
    without_config = verb in VERBS and not VERBS[verb].takes_config
    for names, keywords in COMMON.items():
        hidden = {"help": SUPPRESS} if without_config and names.startswith("--config") else {}
        common.add_argument(*names.split(), **{**keywords, **hidden})
    for names, own in OPTIONS.get(verb, {}).items():
        parser.add_argument(*names.split(), **own)
    return parser
