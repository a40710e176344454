"""Takes packages from build caches: fetches and verifies them, and hands Spack a local directory of good entries.

Spack reads s3:// only with boto3, verifies with one keyring for all mirrors (see keys.py), and fails an install if an
entry cannot be unpacked. Here file, https and s3 go one way. A package whose entry cannot be used is built instead, and
each kind of problem is reported once for each mirror.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import FETCH, REQUEST
from ...core.errors import CacheError, FetchError, PetalError
from ...core.text import at_most
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import System
from ...remote.fetch import Source, download, local_path, read
from ..lockfile import Locked
from .entries import LIMIT, MALFORMED, Layout, unwrapped
from .keys import Keyring, open_keyring

TRANSFERS = 8  # at the same time: most entries are small, and each of their parts is a round trip
NAMED = 3
OF_THE_MIRROR = frozenset({"fetch-unreachable", "fetch-region", "fetch-scheme", "cache-local"})
ABSENT = frozenset({"fetch-missing", "fetch-forbidden", "fetch-no-credentials"})


@dataclass(frozen=True)
class Pulled:
    """The entries in ``directory`` that Spack can install, and an error for each kind of problem of each mirror."""

    directory: Path
    layout: Layout
    specs: tuple[Locked, ...] = ()
    troubles: tuple[CacheError, ...] = ()

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
) -> Pulled:
    """Gets the entries of ``specs`` from the first mirror that has a usable one, into ``directory``: emptied first."""
    remove_tree(directory)
    missing, taken, troubles = list(specs), [], []
    for name, mirror in mirrors.items():
        if missing:
            job = _Pull(name, mirror, layout, directory, system, region, tell)
            try:
                found = job.run(missing)
                troubles += job.report(bool(found))
            except CacheError as error:
                found = []
                troubles.append(error)
            taken += found
            missing = [spec for spec in missing if spec not in found]
    return Pulled(directory, layout, tuple(taken), tuple(troubles))


@dataclass
class _Pull:
    """The transfer from one mirror, shared by its threads."""

    name: str
    mirror: Mirror
    layout: Layout
    directory: Path
    system: System
    region: str | None
    tell: Callable[[str], None]
    stopped: threading.Event = field(default_factory=threading.Event)
    refused: list[FetchError] = field(default_factory=list)
    troubles: list[tuple[Locked, PetalError]] = field(default_factory=list)

    def run(self, specs: list[Locked]) -> list[Locked]:
        """Returns the specs whose entries are in the directory; CacheError if the mirror or its keys are missing."""
        path = local_path(self.mirror.url)
        if path is not None and not path.is_dir():
            raise self._unusable(
                FetchError(f"{path} is not a directory", remedy=f"ls -ld {path}", code="fetch-missing")
            )
        keys = open_keyring(self.system, self.directory / ".keys", self.mirror.keys, self.region)
        taken: list[Locked] = []
        with keys if self.mirror.signed else nullcontext() as ring, ThreadPoolExecutor(TRANSFERS) as threads:
            try:
                results = threads.map(lambda spec: self._take(spec, ring), specs)
                for number, (spec, is_taken) in enumerate(zip(specs, results), 1):
                    taken += [spec] if is_taken else []
                    progress = f"{len(taken)} found, {number} of {len(specs)} asked for"
                    self.tell(f"looking for packages in {self.name}: {progress}")
            except BaseException:
                self.stopped.set()  # a run that ends does not wait for transfers
                raise
        numbers = (len(taken), len(specs), self.name)
        LOG.info("%d of %d packages are in the build cache %s", *numbers, extra={"step": "spack"})
        return taken

    def _take(self, spec: Locked, ring: Keyring | None) -> bool:
        """True if the entry of ``spec`` is in the directory; False if the mirror has none that can be used."""
        if self.stopped.is_set():
            return False
        try:
            description = self._description(spec, ring)
            if description is not None:
                self._take_blobs(spec, description)
        except PetalError as error:
            if error.code in OF_THE_MIRROR:
                self.stopped.set()
            self.troubles.append((spec, error))
        except OSError as error:
            self.stopped.set()
            what, remedy = "an entry cannot be written", f"df -h {self.directory}"
            self.troubles.append((spec, CacheError(what, why=str(error), remedy=remedy, code="cache-local")))
        else:
            return description is not None
        return False

    def _description(self, spec: Locked, ring: Keyring | None) -> bytes | None:
        """The entry's description, verified if the mirror is signed; None if the entry has no description."""
        for signed in (True, False) if ring is None else (True,):
            source = self._source(self.layout.description(spec, signed=signed), None, REQUEST)
            try:
                text = read(source, self.directory / f".{threading.get_ident()}", limit=LIMIT)
            except FetchError as error:
                if error.code not in ABSENT:
                    raise
                if error.code != "fetch-missing":
                    self.refused.append(error)
                continue
            return unwrapped(text) if ring is None else ring.verified(text, f"{spec.name}-{spec.version}-{spec.hash}")
        return None

    def _take_blobs(self, spec: Locked, description: bytes) -> None:
        """Fetches the files that the description names, then writes the description."""
        what = f"the entry of {spec.name}@{spec.version}"
        with _in_layout(what):
            document = json.loads(description)
            blobs = self.layout.blobs(spec, document)
        try:
            for path, sha256 in blobs.items():
                download(self._source(path, sha256, FETCH), self.directory / path)
        except FetchError as error:
            if error.code in {"fetch-checksum", "fetch-missing"}:
                raise CacheError(what, why=str(error), code="cache-corrupt") from error
            raise
        with _in_layout(what):
            digest = self.layout.hash_of(document, self.directory)
        if digest != spec.hash:
            raise CacheError(what, why=f"it is the entry of another package, {digest}", code="cache-corrupt")
        target = self.directory / self.layout.description(spec, signed=False)
        make_dir(target.parent)
        target.write_bytes(description)

    def _source(self, path: str, sha256: str | None, seconds: float) -> Source:
        return Source(self.mirror.uri(path), sha256, self.region, seconds, self.stopped.is_set)

    def report(self, has_found: bool) -> list[CacheError]:
        """One error for each kind of problem, with the packages that it concerns."""
        kinds: dict[str, list[tuple[Locked, PetalError]]] = {}
        for spec, error in self.troubles:
            kinds.setdefault(error.code, []).append((spec, error))
        errors = [self._summary(code, cases) for code, cases in kinds.items()]
        if not has_found and not errors and self.refused:
            errors.append(self._unusable(self.refused[0]))
        return errors

    def _unusable(self, error: PetalError) -> CacheError:
        what = f"no package could be taken from the mirror {self.name}, {self.mirror.url}"
        return CacheError(what, why=str(error), remedy=error.remedy, code="cache-unreachable")

    def _summary(self, code: str, cases: list[tuple[Locked, PetalError]]) -> CacheError:
        error = cases[0][1]
        if code in OF_THE_MIRROR:
            return self._unusable(error)
        specs = sorted(f"{spec.name}@{spec.version}" for spec, _ in cases)
        names = ", ".join(at_most(NAMED, specs))
        if code == "cache-unverified":
            remedy = (
                f"list the public key of who pushed it under spack.mirrors.{self.name}.keys",
                "if the signature is wrong: delete the entry, and find out who can write there",
            )
            what = f"the signature of {names} in the mirror {self.name} is not accepted"
            return CacheError(what, why=error.why, remedy=remedy, code=code)
        what = f"the mirror {self.name} has entries that cannot be used: {names}"
        delete = "delete the entry: the next cluster that builds it pushes it again"
        return CacheError(what, why=error.why or str(error), remedy=delete, code="cache-corrupt")


@contextmanager
def _in_layout(what: str) -> Iterator[None]:
    """Reads a document of the entry ``what``: CacheError ``cache-corrupt`` if it is not in its layout."""
    try:
        yield
    except MALFORMED as error:
        why = f"it does not have the shape of its layout ({type(error).__name__}: {error})"
        raise CacheError(what, why=why, code="cache-corrupt") from error
