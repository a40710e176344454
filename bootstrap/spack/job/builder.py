"""The build job's side: on a node of a queue it builds what the order says into the store, and nothing else.

It ends when the worker that ordered it does: the lease on shared storage is looked at while Spack runs.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...core.errors import JobError, PetalError, as_error
from ...core.facts import Host
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import Completed, System
from ..cache.pull import Pulled
from ..compiler import find_compiler
from ..driver import Spack
from ..install import install_or_build
from ..parallel import split
from ..program import SpackInstall, key_at, version_of
from ..scope import Places
from .order import DONE, RUNNING, JobDirectory, JobState, Lease, Order

# Where a node's Spack or recipes are others than the head node's.
OF_PROGRAMS = (
    "petal-node bootstrap --layout hybrid, with this configuration, on the machine that the queue's image is made of",
    "or layout: shared, where all nodes have one Spack; a source that is a directory must be there on all of them",
)


class Leased(System):
    """Ends the program that runs when the lease is over; ``check`` is called about once a second."""

    def __init__(self, system: System, check: Callable[[], None]) -> None:
        self._system = system
        self._check = check

    def run(self, argv: Any, **options: Any) -> Completed:
        for name in ("on_line", "on_idle"):
            if options.get("on_line"):
                options[name] = self._checked(options.get(name))
        return self._system.run(argv, **options)

    def _checked(self, call: Callable[..., None] | None) -> Callable[..., None]:
        def checked(*arguments: Any) -> None:
            self._check()
            if call is not None:
                call(*arguments)

        return checked


class Builder:
    """One build job.

    What it says goes to a disk of this node first and is copied to shared storage, which the build itself may have
    filled: what cannot be written there costs the words, never the build.

    Args:
        local: a directory of this node for what Spack locks all the time, and for logs.
        note: told each line of progress.
    """

    def __init__(
        self, directory: JobDirectory, host: Host, system: System, local: Path, note: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._host = host
        self._system = system
        self._local = local
        self._print = note
        self._text = ""
        self._notes: tuple[str, ...] = ()
        self._troubled: set[str] = set()

    def run(self) -> tuple[PetalError, ...]:
        """Builds, and leaves how it ended for the worker."""
        errors: tuple[PetalError, ...] = ()
        try:
            remove_tree(self._local)  # of a job that was killed
            self._tell("")
            order = self._directory.order()
            check_node(order, self._host, self._system)
            errors = self._built(order)
        except (PetalError, OSError) as trouble:
            errors = (self._as_told(trouble),)
        finally:
            self._keep_logs()
        try:
            told = tuple(error.to_dict() for error in errors)
            self._directory.write_end(JobState(DONE, self._host.name, "", told, self._notes))
        except OSError as error:
            LOG.error("how the job ended cannot be told: %s", error)
        return errors

    def _built(self, order: Order) -> tuple[PetalError, ...]:
        errors: list[PetalError] = []
        for target in order.modules:
            try:
                self._install(order, target)
            except (PetalError, OSError) as trouble:
                errors.append(self._as_told(trouble))
                if not order.partial or errors[-1].code != "spack-install":
                    break
        return tuple(errors)

    def _install(self, order: Order, target: str) -> None:
        parallel = split(self._host.cpus, self._host.memory, order.jobs, side_by_side=_program(order).family.parallel)
        self._note(f"{target}: {parallel.processes} packages at once with {parallel.jobs} jobs each")
        spack, logs = self._spack(order, target), self._logs / order.run_id
        pulled = Pulled(self._directory.pulled, spack.program.family.cache_layout)
        install_or_build(spack, parallel, self._tell, logs, order.locks, pulled, self._say)

    def _spack(self, order: Order, target: str) -> Spack:
        """The driver with the worker's scope, and an environment on local disk."""
        given, environment = self._directory.place / target, self._local / target
        make_dir(environment)
        for name in ("spack.yaml", "spack.lock"):
            (environment / name).write_bytes((given / "environment" / name).read_bytes())
        program = _program(order)
        places = Places(Path(order.store), Path(order.modules[target]), program.recipes, Path(order.scratch))
        system = Leased(self._system, Lease(self._directory).check)
        return Spack(system, program, places, given / "scope", environment, self._said, self._note)

    @property
    def _said(self) -> Path:
        return self._local / "spack.log"

    @property
    def _logs(self) -> Path:
        return self._local / "logs"

    def _note(self, text: str) -> None:
        """The job prints to shared storage."""
        self._try("what it prints", lambda: self._print(text))

    def _say(self, text: str) -> None:
        """What whoever follows the job is to be told, besides how far it is."""
        self._note(text)
        self._notes = (*self._notes, text)
        self._tell(self._text)

    def _tell(self, text: str) -> None:
        self._text = text
        state = JobState(RUNNING, self._host.name, text, (), self._notes)
        self._try("how far it is", lambda: self._directory.write_state(state))
        self._try("what Spack says", self._copy_said)

    def _copy_said(self) -> None:
        if self._said.is_file():
            with self._said.open("rb") as said, self._directory.said.open("ab") as copy:
                said.seek(copy.tell())
                shutil.copyfileobj(said, copy)

    def _copy_logs(self) -> None:
        for log in sorted(self._logs.glob("*/*.log")):
            kept = self._directory.logs / log.relative_to(self._logs)
            make_dir(kept.parent)
            shutil.copyfile(log, kept)

    def _keep_logs(self) -> None:
        self._try("what Spack said", self._copy_said)
        self._try("the logs of packages", self._copy_logs)
        self._try("its directory on this node", lambda: remove_tree(self._local))

    def _try(self, what: str, action: Callable[[], None]) -> None:
        """What fails costs itself, and is told once."""
        try:
            action()
        except OSError as error:
            if what not in self._troubled:
                self._troubled.add(what)
                LOG.warning("the job goes on without %s: %s", what, error)

    def _as_told(self, trouble: PetalError | OSError) -> PetalError:
        """As whoever follows the job can use it: with the places where logs are kept, and with this node's name."""
        error = as_error(trouble, self._directory.mount)

        def there(text: str) -> str:
            for local, shared in ((self._logs, self._directory.logs), (self._said, self._directory.said)):
                text = text.replace(str(local), str(shared))
            return text

        on_node = f"on {self._host.name}: " if error.code.startswith("file-") else ""
        remedy = [there(line) for line in error.remedy]
        return PetalError(on_node + there(error.what), why=there(error.why), remedy=remedy, code=error.code)


