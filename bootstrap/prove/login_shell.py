"""A fresh login shell, as a user gets it: modules load, their programs find their libraries, programs run.

One shell does everything. If root asks, it is a shell of the cluster's ordinary user, and nothing of the environment of
this process reaches it.
"""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from ..config.model import CheckCommand
from ..core.deadlines import PROGRAM
from ..core.errors import PetalError
from ..core.model import Finding, Role, Severity
from ..core.text import at_most, first_words, quoted
from ..host.files import text_or_empty
from ..host.system import USERS_OUTPUT, clean_env, passwd_entry
from ..state.context import Context
from ..state.release import Manifest
from .user import ordinary_user

GONE = 300  # more than any exit code: the module loads, and a directory that it adds does not exist
NO_PROGRAM = 301  # the kernel would refuse to run the file
NOT_LOADED = 302  # the command succeeded, and the module is not loaded: bash evaluates nothing if Lmod itself fails
QUOTED, LINE = 5, 400  # libraries, and characters of a line of output
ON_HEAD = "on the head node: petal-node check    # compares packages and module files"
ANSWER = 32 << 10  # bytes of an answer: 8,000 characters of output
# Each answer is a nonce, the question, its exit code and the output, each between NULs. Each module is loaded in a
# shell of its own, which shows PATH, LD_LIBRARY_PATH, and a directory that the module adds and that does not exist.
# Then all are loaded, and each program of the configuration runs. execvp(3) and bash give a file that the kernel
# refuses to sh, where an empty one succeeds; so ``refusal`` looks at the file and its interpreters first. At last,
# because it may take long, ldd(1) looks at the programs (ELF files) in the directories that each module adds to PATH.
# Arguments: a nonce, seconds that a program may take, bytes that it may print, the store, modules, then each program
# after ``--``.
SCRIPT = r"""
answer() {
  local text=$3
  [ ${#text} -le 8000 ] || text="${text:0:1000}"$'\n'"${text: -6000}"
  printf '\0%s\0%s\0%d\0%s\0\n' "$nonce" "$1" "$2" "$text"
}
refusal() {
  local file=$1 magic depth
  for depth in 1 2 3 4 5; do
    [ -f "$file" ] && [ -x "$file" ] || return
    [ -s "$file" ] || { printf '%s is empty' "$file"; return; }
    { [ -r "$file" ] && magic=$(LC_ALL=C head -c 256 -- "$file"); } 2>/dev/null || return
    case $magic in
      $'\x7fELF'*) return ;;
      '#!'*)
        magic=${magic%%$'\n'*}; read -r file magic <<<"${magic#??}"
        if [ "${file##*/}" = env ]; then read -r file magic <<<"${magic#-S }"; file=$(type -P -- "$file"); fi ;;
      *) printf '%s is neither an ELF file nor a script with #!' "$file"; return ;;
    esac
  done
}
programs() {
  local directory directories file magic
  found=() empty=()
  IFS=: read -ra directories <<<"$1"
  for directory in "${directories[@]}"; do
    case ":$PATH:" in *":$directory:"*) continue ;; esac
    for file in "$directory"/*; do
      if [ -f "$file" ] && [ -x "$file" ] && [ ! -s "$file" ]; then empty+=("$file"); fi
      if [ -f "$file" ] && [ -x "$file" ] && [ -r "$file" ] && IFS= read -r -N 4 magic <"$file" 2>/dev/null &&
        [ "$magic" = $'\x7fELF' ]; then found+=("$file"); fi
    done
  done
}
absent() {
  local name entry entries added=0 present=0
  for name in PATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH PKG_CONFIG_PATH; do
    IFS=: read -ra entries <<<"${!name-}"
    for entry in "${entries[@]}"; do
      if [[ $entry == "$store"* && ! -e $entry ]]; then printf %s "$entry"; return; fi
      if [ $name = PATH ] && [[ :$before: != *":$entry:"* ]]; then
        added=$((added + 1)) last=$entry
        [ ! -e "$entry" ] || present=1
      fi
    done
  done
  [ $added -eq 0 ] || [ $present -eq 1 ] || printf %s "$last"
}
nonce=$1 limit=$2 most=$3 store=$4 before=$PATH modules=()
shift 4
kind=$(type -t module) || kind=none
code=0 output="$kind ${LMOD_VERSION:--} ${PETAL_RELEASE:--} ${MODULEPATH:--}"
if [ -n "${LMOD_CMD-}" ]; then
  text=$(timeout "$limit" "$LMOD_CMD" bash --version 2>&1 | head -c "$most"; exit "${PIPESTATUS[0]}") ||
    code=$? output=$text
fi
answer modules $code "$output"
while [ $# -gt 0 ] && [ "$1" != -- ]; do modules+=("$1"); shift; done
paths=() libraries=()
for module in "${modules[@]}"; do
  output=$(
    known=${LOADEDMODULES-}
    module load "$module" > >(head -c "$most") 2>&1 </dev/null; code=$?; wait $!
    gone=$(absent)
    case :${LOADEDMODULES-}: in
      *":$module:"* | *":$module/"*) ;;
      *) [ "$known" != "${LOADEDMODULES-}" ] || gone=- ;; # an alias loads another name
    esac
    printf '\1%s\1%s\1%s' "$PATH" "${LD_LIBRARY_PATH-}" "$gone"; exit $code
  ); code=$?
  gone=${output##*$'\1'}; output=${output%$'\1'*}
  libraries+=("${output##*$'\1'}"); output=${output%$'\1'*}
  paths+=("${output##*$'\1'}"); output=${output%$'\1'*}
  if [ $code -eq 0 ] && [ "$gone" = - ]; then code=302; fi
  if [ $code -eq 0 ] && [ -n "$gone" ]; then code=300 output=$gone; fi
  answer load $code "$output"
done
(
  for module in "${modules[@]}"; do module load "$module" >/dev/null 2>&1 </dev/null; done
  while [ $# -gt 0 ]; do
    shift; program=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do program+=("$1"); shift; done
    output=$(refusal "$(type -P -- "${program[0]}")"); code=301
    [ -n "$output" ] || {
      output=$(timeout "$limit" "${program[@]}" 2>&1 </dev/null | head -c "$most"; exit "${PIPESTATUS[0]}"); code=$?
    }
    [ ${#output} -lt "$most" ] || output+=$'\n'"it was ended because it printed more than $most bytes"
    answer run $code "$output"
  done
)
for index in "${!modules[@]}"; do
  programs "${paths[index]}"
  output=$(
    [ ${#empty[@]} -eq 0 ] || printf '%s is empty\n' "${empty[@]}" | head -c "$most"
    [ ${#found[@]} -gt 0 ] || exit 0
    { [ ${#found[@]} -gt 1 ] || printf '%s:\n' "${found[0]}"
      LC_ALL=C LD_LIBRARY_PATH=${libraries[index]} timeout "$limit" ldd "${found[@]}"; } 2>&1 |
      sed -n '/^\/.*:$/{h;d};/not found/{x;/./p;s/.*//;x;p}' | head -c "$most"
    exit "${PIPESTATUS[0]}"
  ); code=$?
  answer libraries $code "${#found[@]}"$'\n'"$output"
done
"""
# Libraries of the NVIDIA driver, which only nodes with such a GPU have.
DRIVER = ("libcuda.so", "libcudadebugger.so", "libnvidia-", "libnvcuvid.so", "libnvoptix.so", "libnvrm")
NVIDIA, AMD = "0x10de", "0x1002"  # vendors of GPUs (pci.ids)
EMPTY = " is empty"  # after the path of a program
LMOD_ERROR = "Lmod has detected the following error:"  # its reason follows, wrapped at 80 characters
LMOD_ADVICE = ("Please check ", "While processing ")  # general advice follows
LMOD_LINES = 12


