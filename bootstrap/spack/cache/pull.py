"""Takes packages out of build caches: fetched and verified here, and handed to Spack as a directory of good ones.

Spack reads s3:// with boto3 only, checks signatures with one keyring for all mirrors, and fails an install where an
entry cannot be unpacked. Here file, https and s3 go one way. What cannot be taken is told once for each mirror, and
built.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import FETCH, REQUEST
from ...core.errors import CacheError, FetchError, PetalError
from ...host.atomic import write_atomic
from ...host.files import make_dir, remove_tree
from ...host.log import LOG
from ...host.system import System
from ...remote.fetch import Source, download, local_path, read
from ..lockfile import Locked
from .entries import LIMIT, Layout, corrupt, parsed, unwrapped
from .keys import Keyring, open_keyring

TRANSFERS = 8  # at once: most entries are small, and each of their parts is a round trip
NAMED = 3
OF_THE_MIRROR = frozenset({"fetch-unreachable", "fetch-region", "fetch-scheme", "cache-local"})
ABSENT = frozenset({"fetch-missing", "fetch-forbidden", "fetch-no-credentials"})


@dataclass(frozen=True)
class Pulled:
    """What stands in ``directory`` for Spack to install.

    ``troubles``: one for each thing that was not as it should be.
    """

    directory: Path
    layout: Layout
    specs: tuple[Locked, ...] = ()
    troubles: tuple[CacheError, ...] = ()

    def withdraw(self, missing: Iterable[Locked]) -> tuple[Locked, ...]:
        """Takes out what was offered and is missing though all that it needs is there; says what that is."""
        absent = {spec.hash: spec for spec in missing}
        found = []
        for spec in absent.values():
            described = self.directory / self.layout.description(spec, signed=False)
            if described.is_file() and not absent.keys() & set(spec.needs):
                described.unlink()
                found.append(spec)
        return tuple(found)


@dataclass
class _Pull:
    """One mirror's part of it, shared by the threads that transfer."""

    name: str
    mirror: Mirror
    layout: Layout
    ring: Keyring | None
    directory: Path
    region: str | None
    gone: threading.Event = field(default_factory=threading.Event)
    refused: list[FetchError] = field(default_factory=list)
    troubles: list[tuple[Locked, PetalError]] = field(default_factory=list)

    def take(self, spec: Locked) -> Locked | None:
        """The spec when its entry stands in the directory, None where the mirror has none that can be used."""
        if self.gone.is_set():
            return None
        try:
            text = self._described(spec)
            return spec if text is not None and self._taken(spec, text) else None
        except PetalError as error:
            if error.code in OF_THE_MIRROR:
                self.gone.set()
            self.troubles.append((spec, error))
        except OSError as error:
            self.gone.set()
            what, remedy = "what it gives cannot be kept", f"df -h {self.directory}"
            self.troubles.append((spec, CacheError(what, why=str(error), remedy=remedy, code="cache-local")))
        return None

    def _described(self, spec: Locked) -> bytes | None:
        """The description's text, as it was signed where it must be."""
        for signed in (True, False) if self.ring is None else (True,):
            text = self._read(self.layout.description(spec, signed=signed))
            if text is not None:
                name = f"{spec.name}-{spec.version}-{spec.hash}"
                return unwrapped(text) if self.ring is None else self.ring.verified(text, name)
        return None

    def _read(self, path: str) -> bytes | None:
        try:
            scratch = self.directory / f".{threading.get_ident()}"
            source = Source(self._at(path), None, self.region, REQUEST, self.gone.is_set)
            return read(source, scratch, limit=LIMIT)
        except FetchError as error:
            if error.code not in ABSENT:
                raise
            if error.code != "fetch-missing":
                self.refused.append(error)
            return None

    def _taken(self, spec: Locked, text: bytes) -> bool:
        document = parsed(text)
        for blob in self.layout.blobs(spec, document):
            source = Source(self._at(blob.path), blob.sha256, self.region, FETCH, self.gone.is_set)
            try:
                download(source, self.directory / blob.path)
            except FetchError as error:
                if error.code in {"fetch-checksum", "fetch-missing"}:
                    raise corrupt(spec, str(error)) from error
                raise
        found = self.layout.hash_of(document, self.directory)
        if found != spec.hash:
            raise corrupt(spec, f"it is one of another package, {found}")
        described = self.directory / self.layout.description(spec, signed=False)
        make_dir(described.parent)
        write_atomic(described, text)
        return True

    def _at(self, path: str) -> str:
        return f"{self.mirror.url.rstrip('/')}/{path}"

    def told(self, found: int) -> list[CacheError]:
        """The troubles, each kind once, with the packages that it cost."""
        kinds: dict[str, list[tuple[Locked, PetalError]]] = {}
        for spec, error in self.troubles:
            kinds.setdefault(error.code, []).append((spec, error))
        told = [_summary(self.name, self.mirror, code, cases) for code, cases in kinds.items()]
        if not found and not told and self.refused:
            told.append(_unusable(self.name, self.mirror, self.refused[0]))
        return told


