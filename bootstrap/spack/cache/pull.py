"""Takes packages from build caches: fetches and verifies them, and hands Spack a local directory of good entries.

Spack reads s3:// only with boto3, verifies with one keyring for all mirrors (see keys.py), and fails an install if an
entry cannot be unpacked. Here file, https and s3 go one way. A package whose entry cannot be used is built instead, and
each kind of problem is reported once for each mirror.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import FETCH
from ...core.errors import CacheError, FetchError, PetalError
from ...core.text import grouped, quoted
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import System
from ...host.threads import results
from ...remote.answers import kind_of
from ...remote.fetch import download, local_path
from ..lockfile import Locked
from .entries import Layout, parsed
from .keys import Keyring, open_keyring
from .mirror import OF_AN_ENTRY, OF_THE_MIRROR, TRANSFERS, MirrorReader, in_layout, names_of, what_of


@dataclass(frozen=True)
class Pulled:
    """The entries in ``directory`` that Spack can install, and an error for each kind of problem of each mirror.

    Args:
        origins: the URL of the mirror that each entry is from.
        refused: why an entry cannot be used, by the URL of the mirror and the hash of the package.
    """

    directory: Path
    layout: Layout
    origins: Mapping[Locked, str] = field(default_factory=dict)
    troubles: tuple[CacheError, ...] = ()
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def specs(self) -> tuple[Locked, ...]:
        return tuple(self.origins)

    def withdraw(self, missing: Iterable[Locked]) -> tuple[Locked, ...]:
        """Removes the entries that Spack could not install although their dependencies are installed; returns them."""
        absent = {spec.hash: spec for spec in missing}
        removed = []
        for spec in absent.values():
            description = self.directory / self.layout.description(spec, signed=False)
            if description.is_file() and not absent.keys() & set(spec.needs):
                description.unlink()
                removed.append(spec)
        return tuple(removed)


def pull(
    specs: Iterable[Locked],
    mirrors: dict[str, Mirror],
    layout: Layout,
    directory: Path,
    system: System,
    region: str | None,
    tell: Callable[[str], None],
    seconds: float = FETCH,
) -> Pulled:
    """Gets the entries of ``specs`` from the first mirror that has a usable one, into ``directory``: emptied first.

    ``seconds`` is the time for one file.
    """
    remove_tree(directory)
    missing, troubles = list(specs), []
    origins: dict[Locked, str] = {}
    refused: dict[str, dict[str, str]] = {}
    for name, mirror in mirrors.items():
        if missing:
            job = _Pull(MirrorReader(name, mirror, layout, region, directory), directory, system, tell, seconds)
            try:
                found = job.run(missing)
                troubles += job.report(missing, len(found))
            except CacheError as error:
                found = []
                troubles.append(error)
            refused[mirror.url] = job.refused()
            origins.update(dict.fromkeys(found, mirror.url))
            missing = [spec for spec in missing if spec not in found]
    return Pulled(directory, layout, origins, tuple(troubles), refused)


@dataclass
class _Pull:
    """The transfer from one mirror, shared by its threads."""

    reader: MirrorReader
    directory: Path
    system: System
    tell: Callable[[str], None]
    seconds: float
    troubles: list[tuple[Locked, PetalError]] = field(default_factory=list)

    def run(self, specs: list[Locked]) -> list[Locked]:
        """Returns the specs whose entries are in the directory; CacheError if the mirror or its keys are missing."""
        mirror, name = self.reader.mirror, self.reader.name
        path = local_path(mirror.url)
        try:
            if path is not None and not path.is_dir():
                raise self.reader.unusable(f"{path} is not a directory", (f"ls -ld {quoted(path)}",))
        except PermissionError as error:
            raise self.reader.unusable(str(error), (f"ls -ld {quoted(path)}",)) from error
        keys = open_keyring(self.system, self.directory / ".keys", mirror.keys, self.reader.region)
        taken: list[Locked] = []
        with keys if mirror.signed else nullcontext() as ring, ThreadPoolExecutor(TRANSFERS) as threads:
            try:
                found = results(threads, lambda spec: self._take(spec, ring), specs)
                for number, (spec, is_taken) in enumerate(zip(specs, found), 1):
                    taken += [spec] if is_taken else []
                    progress = f"{len(taken)} found, {number} of {len(specs)} asked for"
                    self.tell(f"looking for packages in {name}: {progress}")
            except BaseException:
                self.reader.stopped.set()  # a run that ends does not wait for transfers
                raise
        LOG.info("%d of %d packages are in the build cache %s", len(taken), len(specs), name, extra={"step": "spack"})
        return taken

    def _take(self, spec: Locked, ring: Keyring | None) -> bool:
        """True if the entry of ``spec`` is in the directory; False if the mirror has none that can be used."""
        if self.reader.stopped.is_set():
            return False
        try:
            return self.reader.find(spec, ring, partial(self._fetch, spec))
        except (PetalError, OSError) as error:
            if not self.reader.stopped.is_set():  # else another transfer met the cause, and ended this one
                self._note(spec, error)
        return False

    def _note(self, spec: Locked, error: PetalError | OSError) -> None:
        """Keeps a problem, and ends all transfers if each of them would have it too."""
        if isinstance(error, OSError) or error.code == "file-no-space":
            what, remedy = "an entry cannot be written", f"df -h {quoted(self.directory)}"
            error = CacheError(what, why=str(error), remedy=remedy, code="cache-local")
        self.troubles.append((spec, error))
        slow = sum(each.code == "cache-unusable" for _, each in self.troubles)
        if error.code in OF_THE_MIRROR or slow >= TRANSFERS:
            self.reader.stopped.set()

    def _fetch(self, spec: Locked, blobs: dict[str, str], description: bytes) -> None:
        """Fetches the files that a description names, then writes the description."""
        what = what_of(spec)
        try:
            for path, sha256 in blobs.items():
                with self.reader.file_of(spec, path):
                    download(self.reader.source(path, sha256, self.seconds), self.directory / path)
        except FetchError as error:
            if error.code != "fetch-unreachable":
                raise
            # it gave the description, so this file may only be large
            raise CacheError(what, why=str(error), remedy=error.remedy, code="cache-unusable") from error
        with in_layout(what):
            digest = self.reader.layout.hash_of(parsed(description), self.directory)
        if digest != spec.hash:
            raise CacheError(what, why=f"it is the entry of another package, {digest}", code="cache-corrupt")
        target = self.directory / self.reader.layout.description(spec, signed=False)
        make_dir(target.parent)
        target.write_bytes(description)

    def refused(self) -> dict[str, str]:
        """Why the entry of each package cannot be used, by hash."""
        return {spec.hash: error.why or str(error) for spec, error in self.troubles if error.code in OF_AN_ENTRY}

    def report(self, specs: list[Locked], taken: int) -> list[CacheError]:
        """One error for each kind of problem, with the packages that it concerns; or why the mirror has no package.

        ``taken`` is the number of specs whose entries are in the directory.
        """
        kinds = grouped(((error.code, kind_of(error)), (spec, error)) for spec, error in self.troubles)
        part = f"only {taken} of {len(specs)} packages were" if taken else "no package could be"
        errors = [self._summary(code, cases, part, len(cases) == len(specs)) for (code, _), cases in kinds.items()]
        if not taken and not errors:
            problem = self.reader.problem()
            if problem is None and not self.reader.mirror.push:
                problem = self.reader.no_match(specs)
            errors += [problem] if problem else []
        return errors

    def _summary(self, code: str, cases: list[tuple[Locked, PetalError]], part: str, is_of_all: bool) -> CacheError:
        """``is_of_all``: every package that was asked for has this problem."""
        error, name = cases[0][1], self.reader.name
        if isinstance(error, CacheError) and code == "cache-local":
            return error
        if isinstance(error, FetchError) and (code in OF_THE_MIRROR or is_of_all):
            return self.reader.unreadable(error, part)
        names = names_of(spec for spec, _ in cases)
        if code not in OF_AN_ENTRY:
            what, why = f"the mirror {name} did not send {names}", error.why
            if isinstance(error, FetchError):
                why = str(error)
            return CacheError(what, why=why, remedy=self.reader.remedy(error), code="cache-unusable")
        who = "this cluster" if self.reader.mirror.push else "a cluster that builds"
        again = f"{who} replaces them with spack.mirrors.{name}.push"
        remedy = (*(line.replace("mirrors.NAME.", f"mirrors.{name}.") for line in error.remedy), again)
        what = f"the mirror {name} has entries that cannot be used: {names}"
        if code == "cache-unverified":
            what = f"the signature of {names} in the mirror {name} is not accepted"
        return CacheError(what, why=error.why or str(error), remedy=remedy, code=code)