@dataclass(frozen=True)
class Answer:
    """One answer of the shell; ``alive`` is false if the shell had ended before the question."""

    code: int
    text: str
    alive: bool = True


def check_login_shell(ctx: Context, manifest: Manifest, seconds: float) -> Iterator[Finding]:
    """The module command, each module, each program of ``check.run``, the libraries of the modules' programs."""
    for finding in _judge_all(ctx, manifest, seconds):
        is_wrong = finding.severity in (Severity.WARN, Severity.FAIL) and finding.check != "modules"
        remedy = (*finding.remedy, ON_HEAD) if is_wrong and ctx.role is not Role.HEAD else finding.remedy
        yield replace(finding, remedy=remedy)


def _judge_all(ctx: Context, manifest: Manifest, seconds: float) -> Iterator[Finding]:
    modules, gpus = modules_to_load(ctx, manifest), _gpus(ctx)
    programs = [program for program in ctx.config.check.run if not _not_here(ctx, program, gpus)]
    answers = ask_shell(ctx, modules, programs, seconds)
    shell = judge_module_command(ctx, next(answers))
    yield shell
    if shell.severity is Severity.FAIL:  # all others would fail for the same cause, or succeed without a module
        return
    for name in modules:
        answer = next(answers)
        if answer.code == 0:
            yield Finding(f"load:{name}", Severity.OK, "loads in a fresh login shell")
        elif answer.code == GONE:
            message, why = "it loads, and its package is gone", f"{answer.text} does not exist"
            yield Finding(f"load:{name}", Severity.FAIL, message, why, (f"ls -ld {shlex.quote(answer.text)}",))
        elif answer.code == NOT_LOADED:
            message, why = "module load succeeds and loads nothing", _reason_in(answer.text) or "Lmod printed nothing"
            remedy = (f"bash -lc {shlex.quote(f'module load {name}; module list')}",)
            yield Finding(f"load:{name}", Severity.FAIL, message, why, remedy)
        else:
            message, remedy = f"ended with {answer.code}", (f"bash -lc 'module load {name}'",)
            yield Finding(f"load:{name}", Severity.FAIL, message, _reason_in(answer.text), remedy)
    load = f"module load {' '.join(modules)}" if modules else "true"
    for program in ctx.config.check.run:
        reason = _not_here(ctx, program, gpus)
        if reason:
            yield Finding(f"run:{program.command}", Severity.SKIP, reason)
        else:
            yield judge_program(program, next(answers), load)
    if modules:
        yield judge_libraries([(name, next(answers)) for name in modules], without_driver=NVIDIA not in gpus)


