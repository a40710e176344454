"""The options of a command line, made by ``commands/arguments.py``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .model import Role
from .paths import Paths

BOOT = "boot"  # the event of a run after a boot
EVENTS = ("start", "configured", "updated")  # the events of a hook
IMAGES = ("hybrid", "ami")  # the layouts that need a machine image
READING = ("plan", "status", "check", "releases", "explain", "version", "log")  # verbs that change nothing
WITH_VALUE = ("--config", "--config-sha256", "--role", "--root")  # the common options that have a value
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Options:
    """The options of all verbs; a verb reads its own. Waits are in seconds.

    Args:
        config: a path or URI, None for the cluster's configuration.
        config_sha256: the checksum that ``config`` must have, None to accept any content.
        root: the tree to act on, ``/`` on a node.
        role: overrides the role that the node's own files name.
        run_id: the id that a hook gave its worker; empty to make a new one.
        event: ``start``, ``configured`` or ``updated`` of ``hook`` and ``worker``, ``boot`` of ``converge``.
        words: the arguments of a ``hook`` that could not be parsed.
        argv: the arguments of this command line with absolute paths, so that they are valid in every directory.
        if_due: the timer runs ``converge``, which ends at once if the pause after the last run is not over.
        layout: the layout of the machine image that ``bootstrap`` makes, None on a node.
        yes: ``repair`` and ``gc`` may remove things.
        deep: ``repair`` compares every byte of the packages.
        nodes: ``all``, ``idle`` or a list of node names, None to check this node.
        lines: ``check`` answers a proof job: the nonce of its lines.
        release: id of a release or its beginning.
        run: id of a run or its beginning.
        topic: the code, check or key that ``explain`` shows, None to list them.
        directory: where the order of a build job is.
        loaded: exit code of ``module load`` before an MPI rank.
    """

    command: str
    config: str | None = None
    config_sha256: str | None = None
    root: Path = Path("/")
    role: Role | None = None
    json: bool = False
    quiet: bool = False
    run_id: str = ""
    event: str = ""
    words: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()
    strict: bool = False
    if_due: bool = False
    lock_wait: float = 7200.0
    accept_storage: bool = False
    layout: str | None = None
    exit_code: bool = False
    output: str = "spack.lock"
    verbose: bool = False
    wait: bool = False
    timeout: float = 3600.0
    nodes: str | None = None
    html: Path | None = None
    lines: str = ""
    dry_run: bool = False
    yes: bool = False
    deep: bool = False
    no_sizes: bool = False
    release: str | None = None
    keep: int = 3
    run: str | None = None
    level: str = "info"
    number: int = 50
    topic: str | None = None
    directory: Path = Path()
    loaded: int = 0

    @property
    def paths(self) -> Paths:
        """The paths below ``root``, with shared storage at its default mount point."""
        return Paths(self.root)

    @property
    def only_reads(self) -> bool:
        """True if this command line changes nothing, so that it makes no log either."""
        return self.command in READING or self.dry_run or (self.command == "gc" and not self.yes)

    @property
    def needs_root(self) -> bool:
        """True if only root can run this command line on a node; the log is private."""
        return self.command == "log" or not self.only_reads

    def common_arguments(self) -> list[str]:
        """The common options of this command line, for a command that continues it."""
        values = {
            "--config": self.config,
            "--config-sha256": self.config_sha256,
            "--role": self.role and self.role.value,
            "--root": None if self.paths.live else self.root,
        }
        return [word for option, value in values.items() if value for word in (option, str(value))]

    @property
    def typed(self) -> str:
        """This command line, for another directory."""
        return shlex.join(["petal-node", *(self.argv or (self.command, *self.common_arguments()))])

    @property
    def again(self) -> str:
        """The command to type after an interruption."""
        return self.converge_again if self.event else self.typed

    @property
    def converge_again(self) -> str:
        """The command that converges this node again; below ``--root`` neither the service nor the timer does it."""
        return "petal-node bootstrap" + ("    # the service at boot and its timer do it too" if self.paths.live else "")


def verb_of(argv: Sequence[str]) -> str:
    """The verb of a command line, also of one that the parser refuses; an empty string without one."""
    words = iter(argv)
    for word in words:
        if word in WITH_VALUE:
            next(words, None)
        elif not word.startswith("-"):
            return word
    return ""


def root_of(argv: Sequence[str]) -> Path:
    """The value of ``--root`` in a command line that the parser may refuse.

    Raises:
        OSError: it is relative, and the working directory was removed.
    """
    from argparse import ArgumentParser

    known = ArgumentParser(add_help=False, allow_abbrev=False)
    known.add_argument("--root", nargs="?", default="/", const="/")
    return Path(known.parse_known_args(argv)[0].root or "/").resolve()
