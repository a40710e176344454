"""The work of a user: a fresh login shell loads every module, programs find their libraries, and programs run.

One shell does all of it, as the cluster's ordinary user if root asks, and without petal-node's environment.
"""

from __future__ import annotations

import os
import pwd
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from ..config.model import CheckCommand
from ..core.errors import PetalError
from ..core.model import Finding
from ..host.system import PATH
from ..prove.fleet import ordinary_user
from ..state.context import Context
from ..state.release import Manifest
from .base import current_manifest, fail, ok, warn

PROGRAM_SECONDS = 60
SHOWN = 5
# Answers are triples that end with NUL: the question, the exit code, the output. Each module is loaded in a shell
# of its own; then all are loaded together, and each program of the configuration runs; at last ldd(1) looks at the
# programs (ELF files) in the directories that each module adds to PATH, since that may take long.
# Arguments: seconds that a program may take, modules, then each program behind ``--``.
SCRIPT = r"""
answer() { printf '%s\0%d\0%s\0\n' "$1" "$2" "$3"; }
programs() {
  local directory file magic
  IFS=: read -ra directories <<<"$PATH"
  for directory in "${directories[@]}"; do
    case ":$before:" in *":$directory:"*) continue ;; esac
    for file in "$directory"/*; do
      if [ -f "$file" ] && [ -x "$file" ] && [ -r "$file" ] && IFS= read -r -N 4 magic <"$file" 2>/dev/null &&
        [ "$magic" = $'\x7fELF' ]; then found+=("$file"); fi
    done
  done
}
printf '\0'
limit=$1 modules=() before=$PATH
shift
kind=$(type -t module) || kind=none
answer modules 0 "$kind ${LMOD_VERSION:--} ${PETAL_RELEASE:--} ${MODULEPATH:--}"
while [ $# -gt 0 ] && [ "$1" != -- ]; do modules+=("$1"); shift; done
for module in "${modules[@]}"; do
  said=$(module load "$module" 2>&1 </dev/null); answer load $? "$said"
done
(
  [ ${#modules[@]} -eq 0 ] || module load "${modules[@]}" >/dev/null 2>&1 </dev/null
  while [ $# -gt 0 ]; do
    shift; program=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do program+=("$1"); shift; done
    said=$(timeout "$limit" "${program[@]}" 2>&1 </dev/null); answer run $? "$said"
  done
)
for module in "${modules[@]}"; do
  said=$(
    found=()
    module load "$module" >/dev/null 2>&1 </dev/null || exit 0
    programs
    [ ${#found[@]} -gt 0 ] || exit 0
    [ ${#found[@]} -gt 1 ] || printf '%s:\n' "${found[0]}"
    LC_ALL=C timeout "$limit" ldd "${found[@]}" 2>&1
  ); answer libraries $? "$said"
done
"""
NOT_FOUND = re.compile(r"^\s*(.+?) => not found|version `(.+?)' not found", re.MULTILINE)
HEADER = re.compile(r"^(/\S.*):$", re.MULTILINE)


@dataclass(frozen=True)
class Answer:
    """The answer of the shell to one question; ``alive`` is false if the shell had ended before."""

    code: int
    text: str
    alive: bool = True


def use(ctx: Context, seconds: float) -> Iterator[Finding]:
    """The module command, each module, the libraries of their programs, each program of ``check.run``."""
    manifest = current_manifest(ctx)
    if manifest is None:
        return
    modules, programs = modules_to_load(ctx, manifest), ctx.config.check.run
    answers = _in_shell(ctx, modules, programs, seconds)
    yield _of_shell(ctx, next(answers))
    for name in modules:
        yield _of_load(name, next(answers))
    together = f"module load {' '.join(modules)}" if modules else "true"
    for program in programs:
        yield _of_run(program, next(answers), together)
    libraries = [(name, next(answers)) for name in modules]
    if libraries:
        yield of_libraries([(name, answer) for name, answer in libraries if answer.alive], len(libraries))


def modules_to_load(ctx: Context, manifest: Manifest) -> tuple[str, ...]:
    """The modules of ``check.load``, else every module in the release's Core."""
    if ctx.config.check.load:
        return ctx.config.check.load
    tree = manifest.tree_for(ctx.facts.host.target) or (manifest.trees[0] if manifest.trees else None)
    return tuple(module.name for module in tree.modules if module.path.startswith("Core/")) if tree else ()


