"""The options of a command line. Made once, in ``commands/arguments.py``, and never copied."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, replace
from pathlib import Path

from .model import Role
from .paths import Paths

BOOT = "boot"  # the event of a run after a boot
EVENTS = ("start", "configured", "updated")  # the events of a hook
IMAGES = ("hybrid", "ami")  # the layouts that need a machine image
# An installed program that is named with its path is that of the tree already, and has its own arguments.
PUBLIC_COMMAND = re.compile(
    r"(?<!/)\bpetal-node (bootstrap|plan|status|check|repair|releases|rollback|gc|lockfile|log)\b(?! --help)"
)
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
        typed: the arguments of this command line, as typed.
        layout: the layout of the machine image that ``bootstrap`` makes, None on a node.
        yes: ``repair`` and ``gc`` may remove things.
        deep: ``repair`` compares every byte of the packages.
        nodes: ``all``, ``idle`` or a list of node names, None to check this node.
        lines: ``check`` answers a proof job.
        release: id of a release or its beginning.
        run: id of a run or its beginning.
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
    typed: tuple[str, ...] = ()
    strict: bool = False
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
    lines: bool = False
    dry_run: bool = False
    yes: bool = False
    deep: bool = False
    no_sizes: bool = False
    release: str | None = None
    keep: int = 3
    run: str | None = None
    level: str = "info"
    number: int = 50
    directory: Path = Path()
    loaded: int = 0

    @property
    def paths(self) -> Paths:
        """The paths below ``root``, with shared storage at its default mount point."""
        return Paths(self.root)

    def common_arguments(self) -> list[str]:
        """The common options of this command line, for a command that continues it."""
        typed = {
            "--config": self.config,
            "--config-sha256": self.config_sha256,
            "--role": self.role and self.role.value,
            "--root": None if self.paths.live else self.root,
        }
        return [word for option, value in typed.items() if value for word in (option, str(value))]

    def for_tree(self, remedy: str) -> str:
        """A line of a remedy whose commands act on the same tree as this one."""
        if self.paths.live or "--root" in remedy:
            return remedy
        options = shlex.join(replace(self, config=None, config_sha256=None).common_arguments())
        return PUBLIC_COMMAND.sub(lambda found: f"{found[0]} {options}", remedy)

    def again(self) -> str:
        """The command line to type after an interruption."""
        if self.event in (BOOT, *EVENTS):
            return "petal-node bootstrap    (the service at boot and its timer do it too)"
        return shlex.join(["petal-node", *(self.typed or (self.command, *self.common_arguments()))])

    def with_sudo(self, archive: Path | None) -> str:
        """This command line as root, with the running program, because another version may be installed.

        sudo's ``secure_path`` may lack the directory of the program (sudoers(5)).
        """
        link = self.paths.link
        program = link if archive is None or link.resolve() == archive.resolve() else archive
        return shlex.join(["sudo", str(program), *(self.typed or (self.command, *self.common_arguments()))])
