"""Reads the entries of one mirror, and finds out why a mirror has none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import REQUEST
from ...core.errors import CacheError, FetchError
from ...core.text import quoted
from ...remote.answers import look_up
from ...remote.fetch import Source, exists, has_files, local_path, read
from ..lockfile import Locked
from .entries import LAYOUTS, LIMIT, MALFORMED, SIGNED, Layout, NotJson, parsed, unwrapped
from .keys import Keyring

TRANSFERS = 8  # at the same time: most entries are small, and each of their parts is a round trip
# The mirror does not answer this node at all, or no entry can be written here. Other errors concern one object.
OF_THE_MIRROR = frozenset(
    {"fetch-unreachable", "fetch-no-credentials", "fetch-region", "fetch-scheme", "file-no-space", "cache-local"}
)
# The path and the sha256 of each file of an entry, and its description, verified if the mirror is signed.
Use = Callable[[dict[str, str], bytes], None]


@dataclass
class MirrorReader:
    """The entries of one mirror. Threads share it.

    Args:
        scratch: a local directory for transfers.
        stopped: set to end transfers.
        unanswered: the errors of a server that did not show whether it has an entry.
    """

    name: str
    mirror: Mirror
    layout: Layout
    region: str | None
    scratch: Path
    stopped: threading.Event = field(default_factory=threading.Event)
    unanswered: dict[Locked, FetchError] = field(default_factory=dict)

    def find(self, spec: Locked, ring: Keyring | None, use: Use) -> bool:
        """Gives the first entry of ``spec`` that ``use`` accepts to ``use``; False if the mirror has none.

        Raises:
            CacheError: ``cache-unverified``, ``cache-corrupt``: no entry can be used, for the reason of the first one.
            FetchError: the mirror does not answer, or the local disk is full (``OF_THE_MIRROR``).
        """
        problem: CacheError | None = None
        for path in self.layout.descriptions(spec):
            text = self._read(spec, path)
            if text is None:
                continue
            try:
                use(*self._verified(spec, path, text, ring))
            except CacheError as error:
                problem = problem or error
            else:
                return True
        if problem is not None:
            raise problem
        return False

    def _read(self, spec: Locked, path: str) -> bytes | None:
        source = self.source(path, None, REQUEST)
        try:
            return read(source, self.scratch / f".{threading.get_ident()}", limit=LIMIT)
        except FetchError as error:
            if error.code in OF_THE_MIRROR:
                raise
            if error.code != "fetch-missing":
                self.unanswered[spec] = error
            return None

    def _verified(self, spec: Locked, path: str, text: bytes, ring: Keyring | None) -> tuple[dict[str, str], bytes]:
        """The arguments of ``Use``."""
        what, uri = what_of(spec), self.mirror.uri(path)
        remedy = look_up(uri) if local_path(uri) is None else _listing(uri)
        if not text.startswith(SIGNED):
            with in_layout(what, remedy):
                parsed(text)
        name = f"{spec.name}-{spec.version}-{spec.hash}"
        description = unwrapped(text) if ring is None else ring.verified(text, name)
        with in_layout(what, remedy):
            return self.layout.blobs(spec, parsed(description)), description

    def source(self, path: str, sha256: str | None, seconds: float) -> Source:
        return Source(self.mirror.uri(path), sha256, self.region, seconds, self.stopped.is_set)

    def unusable(self, why: str, remedy: Iterable[str], taken: str = "no package could be") -> CacheError:
        """The error for a mirror from which no package can be taken.

        Args:
            taken: the start of the sentence, if some packages could be taken.
        """
        what = f"{taken} taken from the mirror {self.name}, {self.mirror.url}"
        return CacheError(what, why=why, remedy=remedy, code="cache-unusable")

    def problem(self) -> CacheError | None:
        """Why the mirror can have no package for this Spack; None if it has packages of the layout.

        A mirror that this cluster pushes to may be empty.
        """
        try:
            found = [layout for layout in LAYOUTS if self._has(layout)]
            marker = self.mirror.uri(self.layout.marker)
            if self.unanswered and found and not exists(marker, region=self.region, seconds=REQUEST):
                raise next(iter(self.unanswered.values()))
        except FetchError as error:
            return self.unusable(str(error), error.remedy)
        if any(layout.place == self.layout.place for layout in found) or (self.mirror.push and not found):
            return None
        if found:
            other = found[0]
            why = f"it has the layout of {other.written_by} ({other.place}), and this Spack reads {self.layout.place}"
            return self.unusable(why, ("push to it from a cluster with this Spack: one mirror can have both layouts",))
        missing = self.layout.place if _can_list(self.mirror) else self.layout.marker
        why = f"there is no build cache: {self.mirror.uri(missing)} does not exist"
        return self.unusable(why, (_listing(self.mirror.url), f"correct spack.mirrors.{self.name}.url"))

    def _has(self, layout: Layout) -> bool:
        """True if the mirror has a package of a layout. A server that lists nothing is asked for the marker."""
        marker = self.mirror.uri(layout.marker)
        if not _can_list(self.mirror):
            return exists(marker, region=self.region, seconds=REQUEST)
        try:
            return has_files(self.mirror.uri(layout.place), region=self.region, seconds=REQUEST)
        except FetchError as error:
            if error.code in OF_THE_MIRROR:
                raise
            if layout.place != self.layout.place:
                return False
            if local_path(self.mirror.url) is None and exists(marker, region=self.region, seconds=REQUEST):
                return True
            raise

    def no_match(self, specs: list[Locked]) -> CacheError:
        """The mirror has packages, and none of ``specs``."""
        first = specs[0]
        why = (
            f"it has none with the hash of one of the {len(specs)} that are missing here, such as {first.name}-"
            f"{first.version}-{first.hash[:7]}: Spack, recipes, compiler, target, operating system and externals must "
            "be those of the cluster that pushed"
        )
        directory = self.layout.descriptions(first)[0].rpartition("/")[0]
        lockfile = "petal-node lockfile --help    # clusters with the same lockfile as stack have the same hashes"
        return self.unusable(why, (_listing(self.mirror.uri(directory)), lockfile))


def what_of(spec: Locked) -> str:
    return f"the entry of {spec.name}@{spec.version}"


@contextmanager
def in_layout(what: str, remedy: str = "") -> Iterator[None]:
    """Reads a document of the entry ``what``: CacheError ``cache-corrupt`` if it is not in its layout."""
    try:
        yield
    except MALFORMED as error:
        if isinstance(error, NotJson):
            why = f"it does not have the shape of its layout: a file of it is not a JSON object: {error}"
        else:
            why = f"it does not have the shape of its layout ({type(error).__name__}: {error})"
        raise CacheError(what, why=why, remedy=remedy, code="cache-corrupt") from error


def _can_list(mirror: Mirror) -> bool:
    return not mirror.url.startswith("https://")


def _listing(uri: str) -> str:
    """The command that shows what a mirror contains."""
    path = local_path(uri)
    if path is not None:
        return f"ls -l {quoted(path)}"
    return f"aws s3 ls {quoted(uri.rstrip('/'))}/" if uri.startswith("s3://") else f"curl -sSIL {quoted(uri)}"
