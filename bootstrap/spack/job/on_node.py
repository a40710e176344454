"""The job: builds the order of a job directory on a node of a queue, and reports its progress and result there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ...core.errors import JobError, PetalError, from_error
from ...core.facts import Host
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import System
from ..cache.pull import Pulled
from ..driver import Spack, usable_cores
from ..externals import find_compiler
from ..install import install_or_build
from ..program import SpackInstall, key_at, version_of
from ..scope import Places
from .directory import DONE, RUNNING, JobDirectory, JobReport, Order

# Remedies if a node has another Spack or other recipes than the head node.
OTHER_PROGRAM = (
    "on the machine that becomes the queue's image, with this configuration: petal-node bootstrap --layout hybrid",
    "or layout: shared, where all nodes have one Spack; a source that is a directory must be there on all of them",
)


class BuildJob:
    """One build job on its node.

    Args:
        scratch: a directory on the node's own disk, for Spack's stage, and for its environment, which it locks often.
        note: prints a line of progress.
    """

    def __init__(
        self, directory: JobDirectory, host: Host, system: System, scratch: Path, note: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._host = host
        self._system = system
        self._scratch = scratch
        self._local = scratch / "build-job"
        self._print = note
        self._report = JobReport(RUNNING, host.name)
        self._failed: set[str] = set()

    def run(self) -> tuple[PetalError, ...]:
        """Builds, and writes the result for the worker.

        Returns:
            Why the job failed; empty if everything was built and the result is written.
        """
        errors: list[PetalError] = []
        try:
            remove_tree(self._local)  # left by a killed job
            self._progress("")
            order = self._directory.order()
            # The Spack of the order, without clingo because a job solves nothing
            program = SpackInstall(order.version, Path(order.tree), Path(order.recipes), None)
            require_equal_node(order, program, self._directory.shared_root, self._host, self._system)
            for target in order.modules:
                try:
                    self._install(order, program, target)
                except (PetalError, OSError) as error:
                    errors.append(self._with_node(error))
                    if not order.partial or errors[-1].code != "spack-install":
                        break
        except (PetalError, OSError) as error:
            errors.append(self._with_node(error))
        self._optional("removing the job's directory on this node", lambda: remove_tree(self._local))
        try:
            failures = tuple(error.to_dict() for error in errors)
            self._directory.write_result(replace(self._report, stage=DONE, text="", errors=failures))
        except OSError as error:
            LOG.error("the result of the job cannot be written: %s", error)
            errors.append(self._with_node(error))
        return tuple(errors)

    def _install(self, order: Order, program: SpackInstall, target: str) -> None:
        shared, environment = self._directory.path / target, self._local / target
        make_dir(environment)
        for name in ("spack.yaml", "spack.lock"):
            (environment / name).write_bytes((shared / "environment" / name).read_bytes())
        places = Places(Path(order.store), Path(order.modules[target]), program.recipes, self._scratch / "spack")
        spack = Spack(
            self._system,
            program,
            places,
            scope=shared / "scope",
            environment=environment,
            output=self._directory.spack_log,
            note=self._note,
            cores=usable_cores(self._host, order.jobs),
            locks=order.locks,
        )
        self._note(f"{target}: {spack.parallel.processes} packages at once with {spack.parallel.jobs} jobs each")
        pulled = Pulled(self._directory.pulled, program.family.cache_layout)
        install_or_build(spack, self._progress, self._directory.logs, pulled, self._tell)

    def _note(self, text: str) -> None:
        self._optional("printing", lambda: self._print(text))

    def _progress(self, text: str) -> None:
        self._report = replace(self._report, text=text)
        self._optional("reporting progress", lambda: self._directory.write_report(self._report))

    def _tell(self, text: str) -> None:
        """A message for the operator on the head node."""
        self._note(text)
        self._report = replace(self._report, notes=(*self._report.notes, text))
        self._progress(self._report.text)

    def _optional(self, what: str, action: Callable[[], None]) -> None:
        """Logs the first failure of an optional action and continues: packages may have room on full storage."""
        try:
            action()
        except OSError as error:
            if what not in self._failed:
                self._failed.add(what)
                LOG.warning("the job continues without %s: %s", what, error)

    def _with_node(self, trouble: PetalError | OSError) -> PetalError:
        """An error about files names the node: on the head node the same file may be in order."""
        error = from_error(trouble, self._directory.mount)
        if not error.code.startswith("file-"):
            return error
        what = f"on {self._host.name}: {error.what}"
        return PetalError(what, why=error.why, remedy=error.remedy, code=error.code)


def require_equal_node(order: Order, program: SpackInstall, shared_root: Path, host: Host, system: System) -> None:
    """Refuses a node on which the packages would differ, or would be installed in another place.

    In the layout ``hybrid`` each image has its own Spack, and a head node that fetched another has it for itself.

    Args:
        shared_root: the directory on shared storage that the root of every node must show.

    Raises:
        JobError: ``job-node``.
    """

    def differing(*properties: tuple[str, str | None, str]) -> list[str]:
        return [
            f"{name}: {here or 'none'}, and the head node has {expected}"
            for name, here, expected in properties
            if here != expected
        ]

    wrong = differing(
        ("operating system", host.os, order.os),
        ("glibc", host.glibc, order.glibc),
        ("compiler", find_compiler(system).spec, order.compiler),
    )
    store = Path(order.store)
    backing = shared_root / store.name
    if not (store.exists() and backing.exists() and store.samefile(backing)):
        wrong.append(f"{store} is not {backing}")
    keys = ((tree, key_at(Path(tree)) or "unknown", expected) for tree, expected in order.keys.items() if expected)
    programs = differing(
        (f"Spack at {order.tree}", version_of(program.tree), order.version),
        *((f"{tree} was unpacked from another source", key, expected) for tree, key, expected in keys),
    )
    if not (program.recipes / "repo.yaml").is_file():
        programs.append(f"recipes at {order.recipes}: none")
    if wrong or programs:
        raise JobError(
            f"{host.name} cannot build for this cluster",
            why="; ".join((*wrong, *programs)),
            remedy=(
                f"srun -w {host.name} petal-node check",
                "give the queue the head node's image",
                *(OTHER_PROGRAM if programs else ()),
            ),
            code="job-node",
        )