def _not_here(ctx: Context, program: CheckCommand, gpus: frozenset[str]) -> str:
    """Why a program is not checked on this node, or an empty string."""
    if program.queues and ctx.facts.cluster.queue not in program.queues:
        return f"only on nodes of {', '.join(program.queues)}"
    return "only on nodes with a GPU" if program.gpu and not gpus & {NVIDIA, AMD} else ""


def _gpus(ctx: Context) -> frozenset[str]:
    """The vendors of the display controllers and processing accelerators of this node (sysfs-bus-pci)."""
    vendors = set()
    for device in ctx.paths.at("/sys/bus/pci/devices").glob("*"):
        if text_or_empty(device / "class").startswith(("0x03", "0x12")):
            vendors.add(text_or_empty(device / "vendor").strip())
    return frozenset(vendors)


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
    login, nonce = ["-l"] if ctx.paths.live else [], secrets.token_hex(8)
    questions = ["modules", *["load"] * len(modules), *["run"] * len(programs), *["libraries"] * len(modules)]
    arguments = [nonce, f"{PROGRAM:.0f}", str(USERS_OUTPUT), str(ctx.paths.store), *modules, *words]
    lines: list[str] = []
    ended, most = "", USERS_OUTPUT + ANSWER * len(questions)
    try:
        argv = ["bash", *login, "-c", SCRIPT, "petal-check", *arguments]
        ctx.system.run(argv, timeout=seconds, env=env, user=user, ok=None, on_line=lines.append, most=most)
    except PetalError as error:
        ended = f"{error.what}. "
    # Before the first nonce is the output of the profile.
    before, *parts = "\n".join(lines).split(f"\0{nonce}\0")
    if len(parts) > len(questions):
        parts, before = [], "the shell printed more answers than there are questions"
    for question, part in zip(questions, parts):
        name, code, text, *rest = (*part.split("\0"), "", "")
        if name != question or not rest or not re.fullmatch("[0-9]{1,3}", code):
            break
        before = "".join(rest)
        yield Answer(int(code), text.rstrip("\n"))
    while True:
        yield Answer(1, f"{ended}{_reason_in(before)}".strip() or "the shell ended early", alive=False)


def judge_module_command(ctx: Context, answer: Answer) -> Finding:
    """The first answer: the kind of ``module`` in a fresh shell, Lmod's version, the release, MODULEPATH."""
    remedy = ("bash -lc 'type module; echo $LMOD_VERSION $MODULEPATH'", "petal-node repair")
    kind, version, release, path = (*answer.text.split(" ", 3), "", "", "", "")[:4]
    if answer.code and answer.alive:
        look = ("bash -lc '$LMOD_CMD bash --version'", "install Lua and its package luaposix again")
        return Finding(
            "modules", Severity.FAIL, "Lmod does not run in a fresh login shell", _reason_in(answer.text), look
        )
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


