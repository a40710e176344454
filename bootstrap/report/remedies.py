"""The commands in remedies, as the reader of this output can type them."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..commands.arguments import VERBS
from ..core.errors import ExitCode
from ..core.model import Role
from ..core.options import Options

# Not after a slash: a program that is named with its path already has the right arguments.
COMMAND = re.compile(r"(?<!/)\bpetal-node ([a-z-]+)\b(?! --help)")
# At the start of a command.
PRIVILEGED = re.compile(r"(?:^|(?<=&& )|(?<=; ))(?=systemctl (?:re)?start |u?mount [-/]|ch(?:own|mod) |apt-get )")
ALONE = re.compile(r"(on the head node: )?petal-node ([^;]*?)( {4}.*)?")
WITH_CONFIG = ("bootstrap", "plan", "lockfile")
TRANSIENT = (ExitCode.OK, ExitCode.TRY_AGAIN, ExitCode.NOT_ROOT, ExitCode.INTERRUPTED, ExitCode.TERMINATED)


def runnable(line: str, options: Options, archive: Path | None = None) -> str:
    """A line of a remedy whose commands run as printed.

    The commands name the running ``archive`` if the installed petal-node is another one, or missing.

    If they need root, and the reader is another user or has typed sudo, they get sudo and the path of the program,
    because ``secure_path`` may lack its directory (sudoers(5)). They get the configuration and the tree of this command
    line. A line that starts with ``on`` or ``srun`` is for another machine, and so is a remedy of ``check --nodes``:
    these get the tree, but neither the role of this machine nor its files.
    """
    if line.startswith("on the head node"):
        is_here = options.role is Role.HEAD
    else:
        is_here = not line.startswith(("on ", "srun ")) and not options.nodes
    typed = options.command in WITH_CONFIG and not options.event
    config = ["--config", options.config] if typed and options.config else []
    if config and (is_here or "://" in config[1]):
        line = line.replace("--config FILE", shlex.join(config))

    def command(found: re.Match[str]) -> str:
        verb = found[1]
        if verb not in VERBS:
            return found[0]
        words: list[str] = []
        if is_here and verb == options.command and verb in WITH_CONFIG:
            words = [*options.argv[1:]]
        elif is_here and verb in WITH_CONFIG:
            words = config
        if verb != "explain":
            words = [*words, *_tree(options, is_here=is_here)]
        typed = Options(verb, yes="--yes" in line, dry_run="--dry-run" in line)
        program = _program(typed, options, archive, is_here=is_here or verb == "explain")
        return shlex.join([*program, verb, *_absent(words, line)])

    if _needs_sudo(options):
        line = PRIVILEGED.sub("sudo ", line)
    return COMMAND.sub(command, line)


def repeats(line: str, options: Options, exit_code: int, *, on_head: bool = False) -> bool:
    """True if the line is the command that has just failed, and that will fail again.

    Args:
        on_head: this machine is the head node.
    """
    found = ALONE.fullmatch(line)
    if exit_code in TRANSIENT or options.nodes or options.dry_run or not found or (found[1] and not on_head):
        return False
    words = found[2].split()
    named = {options.topic, options.release} - {None}  # without its name, the command does something else
    return words[:1] == [options.command] and named <= set(words) <= {options.command, *options.argv}


def _program(typed: Options, options: Options, archive: Path | None, *, is_here: bool) -> list[str]:
    link, name = options.paths.link, "petal-node"
    on_path = shutil.which(name)
    installed = Path(on_path or link)
    is_kept = typed.command == "repair" and installed.exists()  # a repair does not change the version
    if is_here and archive is not None and not is_kept and installed.resolve() != archive.resolve():
        name = str(archive)
    elif is_here and on_path is None and link.exists():
        name = str(link)
    if typed.needs_root and _needs_sudo(options):
        return ["sudo", name if "/" in name else str(link)]
    return [name]


def _needs_sudo(options: Options) -> bool:
    return options.paths.live and bool(os.geteuid() or os.environ.get("SUDO_USER"))


def _tree(options: Options, *, is_here: bool) -> list[str]:
    if options.paths.live:
        return []
    return [*(["--role", options.role.value] if options.role and is_here else []), "--root", str(options.root)]


def _absent(words: Iterable[str], line: str) -> list[str]:
    """The options with their values that the line does not have, each once."""
    absent: list[str] = []
    present = set(line.split())
    skipped = False
    for word in words:
        if word.startswith("-"):
            skipped = word in present
            present.add(word)
        if not skipped:
            absent.append(word)
    return absent
