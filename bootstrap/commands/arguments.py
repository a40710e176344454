"""The command line as argparse knows it: each verb with its options."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..core.model import Result
    from .common import Asked

    Call = Callable[[Asked, argparse.Namespace], Result]

IMAGES = ("hybrid", "ami")
EVENTS = ("start", "configured", "updated")
LOCK_WAIT = 7200.0
REPAIR_WAIT = 60.0
STATUS_WAIT = 3600.0
LOG_LEVELS = ("debug", "info", "warning", "error")
KEEP = 3


def parser(calls: Mapping[str, Call], *, inner: bool) -> argparse.ArgumentParser:
    """The whole command line.

    Args:
        calls: what each verb calls.
        inner: with the verbs that nobody types, so that an unknown verb's choices do not name them.
    """
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

    def verb(name: str, text: str | None) -> argparse.ArgumentParser:
        told: dict[str, Any] = {"help": text, "description": text} if text else {}
        added = verbs.add_parser(name, parents=[common], allow_abbrev=False, **told)
        added.set_defaults(call=calls[name])
        return added

    if inner:
        worker = verb("worker", None)
        worker.add_argument("--event", choices=EVENTS, required=True)
        worker.add_argument("--run-id", type=_run_id, required=True)
        job = verb("build-job", None)
        job.add_argument("--run-id", type=_run_id, required=True)
        job.add_argument("place")
        rank = verb("mpi-rank", None)
        rank.add_argument("--loaded", type=int, default=0)
    _hook_options(verb("hook", "what ParallelCluster's custom actions call"))
    wait = verb("bootstrap", "make this node what the configuration says")
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
    pending = verb("plan", "what bootstrap would do now; changes nothing")
    pending.add_argument("--exit-code", action="store_true", help="end with 3 when there is something to change")
    solved = verb("lock", "solve the stack here and write its lockfile, which can then be the stack")
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
    verb("converge", "what the service at boot runs: become what the cluster wants")
    where = verb("status", "where this node and its cluster stand")
    where.add_argument("--wait", action="store_true", help="until the node is ready (0), or stays degraded (3)")
    where.add_argument(
        "--timeout",
        type=float,
        default=STATUS_WAIT,
        metavar="SECONDS",
        help="of --wait; then 75 (default %(default).0f)",
    )
    which = verb("check", "can this node, or the compute nodes, use the software?")
    which.add_argument("--lines", action="store_true", help=argparse.SUPPRESS)
    which.add_argument("--nodes", metavar="all|idle|LIST", help="ask compute nodes through Slurm, as a job of the user")
    which.add_argument("--html", metavar="FILE", help="the table as a page that needs nothing else, too")
    _repair_options(verb("repair", "mend what the checks find, where that is safe"))
    _release_options(verb)
    _log_options(verb("log", "what happened on this node, run by run"))
    verb("facts", "what petal-node sees of this node")
    verb("version", "the version")
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


def _release_options(verb: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """The verbs about what was published."""
    listed = verb("releases", "what was published: when, what, how large")
    listed.add_argument("--no-sizes", action="store_true", help="do not measure them, which reads every package")
    back = verb("rollback", "give new shells the release from before, or another one")
    back.add_argument(
        "release", nargs="?", type=_release, metavar="ID", help="as `releases` shows it; its beginning will do"
    )
    clean = verb("gc", "say which releases and packages nobody needs, and with --yes remove them")
    clean.add_argument(
        "--keep", type=_positive, default=KEEP, metavar="N", help="how many of the newest stay (default %(default)s)"
    )
    clean.add_argument("--yes", action="store_true", help="remove them")
    for waiting in (back, clean):
        waiting.add_argument(
            "--lock-wait",
            type=float,
            default=REPAIR_WAIT,
            metavar="SECONDS",
            help="for an install that goes on (default %(default).0f)",
        )


def _log_options(log: argparse.ArgumentParser) -> None:
    log.add_argument("--run", metavar="ID", help="all of this run, from --level on; the beginning of its id is enough")
    log.add_argument("--level", choices=LOG_LEVELS, default="info", help="the least to show (default %(default)s)")
    log.add_argument(
        "-n", "--lines", type=_positive, default=50, metavar="N", help="how many, the newest (default %(default)s)"
    )


def _positive(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _release(text: str) -> str:
    """The id of a release, or its beginning."""
    from ..core.decode import name

    try:
        return name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a release: petal-node releases lists them") from error


def _run_id(text: str) -> str:
    """A run's id becomes a file's name."""
    from ..core.decode import name

    return name(text)


def _sha256(text: str) -> str:
    """A checksum, in the case that sha256sum prints."""
    from ..core.decode import sha256

    return sha256(text.lower())


def _common(*, given: bool) -> argparse.ArgumentParser:
    """The options that every verb takes, before it and behind it.

    Args:
        given: with the defaults; behind the verb they would undo what stands before it.
    """
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
