"""A fresh login shell, as a user gets it: modules load, their programs find their libraries, programs run.

One shell does everything. If root asks, it is a shell of the cluster's ordinary user, and nothing of the environment of
this process reaches it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..config.model import CheckCommand
from ..core.deadlines import PROGRAM
from ..core.errors import PetalError
from ..core.model import Finding, Role, Severity
from ..core.text import at_most
from ..host.system import clean_env, passwd_entry
from ..state.context import Context
from ..state.release import Manifest
from .fleet import ordinary_user

QUOTED = 5
ON_HEAD = "on the head node: petal-node check    (compares packages and module files)"
# Each answer is three fields that end with NUL: the question, its exit code, the output. Each module is loaded in a
# shell of its own, which also gives its PATH and LD_LIBRARY_PATH. Then all are loaded together, and each program of
# the configuration runs. At last, because it may take long, ldd(1) looks at the programs (ELF files) in the directories
# that each module adds to PATH.
# Arguments: seconds that a program may take, modules, then each program after ``--``.
SCRIPT = r"""
answer() { printf '%s\0%d\0%s\0\n' "$1" "$2" "$3"; }
programs() {
  local directory directories file magic
  found=()
  IFS=: read -ra directories <<<"$1"
  for directory in "${directories[@]}"; do
    case ":$PATH:" in *":$directory:"*) continue ;; esac
    for file in "$directory"/*; do
      if [ -f "$file" ] && [ -x "$file" ] && [ -r "$file" ] && IFS= read -r -N 4 magic <"$file" 2>/dev/null &&
        [ "$magic" = $'\x7fELF' ]; then found+=("$file"); fi
    done
  done
}
printf '\0'
limit=$1 modules=()
shift
kind=$(type -t module) || kind=none
answer modules 0 "$kind ${LMOD_VERSION:--} ${PETAL_RELEASE:--} ${MODULEPATH:--}"
while [ $# -gt 0 ] && [ "$1" != -- ]; do modules+=("$1"); shift; done
paths=() libraries=()
for module in "${modules[@]}"; do
  output=$(
    module load "$module" 2>&1 </dev/null; code=$?
    printf '\1%s\1%s' "$PATH" "${LD_LIBRARY_PATH-}"; exit $code
  ); code=$?
  libraries+=("${output##*$'\1'}"); output=${output%$'\1'*}
  paths+=("${output##*$'\1'}"); answer load $code "${output%$'\1'*}"
done
(
  [ ${#modules[@]} -eq 0 ] || module load "${modules[@]}" >/dev/null 2>&1 </dev/null
  while [ $# -gt 0 ]; do
    shift; program=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do program+=("$1"); shift; done
    output=$(timeout "$limit" "${program[@]}" 2>&1 </dev/null); answer run $? "$output"
  done
)
for index in "${!modules[@]}"; do
  programs "${paths[index]}"
  output=$(
    [ ${#found[@]} -gt 0 ] || exit 0
    [ ${#found[@]} -gt 1 ] || printf '%s:\n' "${found[0]}"
    LC_ALL=C LD_LIBRARY_PATH=${libraries[index]} timeout "$limit" ldd "${found[@]}" 2>&1
  ); answer libraries $? "$output"
done
"""
NOT_FOUND = re.compile(r"^\s*(.+?) => not found|version `(.+?)' not found", re.MULTILINE)
HEADER = re.compile(r"^(/\S.*):$", re.MULTILINE)
# Lmod prints its reason first, wrapped at 80 characters, then general advice.
LMOD_ERROR = re.compile(
    r"Lmod has detected the following error:\s*(.+?)\s*(?:\n\s*\n|\n\s*Please check |\nWhile processing |\Z)", re.DOTALL
)


@dataclass(frozen=True)
class Answer:
    """One answer of the shell; ``alive`` is false if the shell had ended before the question."""

    code: int
    text: str
    alive: bool = True


def check_login_shell(ctx: Context, manifest: Manifest, seconds: float) -> Iterator[Finding]:
    """The module command, each module, each program of ``check.run``, the libraries of the modules' programs."""
    for finding in _judge_all(ctx, manifest, seconds):
        is_wrong = finding.severity is not Severity.OK and finding.check != "modules"
        remedy = (*finding.remedy, ON_HEAD) if is_wrong and ctx.role is not Role.HEAD else finding.remedy
        yield replace(finding, remedy=remedy)


def _judge_all(ctx: Context, manifest: Manifest, seconds: float) -> Iterator[Finding]:
    modules, programs = modules_to_load(ctx, manifest), ctx.config.check.run
    answers = ask_shell(ctx, modules, programs, seconds)
    yield judge_module_command(ctx, next(answers))
    for name in modules:
        answer = next(answers)
        if answer.code == 0:
            yield Finding(f"load:{name}", Severity.OK, "loads in a fresh login shell")
        else:
            message, remedy = f"ended with {answer.code}", (f"bash -lc 'module load {name}'",)
            yield Finding(f"load:{name}", Severity.FAIL, message, _reason_in(answer.text), remedy)
    load = f"module load {' '.join(modules)}" if modules else "true"
    for program in programs:
        yield judge_program(program, next(answers), load)
    if modules:
        yield judge_libraries([(name, next(answers)) for name in modules])


def modules_to_load(ctx: Context, manifest: Manifest) -> tuple[str, ...]:
    """The modules of ``check.load``, else every module in the release's Core."""
    if ctx.config.check.load:
        return ctx.config.check.load
    return manifest.core_modules(ctx.facts.host.target)


def ask_shell(
    ctx: Context, modules: Sequence[str], programs: Sequence[CheckCommand], seconds: float
) -> Iterator[Answer]:
    """The answers in order, without end; a shell that ended early answers the rest with its last output."""
    user = ordinary_user(ctx)
    entry = passwd_entry(user)
    env = clean_env(entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    if not ctx.paths.live:
        env["BASH_ENV"] = str(ctx.paths.init / "petal.sh")
    words = [word for program in programs for word in ("--", *shlex.split(program.command))]
    login = ["-l"] if ctx.paths.live else []
    argv = ["bash", *login, "-c", SCRIPT, "petal-check", f"{PROGRAM:.0f}", *modules, *words]
    lines: list[str] = []
    reason = "the shell ended early"
    try:
        ctx.system.run(argv, timeout=seconds, env=env, user=user, ok=None, on_line=lines.append)
    except PetalError as error:
        reason = str(error)
    greeting, _, output = "\n".join(lines).partition("\0")  # a login may print something before the first NUL
    fields = output.split("\0")
    for code, text in zip(fields[1::3], fields[2::3]):
        yield Answer(int(code), text.rstrip("\n"))
    while True:
        yield Answer(1, _reason_in(fields[-1] if output else greeting) or reason, alive=False)


def judge_module_command(ctx: Context, answer: Answer) -> Finding:
    """The first answer: the kind of ``module`` in a fresh shell, Lmod's version, the release, MODULEPATH."""
    remedy = ("bash -lc 'type module; echo $LMOD_VERSION $MODULEPATH'", "petal-node repair")
    kind, version, release, path = (*answer.text.split(" ", 3), "", "", "", "")[:4]
    if answer.code:
        return Finding("modules", Severity.FAIL, "a fresh login shell gave no answer", answer.text, remedy)
    if kind != "function" or version == "-":
        what = "has no module command" if kind in ("none", "") else "has another module command than Lmod's"
        why = "the init files are not read, or a later profile replaces the command"
        return Finding("modules", Severity.FAIL, f"a fresh login shell {what}", why, remedy)
    if f"{release}/modules/" not in path:
        what = "a fresh login shell does not look into the release"
        return Finding("modules", Severity.FAIL, what, f"MODULEPATH is {path}", remedy)
    return Finding("modules", Severity.OK, f"Lmod {version} looks into {release.replace(f'{ctx.paths.releases}/', '')}")


def judge_libraries(answers: Sequence[tuple[str, Answer]]) -> Finding:
    """Whether ldd found every library of the programs of each module."""
    missing: list[tuple[str, str, str]] = []
    looked_at = [(name, answer) for name, answer in answers if answer.alive]
    programs = 0
    for name, answer in looked_at:
        parts = HEADER.split(answer.text)[1:]
        for program, output in zip(parts[::2], parts[1::2]):
            programs += 1
            libraries = dict.fromkeys(library or version for library, version in NOT_FOUND.findall(output))
            missing += [(program, name, library) for library in libraries]
    if missing:
        first, module, _ = missing[0]
        why = "; ".join(at_most(QUOTED, [f"{program} of {name}: {library}" for program, name, library in missing]))
        remedy = (f"bash -lc 'module load {module}; ldd {first}'",)
        # A warning: a program that is started by a script of its package may find its libraries by that script.
        return Finding("libraries", Severity.WARN, f"{len(missing)} libraries are not found", why, remedy)
    late = [name for name, answer in looked_at if answer.code == 124]  # timeout(1)
    if late:
        why = f"for {', '.join(late)}"
        return Finding("libraries", Severity.WARN, f"ldd did not end within {PROGRAM:.0f} s", why)
    if len(looked_at) < len(answers):
        what = f"only {len(looked_at)} of {len(answers)} modules were looked at"
        return Finding("libraries", Severity.WARN, what, "the deadline ended")
    what = f"all libraries are found; programs: {programs}, modules: {len(answers)}"
    return Finding("libraries", Severity.OK, what)


def judge_program(program: CheckCommand, answer: Answer, load: str) -> Finding:
    """Whether a program of ``check.run`` ended with the exit code that the configuration names."""
    check = f"run:{program.command}"
    if answer.code == program.exit:
        first = next((line.strip() for line in answer.text.splitlines() if line.strip()), "")
        return Finding(check, Severity.OK, first or f"ended with {answer.code}")
    expected = f", not {program.exit}" if program.exit else ""
    remedy = (f"bash -lc {shlex.quote(f'{load}; {program.command}')}",)
    return Finding(check, Severity.FAIL, f"ended with {answer.code}{expected}", _reason_in(answer.text), remedy)


def _reason_in(text: str) -> str:
    """Lmod's reason in an output; without one, the last three lines."""
    error = LMOD_ERROR.search(text)
    if error:
        return " ".join(error[1].split())
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])
