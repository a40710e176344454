"""Spack's commands: check specs, concretize, install, write modules, reindex, push; their output and their errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ..core.deadlines import INDEX, INSTALL, PACK, PROGRAM, SOLVE
from ..core.errors import ProcessFailed, SpackError, full_disk_code, full_disk_remedy
from ..core.facts import Host
from ..core.text import quoted
from ..host.atomic import replace_link, write_atomic
from ..host.files import make_dir, read_json, remove_tree, text_or_empty
from ..host.lock_owners import owners
from ..host.locks import make_private
from ..host.log import LOG
from ..host.system import Completed, System, clean_env
from .program import SpackInstall
from .scope import NOTHING, STACK, Places, as_yaml, with_lists

SCRIPT = Path(__file__).with_name("validate_script.py")
NO_CLINGO = (
    "list its wheels for this Python under spack.clingo, each with source and sha256",
    "or name a lockfile as stack, which needs none: petal-node lockfile --help",
)
NOT_WRITTEN = "some module files could not be written"  # lib/spack/spack/cmd/modules/__init__.py: refresh
NO_MODULES = ("-c", "modules:default:enable::[]")  # ``write_modules`` writes all of them once
DATABASE = ".spack-db"
LOCKS = ("lock", "prefix_lock", "prefix_failures")  # lib/spack/spack/database.py, of 0.23 to 1.2
GIB = 1 << 30
MOST_PROCESSES = 8
CACHES = ("bootstrap", "misc", "pycache", "stage", "test")  # on local disk


def usable_cores(host: Host, limit: int) -> int:
    """The cores for a build: at most as many as there are GiB of memory, because a compiler can need 1 GiB.

    Args:
        limit: cores that the install may use, 0 for all.
    """
    return max(1, min(host.cpus, limit or host.cpus, round(host.memory / GIB)))


class Parallel(NamedTuple):
    """How many packages are built at the same time, and the jobs of each (``make -j``)."""

    processes: int
    jobs: int


def split(cores: int) -> Parallel:
    """Divides the cores so that both many small packages and one large package use all of them.

    Most packages use one core for half of their time (fetch, unpack, configure, link, install), so several are built
    at once: about the square root of the cores, at most 8, because a dependency graph seldom has more that are ready.
    For the same reason each may run twice its share of the cores.
    """
    processes = min(MOST_PROCESSES, cores, max(2, round(math.sqrt(cores))))
    return Parallel(processes, min(cores, math.ceil(2 * cores / processes)))


@dataclass(frozen=True)
class Spack:
    """Spack with one scope and one environment.

    If a command fails, its method raises a SpackError with Spack's error lines; the code is ``spack-failed`` if the
    method names no other. It raises a ProcessFailed if Spack cannot be started, a ProcessTimeout at the deadline.

    Args:
        scope: the directory for ``-C``.
        environment: the directory of spack.yaml and spack.lock. It is on local disk, because Spack locks it often.
        output: a file that gets everything that Spack prints.
        note: gets Spack's error lines as they come.
        builders: a descriptor that every process of Spack keeps open (``cluster_lock``).
        cores: the cores that it may use.
        locks: how many locks the store's file system allows on one file; None without a limit.
    """

    system: System
    program: SpackInstall
    places: Places
    scope: Path
    environment: Path
    output: Path
    note: Callable[[str], None]
    builders: int | None = None
    cores: int = 1
    locks: int | None = None

    @property
    def parallel(self) -> Parallel:
        """The division of the cores in an install; Spack 0.23 builds one package after the other."""
        return split(self.cores) if self.program.family.parallel else Parallel(1, self.cores)

    @property
    def lockfile(self) -> Path:
        return self.environment / "spack.lock"

    def write_environment(self, specs: Sequence[str], extra: Mapping[str, Any]) -> None:
        """Writes spack.yaml from the specs and the stack's other sections.

        ``packages`` go into a scope of their own, because the scopes of ``-C`` empty the environment's.
        """
        make_dir(self.environment)
        packages = {"packages": with_lists(extra.get("packages") or {})}
        others = {key: value for key, value in extra.items() if key != "packages"}
        content = {**others, "specs": list(specs), "view": False, "concretizer": {"unify": True}}
        make_dir(self.scope / STACK)
        write_atomic(self.scope / STACK / "packages.yaml", as_yaml(packages))
        write_atomic(self.environment / "spack.yaml", as_yaml({"spack": content}))

    def concretize(self) -> None:
        """Solves the environment and writes ``lockfile``: ``spack-concretize``, ``spack-no-clingo``."""
        if not self.program.bootstraps:
            self._require_clingo()
        try:
            what = "the stack cannot be concretized"
            self._run("concretize", "--force", timeout=SOLVE, code="spack-concretize", what=what)
        except SpackError as error:
            if "cannot bootstrap" not in error.why:
                raise
            what = "Spack could not fetch clingo, its solver"
            raise SpackError(what, why=error.why, remedy=(*NO_CLINGO, *error.remedy), code="spack-no-clingo") from error

    def _require_clingo(self) -> None:
        try:
            self.system.run([sys.executable, "-c", "import clingo"], timeout=PROGRAM, env=self._env())
        except ProcessFailed as error:
            raise SpackError(
                "clingo, Spack's solver, is missing",
                why=f"{sys.executable} cannot import it",
                remedy=(*NO_CLINGO, "or spack: {clingo: bootstrap}, if this node reaches ghcr.io: Spack fetches it"),
                code="spack-no-clingo",
            ) from error

    def check_specs(self) -> dict[str, Any]:
        """Checks the environment's specs against the recipes, without solving: the answer of ``validate_script``."""
        answer = self.environment / "specs.json"
        answer.unlink(missing_ok=True)
        self._run("python", str(SCRIPT), str(answer), timeout=INDEX, what="Spack could not check the specs")
        return read_json(answer) or {}

    def install(
        self, on_line: Callable[[str], None], each_second: Callable[[], None], part: Sequence[str] = ()
    ) -> Completed:
        """Installs the packages of the lockfile. If one fails, Spack continues with those that do not need it.

        Args:
            part: install only these specs of the lockfile, by hash, and their dependencies.

        Returns:
            Spack's exit code and output, also of a failed install; read the database for the installed packages.
        """
        options = ["--only-concrete", "-j", str(self.parallel.jobs)]
        options += ["-p", str(self.parallel.processes)] if self.program.family.parallel else []
        arguments = [*NO_MODULES, "install", *options, *_by_hash(part)]
        return self._spack(*arguments, timeout=INSTALL, on_line=on_line, each_second=each_second)

    def unpack(self, digest: str) -> None:
        """Installs a package and its runtime dependencies, all from the scope's build cache: ``spack-install``."""
        arguments = [*NO_MODULES, "install", "--only-concrete", "--cache-only", f"/{digest}"]
        what = "Spack could not install a package that it had packed"
        self._run(*arguments, timeout=PACK, code="spack-install", what=what)

    def write_modules(self, directory: Path) -> None:
        """Writes the environment's lmod modules into an empty directory, as they are to be in ``places.modules``.

        In ``places.modules`` itself Spack would replace files that were changed by hand, and would truncate each first.
        """
        root, what = f"modules:default:roots:lmod:{directory}", "Spack could not write its modules"
        output = self._run("-c", root, "module", "lmod", "refresh", "-y", what=what)
        if NOT_WRITTEN in output:  # Spack exits 0
            raise self.error(what, output[output.index(NOT_WRITTEN) :])
        old, new = str(directory), str(self.places.modules)
        for path in directory.rglob("*"):
            if path.is_symlink():
                replace_link(path, str(path.readlink()).replace(old, new))
            elif path.is_file():
                path.write_bytes(path.read_bytes().replace(old.encode(), new.encode()))

    def reindex(self) -> None:
        """Makes Spack rebuild its database from the store and from the present database: ``spack-database``.

        Spack counts every prefix with ``.spack/spec.json`` as installed, and writes that file first: see ``database``.
        """
        self._run("reindex", code="spack-database", what="Spack could not reindex its store")

    def mark_implicit(self, hashes: Sequence[str]) -> None:
        """Marks packages in the database as dependencies only: ``spack-database``."""
        what = "Spack could not mark packages as implicit"
        self._run("mark", "-i", *_by_hash(hashes), code="spack-database", what=what)

    def uninstall(self, hashes: Sequence[str]) -> None:
        """Removes packages from the store, also if others need them. Modules of other packages stay."""
        arguments = [*NO_MODULES, "uninstall", "-y", "--force", *_by_hash(hashes)]
        self._run(*arguments, what="Spack could not remove packages", inside=False)

    def push(self, hashes: Sequence[str], directory: Path) -> None:
        """Packs packages into a build cache at ``directory``, unsigned and without an index: ``cache-push``."""
        make_dir(directory)
        options = ["--unsigned", "--only", "package", "-j", str(self.cores)]
        arguments = ["buildcache", "push", *options, f"file://{directory}", *_by_hash(hashes)]
        self._run(*arguments, timeout=PACK, code="cache-push", what="Spack could not pack the packages that it built")

    def _run(
        self, *arguments: str, what: str, code: str = "spack-failed", timeout: float = SOLVE, inside: bool = True
    ) -> str:
        def note_error(line: str) -> None:
            if line.startswith("==> Error"):
                self.note(line.removeprefix("==> ").strip())

        done = self._spack(*arguments, timeout=timeout, on_line=note_error, inside=inside)
        if done.returncode != 0:
            raise self.error(what, failure(done.stdout), code)
        return done.stdout

    def error(self, what: str, why: str, code: str = "") -> SpackError:
        """The error of a command; its code is that of a full disk or quota if Spack's words ``why`` name one."""
        full = full_disk_code(why)
        disks = (full_disk_remedy(full, self.places.store, self.places.scratch),) if full else ()
        return SpackError(what, why=why, remedy=(*disks, f"less {quoted(self.output)}"), code=full or code)

    def _spack(
        self,
        *arguments: str,
        timeout: float,
        on_line: Callable[[str], None],
        each_second: Callable[[], None] | None = None,
        inside: bool = True,
    ) -> Completed:
        """Runs Spack, ``inside`` its environment or without one.

        The scopes are in order, the weakest first: an empty one, Spack's defaults, the stack's packages, petal-node's.
        The first two cannot be an ``include`` of the environment: 0.23 would then search compilers before it reads
        ``-C``, and write them into spack.yaml.
        """
        defaults = [self.program.tree / directory for directory in self.program.family.defaults]
        scopes = (self.scope / NOTHING, *defaults, self.scope / STACK, self.scope)
        options = [word for scope in scopes for word in ("-C", str(scope))]
        options += ["-e", str(self.environment)] if inside else ["-E"]
        argv = [str(self.program.tree / "bin" / "spack"), *options, *arguments]
        self._discard_incomplete_caches()
        lost, reason = 0, ""
        make_dir(self.output.parent)
        self._shut_users_out()
        with self.output.open("ab", buffering=0) as log:

            def write(line: str) -> None:
                nonlocal lost, reason
                try:
                    log.write(line.encode(errors="replace") + b"\n")
                except OSError as error:  # the disk is full, and Spack continues
                    lost, reason = lost + 1, str(error)

            def keep(line: str) -> None:
                write(line)
                on_line(line)

            write(f"$ spack {' '.join(arguments)}")
            try:
                done = self.system.run(
                    argv,
                    timeout=timeout,
                    env=self._env(),
                    ok=None,
                    on_line=keep,
                    each_second=each_second,
                    given=self.builders,
                )
            finally:
                if lost:
                    LOG.warning("%s lacks %d lines: %s", self.output, lost, reason, extra={"step": "spack"})
        if done.returncode != 0:  # on a full disk Spack and Python keep parts of files, and fail again with them
            for path in (self.places.scratch / "pycache", *unreadable_indexes(self.places.scratch)):
                remove_tree(path)
        return done

    def _discard_incomplete_caches(self) -> None:
        """Spack flushes none of its files and trusts them, so after a power cut it would use empty ones.

        An earlier run may have been killed on a full disk. Every command fails on a truncated index (run with 1.1).
        """
        for path in () if self.output.exists() else unreadable_indexes(self.places.scratch):
            remove_tree(path)
        mark, boot_id = self.places.scratch / "boot", self.system.boot_id()
        if text_or_empty(mark) != boot_id:
            for path in (path for name in CACHES for path in (self.places.scratch / name).glob("*")):
                remove_tree(path)  # not the directory itself, on which a larger disk may be mounted
            make_dir(mark.parent)
            write_atomic(mark, boot_id.encode())

    def _shut_users_out(self) -> None:
        """Leaves users no file of Spack to lock: with a lock for reading, a user would stop each install.

        Spack makes its lock files readable for all, in the store, its caches, the stage and the environment.
        """
        for directory in (self.places.scratch, self.environment):
            make_dir(directory)
            directory.chmod(0o700)
        make_dir(self.places.store / DATABASE)
        for name in LOCKS:
            path = self.places.store / DATABASE / name
            make_private(path)
            for owner in owners(path):
                self.note(f"Spack may wait for {path}, which is locked by {owner}")

    def _env(self) -> dict[str, str]:
        scratch = self.places.scratch
        for name in ("home", "tmp"):
            make_dir(scratch / name)
        env = clean_env(
            scratch / "home",
            TMPDIR=str(scratch / "tmp"),
            SPACK_PYTHON=sys.executable,
            SPACK_DISABLE_LOCAL_CONFIG="1",
            SPACK_USER_CACHE_PATH=str(scratch / "user"),
            SPACK_GNUPGHOME=str(scratch / "gpg"),
            PYTHONPYCACHEPREFIX=str(scratch / "pycache"),
            PYTHONUNBUFFERED="1",
        )
        if self.program.clingo is not None:
            env["PYTHONPATH"] = str(self.program.clingo)
        return env


def unreadable_indexes(scratch: Path) -> list[Path]:
    """Spack's indexes (config:misc_cache) whose write was cut off. Spack makes them again if they are missing."""
    return [path for path in sorted((scratch / "misc").rglob("*.json")) if not _is_json(path)]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True  # Spack has replaced it
    except (ValueError, RecursionError):
        return False
    return True


def _by_hash(hashes: Sequence[str]) -> list[str]:
    return [f"/{digest}" for digest in hashes]


def failure(output: str) -> str:
    """Spack's error lines, each with the lines that follow it; its last lines if there are none."""
    lines = output.splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("==> Error")]
    picked: list[str] = []
    for start in starts[:4]:
        picked += [line for line in lines[start : start + 8] if line.strip()]
    return "\n".join((picked or lines[-8:])[:24]).replace("==> Error: ", "")