def _program(order: Order) -> SpackInstall:
    """The Spack of the order. Nothing is solved here, so there is no clingo."""
    return SpackInstall(order.version, Path(order.tree), Path(order.recipes), None)


def check_node(order: Order, host: Host, system: System) -> None:
    """Refuses a node on which the same packages would be others, or would go to another place.

    Raises:
        JobError: ``job-node``.
    """
    here: Mapping[str, tuple[str, str]] = {
        "operating system": (host.os, order.os),
        "glibc": (host.glibc, order.glibc),
        "compiler": (find_compiler(system).spec, order.compiler),
    }
    wrong = [f"{what}: {found}, and the head node has {wanted}" for what, (found, wanted) in here.items()
             if found != wanted]  # fmt: skip
    programs = _other_programs(order)
    if not _is_same(order.store, order.backing):
        wrong.append(f"{order.store} is not {order.backing}: petal-node check on that node says why")
    if wrong or programs:
        raise JobError(
            f"{host.name} cannot build for this cluster",
            why="; ".join((*wrong, *programs)),
            remedy=(
                f"srun -w {host.name} petal-node check",
                "give the queue the head node's image",
                *(OF_PROGRAMS if programs else ()),
            ),
            code="job-node",
        )


def _other_programs(order: Order) -> list[str]:
    """What of Spack and its recipes is not here, or is another than where the stack was solved.

    In the layout ``hybrid`` each image carries its own, and a head node that fetched others has them for itself.
    """
    program = _program(order)
    found = version_of(program.tree)
    if found != order.version:
        return [f"Spack at {order.tree}: {found or 'none'}, and the head node has {order.version}"]
    if not (program.recipes / "repo.yaml").is_file():
        return [f"recipes at {order.recipes}: none"]
    keys = ((tree, key_at(Path(tree)) or "unknown", wanted) for tree, wanted in order.keys.items() if wanted)
    return [f"{tree} was unpacked from another source: {key}, and on the head node from {wanted}"
            for tree, key, wanted in keys if key != wanted]  # fmt: skip


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
