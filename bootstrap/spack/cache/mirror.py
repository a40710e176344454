"""Reads the entries of one mirror, and finds out why a mirror has none."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import REQUEST
from ...core.errors import CacheError, FetchError, PetalError
from ...core.text import at_most, quoted
from ...remote.answers import look_up, remedy_below
from ...remote.fetch import Source, exists, has_files, local_path, read
from ..lockfile import Locked
from .entries import LAYOUTS, LIMIT, MALFORMED, SIGNED, Layout, NotJson, parsed, unwrapped
from .keys import Keyring

TRANSFERS = 8  # at the same time: most entries are small, and each of their parts is a round trip
NAMED = 3
# An error of a read concerns the mirror, the entry or this node. The mirror: it does not answer this node at all, or no
# entry can be written here.
OF_THE_MIRROR = frozenset(
    {"fetch-unreachable", "fetch-no-credentials", "fetch-region", "fetch-scheme", "file-no-space", "cache-local"}
)
# The entry: it is bad for every node, so a push replaces it. One of its files is bad, or missing
# (``MirrorReader._is_missing``), or its signature is not accepted.
OF_AN_ENTRY = frozenset({"cache-unverified", "cache-corrupt"})
OF_A_FILE = frozenset({"fetch-checksum", "fetch-too-large"})
# This node, any other error: it may not read a file that the mirror has. The entry may be good, so it is not replaced.

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
    _is_listed: bool = True

    def find(self, spec: Locked, ring: Keyring | None, use: Use) -> bool:
        """Gives the first entry of ``spec`` that ``use`` accepts to ``use``; False if the mirror has none.

        Raises:
            CacheError: ``OF_AN_ENTRY``, no entry can be used, for the reason of the first one; or an error of ``use``.
            FetchError: the mirror does not answer, or the local disk is full (``OF_THE_MIRROR``); or the mirror has an
                entry that this node may not read.
        """
        problems: list[PetalError] = []
        for path in self.layout.descriptions(spec):
            try:
                text = self._read(spec, path)
                if text is not None:
                    use(*self._verified(spec, path, text, ring))
                    return True
            except (CacheError, FetchError) as error:
                if error.code in OF_THE_MIRROR:
                    raise
                problems.append(error)
        if problems:  # an entry is bad only if no other one may be good
            raise next((error for error in problems if error.code not in OF_AN_ENTRY), problems[0])
        return False

    def _read(self, spec: Locked, path: str) -> bytes | None:
        """The text of a description; None if the mirror has none, or does not show whether it has one.

        A server that may not be listed answers 403 for a missing file, and for one that this node may not read.
        """
        source = self.source(path, None, REQUEST)
        try:
            return read(source, self.scratch / f".{threading.get_ident()}", limit=LIMIT)
        except FetchError as error:
            if error.code in OF_A_FILE:
                raise CacheError(what_of(spec), why=str(error), code="cache-corrupt") from error
            is_missing = self._is_missing(path, error)
            if is_missing is False:
                raise
            if is_missing is None:
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

    @contextmanager
    def file_of(self, spec: Locked, path: str) -> Iterator[None]:
        """Reads a file that a description names: CacheError ``cache-corrupt`` if it is missing or bad.

        Raises:
            FetchError: as ``find``.
        """
        try:
            yield
        except FetchError as error:
            if error.code in OF_A_FILE or self._is_missing(path, error):
                raise CacheError(what_of(spec), why=str(error), code="cache-corrupt") from error
            raise

    def _is_missing(self, path: str, error: FetchError) -> bool | None:
        """True if the mirror did not give a file because it is missing; None if the server does not show that."""
        if error.code == "fetch-missing" or not error.may_be_missing:
            return error.may_be_missing
        if not self._is_listed:
            return None
        try:
            return not has_files(self.mirror.uri(path), region=self.region, seconds=REQUEST)
        except FetchError:
            self._is_listed = False  # a role without s3:ListBucket gets this answer for each missing package
            return None

    def source(self, path: str, sha256: str | None, seconds: float) -> Source:
        return Source(self.mirror.uri(path), sha256, self.region, seconds, self.stopped.is_set)

    def unusable(self, why: str, remedy: Iterable[str], taken: str = "no package could be") -> CacheError:
        """The error for a mirror from which no package can be taken.

        Args:
            taken: the start of the sentence, if some packages could be taken.
        """
        what = f"{taken} taken from the mirror {self.name}, {self.mirror.url}"
        return CacheError(what, why=why, remedy=remedy, code="cache-unusable")

    def unreadable(self, error: FetchError, taken: str = "no package could be") -> CacheError:
        """As ``unusable``, for an error that all objects have from which no package could be taken."""
        is_own = error.code in OF_THE_MIRROR or error.code == "fetch-missing"
        why = str(error) if is_own else f"this node cannot read its objects: {error}"
        return self.unusable(why, self.remedy(error), taken)

    def remedy(self, error: PetalError) -> tuple[str, ...]:
        """The remedy of an error of one object, which others of the mirror may have too."""
        return remedy_below(error, self.mirror.uri(""))

    def problem(self) -> CacheError | None:
        """Why the mirror can have no package for this Spack; None if it has packages of the layout.

        A mirror that this cluster pushes to may be empty.
        """
        try:
            found = [layout for layout in LAYOUTS if self._has(layout)]
        except FetchError as error:
            return self.unreadable(error)
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
        remedy = [
            _listing(self.mirror.uri(directory)),
            "petal-node lockfile --help    # clusters with the same lockfile as stack have the same hashes",
        ]
        for error in list(self.unanswered.values())[:1]:
            why = f"{why}; or this node may not read them: {error}"
            remedy += self.remedy(error)
        return self.unusable(why, dict.fromkeys(remedy))


def names_of(specs: Iterable[Locked]) -> str:
    """The first packages by name and version, and how many more there are."""
    return ", ".join(at_most(NAMED, sorted(f"{spec.name}@{spec.version}" for spec in specs)))


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
