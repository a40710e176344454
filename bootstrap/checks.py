"""Checks of this node: findings with a remedy. They read and try, and never change anything.

Where a step keeps something, its probe is the check, so that ``check`` and ``bootstrap`` cannot disagree.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shlex
from collections.abc import Iterable, Iterator

from .context import Context
from .errors import PetalError, StateError
from .fleet import ordinary_user
from .model import Finding, Mark, NodeReport, Role, Verdict
from .observed import Host
from .old_tree import judge_old_tree
from .release import Manifest, current_release, read_manifest
from .spack.recovery import trouble
from .spack.workspace import store_of
from .steps import STEPS
from .system import PATH, timestamp
from .targets import common, level

WAY_TO_STORAGE = ("mount", "storage", "root")
OF_THE_IMAGE = ("lmod", "shell")  # looked at wherever storage is
AS_CHECKS = (*WAY_TO_STORAGE, *OF_THE_IMAGE)
MARKS = {
    Verdict.SATISFIED: Mark.OK,
    Verdict.CHANGE: Mark.FAIL,
    Verdict.BLOCKED: Mark.FAIL,
    Verdict.ELSEWHERE: Mark.SKIP,
}
SHELL_SECONDS = 120.0
# One fresh login shell: each module alone, then all of them and each program. Answers are divided by NUL.
# Arguments: seconds a program may take, modules, then each program behind ``--``.
SCRIPT = r"""
printf '\0'
limit=$1 modules=()
shift
while [ $# -gt 0 ] && [ "$1" != -- ]; do modules+=("$1"); shift; done
for module in "${modules[@]}"; do
  out=$(module load "$module" 2>&1 </dev/null); printf '%d\0%s\0' $? "$out"
done
[ $# -eq 0 ] || module load "${modules[@]}" >/dev/null 2>&1 </dev/null
while [ $# -gt 0 ]; do
  shift; program=()
  while [ $# -gt 0 ] && [ "$1" != -- ]; do program+=("$1"); shift; done
  out=$(timeout "$limit" "${program[@]}" 2>&1 </dev/null); printf '%d\0%s\0' $? "$out"
done
"""
PROGRAM_SECONDS = "60"


def check_node(ctx: Context) -> NodeReport:
    """Every check of this node, in an order in which the first failure is the cause of those behind it."""
    findings = tuple(_findings(ctx))
    release = current_release(ctx.paths) if reaches_storage(findings) else None
    return NodeReport(ctx.facts.host.name, ctx.role.value, timestamp(), release, findings)


def reaches_storage(findings: Iterable[Finding]) -> bool:
    """True where nothing that was found keeps this node from what stands on shared storage."""
    return not any(finding.check in WAY_TO_STORAGE and finding.mark is Mark.FAIL for finding in findings)


def _findings(ctx: Context) -> Iterator[Finding]:
    if (ctx.paths.live and ctx.role is not Role.COMPUTE) or _in_job():
        yield slurm_answers(ctx)
    reachable = True
    for step in STEPS:
        if step.name in AS_CHECKS and (reachable or step.name in OF_THE_IMAGE):
            probe = step.probe(ctx)
            if probe.verdict is Verdict.ELSEWHERE:
                continue
            reachable = reachable and probe.verdict is Verdict.SATISFIED
            remedy = probe.remedy or (("petal-node bootstrap",) if probe.verdict is Verdict.CHANGE else ())
            yield Finding(step.name, MARKS[probe.verdict], probe.reason, remedy=remedy)
    old = judge_old_tree(ctx)
    if old is not None:
        yield old
    if not reachable:
        return
    manifest, finding = _release(ctx)
    yield finding
    if ctx.role is Role.HEAD and ctx.config.builds:
        yield _store(ctx)
    if manifest is not None:
        yield cpu(ctx.facts.host, manifest)
        yield from _use(ctx, modules_to_load(ctx, manifest))


def _in_job() -> bool:
    return "SLURM_JOB_ID" in os.environ


def _release(ctx: Context) -> tuple[Manifest | None, Finding]:
    current = current_release(ctx.paths)
    if current is None:
        why = "the head node has not finished the install, or it failed"
        return None, Finding(
            "release", Mark.FAIL, "no release is published yet", why, ("on the head node: petal-node status",)
        )
    try:
        manifest = read_manifest(ctx.paths, current)
    except StateError as error:
        return None, Finding("release", Mark.FAIL, error.what, error.why, error.remedy)
    if manifest is None:
        return None, Finding("release", Mark.FAIL, f"release {current} has no manifest", "", ("petal-node bootstrap",))
    if ctx.release is not None and current != ctx.release:
        message = f"current is {current}, wanted is {ctx.release}"
        return manifest, Finding("release", Mark.WARN, message, "", ("on the head node: petal-node status",))
    return manifest, Finding("release", Mark.OK, f"{current} of {manifest.created}")


def _store(ctx: Context) -> Finding:
    """Whether Spack's database is there for what the store holds. Jobs do not read it, the next install would."""
    damage = trouble(store_of(ctx))
    if not damage:
        return Finding("store", Mark.OK, "Spack's database is there")
    why = "an install by Spack's own command would begin with an empty one and build everything again"
    return Finding("store", Mark.WARN, damage, why, ("petal-node bootstrap    (brings it back)",))


def cpu(host: Host, manifest: Manifest) -> Finding:
    """Whether this node's CPU, C library and operating system are ones that the release was built for.

    Where nothing was built, the trees hold modules of binary packages alone, and nobody knows what those need.
    """
    tree = manifest.tree_for(host.target)
    if tree is None and manifest.specs:
        return _cpu_misfit(host, [tree.target for tree in manifest.trees])
    if host.os != manifest.os:
        return _image_misfit(f"built on {manifest.os}, this node is {host.os}")
    if _version(host.glibc) < _version(manifest.glibc):
        return _image_misfit(f"built with glibc {manifest.glibc}, this node has {host.glibc}")
    if tree is None or not manifest.specs:
        return Finding("cpu", Mark.OK, f"nothing was built for a CPU, this node is {host.target}")
    return Finding("cpu", Mark.OK, f"built for {tree.target}, this node is {host.target}")


def _cpu_misfit(host: Host, built: list[str]) -> Finding:
    levels = all(target == level(target) for target in built)
    mine = level(host.target)
    message = f"built for {' and '.join(built)}, this node is {mine if levels else host.target}"
    why = f"its CPU is {host.target}: a program may die of SIGILL there (Illegal instruction)"
    remedy = (
        f"spack: {{target: {_common(built, host)}}}    (or [{', '.join((*built, mine))}]: a module tree for each)",
        "with that in the configuration, on the head node: petal-node bootstrap --config FILE",
    )
    return Finding("cpu", Mark.FAIL, message, why, remedy)


def _common(built: list[str], host: Host) -> str:
    return common({name: name for name in (*built, host.target)}, host.machine)


def _image_misfit(message: str) -> Finding:
    return Finding("cpu", Mark.FAIL, message, "", ("use one operating system image for head, queues and login nodes",))


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if re.fullmatch(r"[0-9]{1,9}", part))


def modules_to_load(ctx: Context, manifest: Manifest) -> tuple[str, ...]:
    """What ``check.load`` names, else every module of the release that lies in Core."""
    if ctx.config.check.load:
        return ctx.config.check.load
    tree = manifest.tree_for(ctx.facts.host.target) or (manifest.trees[0] if manifest.trees else None)
    return tuple(module.name for module in tree.modules if module.path.startswith("Core/")) if tree else ()


def _use(ctx: Context, modules: tuple[str, ...]) -> Iterator[Finding]:
    """Loads every module and runs every program as a user would."""
    commands = ctx.config.check.run
    answers = _in_shell(ctx, modules, commands)
    together = f"module load {' '.join(modules)}"
    for name in modules:
        yield _finding(f"load:{name}", next(answers), "loads in a fresh login shell", f"bash -lc 'module load {name}'")
    for command in commands:
        code, text = next(answers)
        yield _finding(
            f"run:{command}", (code, text), _first(text) or "ended with 0", f"bash -lc '{together}; {command}'"
        )


def _finding(check: str, answer: tuple[int, str], good: str, remedy: str) -> Finding:
    code, text = answer
    if code == 0:
        return Finding(check, Mark.OK, good)
    return Finding(check, Mark.FAIL, f"ended with {code}", _last(text), (remedy,))


def _in_shell(ctx: Context, modules: tuple[str, ...], commands: tuple[str, ...]) -> Iterator[tuple[int, str]]:
    """Code and output of each module and program, as an ordinary user; nothing of our environment reaches the shell.

    A shell that died answers for the rest with its own words.
    """
    user = ordinary_user(ctx)
    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    env = {"PATH": PATH, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "LANG": "C.UTF-8"}
    if not ctx.paths.live:
        env["BASH_ENV"] = str(ctx.paths.init / "petal.sh")
    programs = [word for command in commands for word in ("--", *shlex.split(command))]
    argv = [
        "bash",
        *(["-l"] if ctx.paths.live else []),
        "-c",
        SCRIPT,
        "petal-check",
        PROGRAM_SECONDS,
        *modules,
        *programs,
    ]
    try:
        done = ctx.system.run(argv, timeout=SHELL_SECONDS, env=env, user=user, ok=None)
        fields, died = done.stdout.split("\0")[1:], (1, done.tail(3) or "the shell ended early")
    except PetalError as error:
        fields, died = [], (1, str(error))
    # what a login prints of its own stands before the first NUL
    yield from ((int(code), text) for code, text in zip(fields[::2], fields[1::2]))
    yield from itertools.repeat(died)


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])


def slurm_answers(ctx: Context) -> Finding:
    """Whether slurmctld answers this node."""
    try:
        done = ctx.system.run(["scontrol", "ping"], timeout=20, ok=None)
    except PetalError as error:
        return Finding("slurm", Mark.WARN, "Slurm's commands are not here", str(error))
    if done.returncode == 0 and "UP" in done.stdout:
        return Finding("slurm", Mark.OK, "slurmctld answers")
    return Finding(
        "slurm",
        Mark.FAIL,
        "slurmctld does not answer",
        done.tail(2),
        ("systemctl status slurmctld    (on the head node)",),
    )