def judge_libraries(answers: Sequence[tuple[str, Answer]], *, without_driver: bool = False) -> Finding:
    """Whether ldd found every library of the programs of each module.

    Args:
        answers: each has the number of programs in its first line.
        without_driver: the node has no NVIDIA GPU, so it needs no library of its driver.
    """
    missing: list[tuple[str, str, str]] = []
    looked_at = [(name, answer) for name, answer in answers if answer.alive]
    lines_of_all = [line for _, answer in looked_at for line in answer.text.splitlines()]
    empty = [line[: -len(EMPTY)] for line in lines_of_all if line.startswith("/") and line.endswith(EMPTY)]
    if empty:
        message, why = f"empty programs in the modules: {len(empty)}", ", ".join(at_most(QUOTED, empty))
        return Finding("libraries", Severity.FAIL, message, why, (f"ls -l {shlex.quote(empty[0])}",))
    programs = 0
    for name, answer in looked_at:
        number, *lines = answer.text.splitlines() or ["0"]
        programs += int(number) if re.fullmatch("[0-9]{1,6}", number) else 0
        program = ""
        for line in lines:
            library = _missing_library(line)
            if line.startswith("/") and line.endswith(":"):
                program = line[:-1]
            elif library and not (without_driver and library.startswith(DRIVER)):
                missing.append((program, name, library))
    missing = list(dict.fromkeys(missing))
    if missing:
        first, module, _ = missing[0]
        why = "; ".join(at_most(QUOTED, [f"{program} of {name}: {library}" for program, name, library in missing]))
        remedy = (f"bash -lc {quoted(f'module load {module}; ldd {quoted(first)}')}",)
        # A warning: a program that is started by a script of its package may find its libraries by that script.
        return Finding("libraries", Severity.WARN, f"{len(missing)} libraries are not found", why, remedy)
    if problem := _unexamined(answers):
        return problem
    if not programs:
        return Finding("libraries", Severity.SKIP, f"no programs in {len(answers)} modules")
    what = f"all libraries are found; programs: {programs}, modules: {len(answers)}"
    return Finding("libraries", Severity.OK, what)


def _unexamined(answers: Sequence[tuple[str, Answer]]) -> Finding | None:
    """The finding if ldd did not look at the programs of each module."""
    looked_at = [(name, answer) for name, answer in answers if answer.alive]
    late = [name for name, answer in looked_at if answer.code == 124]  # timeout(1)
    if late:
        why = f"for {', '.join(late)}"
        return Finding("libraries", Severity.WARN, f"ldd did not end within {PROGRAM:.0f} s", why)
    failed = [f"{answer.code} for {name}" for name, answer in looked_at if answer.code not in (0, 1)]
    if failed:  # 1 is ldd's own for a file that is not a dynamic executable
        why = f"it ended with {', '.join(at_most(QUOTED, failed))}"
        return Finding("libraries", Severity.WARN, "ldd did not run", why, ("ldd --version",))
    if len(looked_at) < len(answers):
        what = f"only {len(looked_at)} of {len(answers)} modules were looked at"
        return Finding("libraries", Severity.WARN, what, "the deadline ended")
    return None


def _missing_library(line: str) -> str:
    """The library or version that a line of ldd(1) misses, or an empty string."""
    library, arrow, _ = line.partition(" => not found")
    if arrow:
        return library.strip()
    before, found, _ = line.partition("' not found")
    return before.rpartition("version `")[2] if found else ""


def judge_program(program: CheckCommand, answer: Answer, load: str) -> Finding:
    """Whether a program of ``check.run`` ended with the exit code that the configuration names."""
    check = f"run:{program.command}"
    if answer.code == NO_PROGRAM:
        show = shlex.quote(f"{load}; type -a {shlex.quote(shlex.split(program.command)[0])}")
        return Finding(check, Severity.FAIL, "the kernel refuses to run it", answer.text, (f"bash -lc {show}",))
    if answer.code == program.exit:
        first = next((line.strip() for line in answer.text.splitlines() if line.strip()), "")
        return Finding(check, Severity.OK, first_words(first, LINE) or f"ended with {answer.code}")
    expected = f", not {program.exit}" if program.exit else ""
    remedy = (f"bash -lc {shlex.quote(f'{load}; {program.command}')}",)
    return Finding(check, Severity.FAIL, f"ended with {answer.code}{expected}", _reason_in(answer.text), remedy)


def _reason_in(text: str) -> str:
    """Lmod's reason in an output; without one, the last three lines."""
    _, found, rest = text.partition(LMOD_ERROR)
    # Blank lines do not end it: Lmod prints one before a path that is too long for its line.
    lines = [line.strip() for line in rest.splitlines() if line.strip()] if found else []
    advice = next((number for number, line in enumerate(lines) if line.startswith(LMOD_ADVICE)), len(lines))
    if reason := " ".join(" ".join(lines[: min(advice, LMOD_LINES)]).split()):
        return first_words(reason, LINE)
    lines = [first_words(line.strip(), LINE) for line in text.splitlines() if line.strip()]
    return " / ".join(lines[-3:])
