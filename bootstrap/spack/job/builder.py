"""The build job's side: on a node of a queue it builds what the order says into the store, and nothing else.

It ends when the worker that ordered it does: the lease on shared storage is looked at while Spack runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ...errors import JobError, PetalError, SpackError
from ...files import make_dir, remove_tree
from ...observed import Host
from ...system import Completed, System
from ..cache.entries import LAYOUTS
from ..cache.pull import Pulled
from ..compiler import find_compiler
from ..driver import Spack
from ..install import install_or_build
from ..parallel import split
from ..program import Program, version_of
from ..scope import Places
from .order import DONE, RUNNING, JobDirectory, JobState, Lease, Order


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

    Args:
        local: a directory of this node for what Spack locks all the time.
        note: told each line of progress.
    """

    def __init__(
        self, directory: JobDirectory, host: Host, system: System, local: Path, note: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._host = host
        self._system = system
        self._local = local
        self._note = note

    def run(self) -> tuple[PetalError, ...]:
        """Builds, and leaves how it ended for the worker."""
        self._tell("")
        errors: tuple[PetalError, ...] = ()
        try:
            errors = self._built(self._directory.order())
        except PetalError as error:
            errors = (error,)
        finally:
            remove_tree(self._local)
        told = tuple(error.to_dict() for error in errors)
        self._directory.write_state(JobState(DONE, self._host.name, "", told))
        return errors

    def _built(self, order: Order) -> tuple[PetalError, ...]:
        check_node(order, self._host, self._system)
        errors: list[PetalError] = []
        for target in order.modules:
            try:
                self._install(order, target)
            except SpackError as error:
                if not order.partial or error.code != "spack-install":
                    return (*errors, error)
                errors.append(error)
        return tuple(errors)

    def _install(self, order: Order, target: str) -> None:
        parallel = split(self._host.cpus, self._host.memory, order.jobs, side_by_side=_program(order).family.parallel)
        self._note(f"{target}: {parallel.processes} packages at once with {parallel.jobs} jobs each")
        spack, logs = self._spack(order, target), self._directory.logs / order.run_id
        pulled = Pulled(self._directory.pulled, LAYOUTS[spack.program.family_name])
        install_or_build(spack, parallel, self._tell, logs, order.locks, pulled, self._note)

    def _spack(self, order: Order, target: str) -> Spack:
        """The driver with the worker's scope, and an environment on local disk."""
        given, environment = self._directory.place / target, self._local / target
        make_dir(environment)
        for name in ("spack.yaml", "spack.lock"):
            (environment / name).write_bytes((given / "environment" / name).read_bytes())
        program = _program(order)
        places = Places(Path(order.store), Path(order.modules[target]), program.recipes, Path(order.scratch))
        system = Leased(self._system, Lease(self._directory).check)
        return Spack(system, program, places, given / "scope", environment, self._directory.said, self._note)

    def _tell(self, text: str) -> None:
        self._directory.write_state(JobState(RUNNING, self._host.name, text))


def _program(order: Order) -> Program:
    """The Spack of the order. Nothing is solved here, so there is no clingo."""
    return Program(order.version, Path(order.tree), Path(order.recipes), None)


def check_node(order: Order, host: Host, system: System) -> None:
    """Refuses a node on which the same packages would be others, or would go to another place.

    Raises:
        JobError: ``job-node``.
    """
    here: Mapping[str, tuple[str, str]] = {
        "operating system": (host.os, order.os),
        "glibc": (host.glibc, order.glibc),
        "compiler": (find_compiler(system).spec, order.compiler),
        f"Spack at {order.tree}": (version_of(Path(order.tree)) or "none", order.version),
    }
    wrong = [f"{what}: {found}, and the head node has {wanted}" for what, (found, wanted) in here.items()
             if found != wanted]  # fmt: skip
    if not _is_same(order.store, order.backing):
        wrong.append(f"{order.store} is not {order.backing}: petal-node check on that node says why")
    if wrong:
        raise JobError(
            f"{host.name} cannot build for this cluster",
            why="; ".join(wrong),
            remedy=(f"srun -w {host.name} petal-node check", "give the queue the head node's image"),
            code="job-node",
        )


def _is_same(one: str, other: str) -> bool:
    try:
        return Path(one).samefile(other)
    except OSError:
        return False