def _of_shell(ctx: Context, answer: Answer) -> Finding:
    """The first answer names the kind of ``module`` in a fresh shell, and its MODULEPATH."""
    by_hand = "bash -lc 'type module; echo $LMOD_VERSION $MODULEPATH'"
    kind, version, release, path = (*answer.text.split(" ", 3), "", "", "", "")[:4]
    if answer.code:
        return fail("modules", "a fresh login shell gave no answer", answer.text, by_hand, "petal-node repair")
    if kind != "function" or version == "-":
        what = "has no module command" if kind in ("none", "") else "has another module command than Lmod's"
        why = "the init files are not read, or a later profile replaces the command"
        return fail("modules", f"a fresh login shell {what}", why, by_hand, "petal-node repair")
    if f"{release}/modules/" not in path:
        why = f"MODULEPATH is {path}"
        return fail("modules", "a fresh login shell does not look into the release", why, by_hand, "petal-node repair")
    return ok("modules", f"Lmod {version} looks into {release.replace(str(ctx.paths.releases) + '/', '')}")


def _of_load(name: str, answer: Answer) -> Finding:
    if answer.code == 0:
        return ok(f"load:{name}", "loads in a fresh login shell")
    remedy = (f"bash -lc 'module load {name}'", "on the head node: petal-node repair")
    return fail(f"load:{name}", f"ended with {answer.code}", _last(answer.text), *remedy)


def of_libraries(answers: list[tuple[str, Answer]], asked: int | None = None) -> Finding:
    """Whether ldd found every library of the modules' programs. Pure, so that the messages can be unit-tested.

    Args:
        asked: the number of modules; the shell may have ended before it came to all of them.
    """
    missing: list[tuple[str, str, str]] = []
    looked = 0
    late = [name for name, answer in answers if answer.code == 124]
    for name, answer in answers:
        parts = HEADER.split(answer.text)[1:]
        for program, said in zip(parts[::2], parts[1::2]):
            looked += 1
            lacking = dict.fromkeys(found[0] or found[1] for found in NOT_FOUND.findall(said))
            missing += [(program, name, library) for library in lacking]
    if missing:
        first, module, _ = missing[0]
        why = "; ".join(f"{program} of {name}: {library}" for program, name, library in missing[:SHOWN])
        why += f"; and {len(missing) - SHOWN} more" if missing[SHOWN:] else ""
        remedy = (f"bash -lc 'module load {module}; ldd {first}'", "on the head node: petal-node repair")
        # A warning: a program that users do not start by hand may get its library path from a script.
        return warn("libraries", f"{len(missing)} libraries are not found", why, *remedy)
    if late:
        return warn("libraries", f"ldd did not end within {PROGRAM_SECONDS} s", f"for {', '.join(late)}")
    if len(answers) < (asked or 0):
        return warn("libraries", f"only {len(answers)} of {asked} modules were looked at", "the deadline ended")
    return ok("libraries", f"the {looked} programs of {len(answers)} modules find all their libraries")


def _of_run(program: CheckCommand, answer: Answer, together: str) -> Finding:
    check = f"run:{program.command}"
    if answer.code == program.exit:
        return ok(check, _first(answer.text) or f"ended with {answer.code}")
    wanted = f", not {program.exit}" if program.exit else ""
    remedy = f"bash -lc '{together}; {program.command}'"
    return fail(check, f"ended with {answer.code}{wanted}", _last(answer.text), remedy)


def _in_shell(
    ctx: Context, modules: tuple[str, ...], programs: tuple[CheckCommand, ...], seconds: float
) -> Iterator[Answer]:
    """The answers in order; if the shell died or was ended at the deadline, its last output answers the rest."""
    user = ordinary_user(ctx)
    entry = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    env = {"PATH": PATH, "HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name, "LANG": "C.UTF-8"}
    if not ctx.paths.live:
        env["BASH_ENV"] = str(ctx.paths.init / "petal.sh")
    words = [word for program in programs for word in ("--", *shlex.split(program.command))]
    login = ["-l"] if ctx.paths.live else []
    argv = ["bash", *login, "-c", SCRIPT, "petal-check", str(PROGRAM_SECONDS), *modules, *words]
    lines: list[str] = []
    died = "the shell ended early"
    try:
        ctx.system.run(argv, timeout=seconds, env=env, user=user, ok=None, on_line=lines.append)
    except PetalError as error:
        died = str(error)
    said, _, rest = "\n".join(lines).partition("\0")  # a login's own output stands before the first NUL
    fields = rest.split("\0")
    for code, text in zip(fields[1::3], fields[2::3]):
        yield Answer(int(code), text)
    while True:
        yield Answer(1, _last(fields[-1] if rest else said) or died, alive=False)


def _first(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def _last(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])