def pull(
    specs: Iterable[Locked],
    mirrors: dict[str, Mirror],
    layout: Layout,
    directory: Path,
    system: System,
    region: str | None,
    tell: Callable[[str], None],
) -> Pulled:
    """Gets the entries of ``specs`` from the first mirror that has a usable one, into ``directory``.

    Args:
        directory: begun anew; as large as what is taken.
        tell: gets how far it is.
    """
    remove_tree(directory)
    wanted, taken, troubles = list(specs), [], []
    for name, mirror in mirrors.items():
        found, told = _pull_from(name, mirror, wanted, layout, directory, system, region, tell)
        taken += found
        troubles += told
        wanted = [spec for spec in wanted if spec not in found]
    return Pulled(directory, layout, tuple(taken), tuple(troubles))


def _pull_from(
    name: str,
    mirror: Mirror,
    specs: list[Locked],
    layout: Layout,
    directory: Path,
    system: System,
    region: str | None,
    tell: Callable[[str], None],
) -> tuple[list[Locked], list[CacheError]]:
    if not specs:
        return [], []
    place = local_path(mirror.url)
    if place is not None and not place.is_dir():
        missing = FetchError(f"{place} is no directory", remedy=f"ls -ld {place}", code="fetch-missing")
        return [], [_unusable(name, mirror, missing)]
    ring = None
    try:
        ring = open_keyring(system, directory / ".keys", mirror.keys, region) if mirror.signed else None
        job = _Pull(name, mirror, layout, ring, directory, region)
        found: list[Locked] = []
        with ThreadPoolExecutor(TRANSFERS) as threads:
            try:
                for number, spec in enumerate(threads.map(job.take, specs), 1):
                    found += [spec] if spec is not None else []
                    tell(f"looking for packages in {name}: {len(found)} found, {number} of {len(specs)} asked for")
            except BaseException:
                job.gone.set()  # who is told to end does not wait for what still comes
                raise
    except CacheError as error:
        return [], [error]
    finally:
        if ring is not None:
            ring.close()
    LOG.info("%d of %d packages are in the build cache %s", len(found), len(specs), name, extra={"step": "spack"})
    return found, job.told(len(found))


def _unusable(name: str, mirror: Mirror, error: PetalError) -> CacheError:
    what = f"nothing could be taken from the mirror {name}, {mirror.url}"
    return CacheError(what, why=str(error), remedy=error.remedy, code="cache-unreachable")


def _summary(name: str, mirror: Mirror, code: str, cases: list[tuple[Locked, PetalError]]) -> CacheError:
    error = cases[0][1]
    if code in OF_THE_MIRROR:
        return _unusable(name, mirror, error)
    specs = sorted(f"{spec.name}@{spec.version}" for spec, _ in cases)
    more = f" and {len(specs) - NAMED} more" if len(specs) > NAMED else ""
    which = f"{', '.join(specs[:NAMED])}{more}"
    if code == "cache-unverified":
        what = f"the mirror {name} has {which}, and the signature does not do"
        remedy = (
            f"list the public key of who pushed it under spack.mirrors.{name}.keys",
            "where its signature is wrong: delete the entry, and look who can write there",
        )
        return CacheError(what, why=error.why, remedy=remedy, code=code)
    what = f"the mirror {name} has {which}, which cannot be used"
    told = "delete the entry: who builds it anew pushes it again"
    return CacheError(what, why=error.why or str(error), remedy=told, code="cache-corrupt")
