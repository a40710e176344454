"""Pushes built packages to a build cache: packed by Spack into a local directory, signed, then uploaded.

The descriptions are uploaded last, so that an entry is complete when it can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import FETCH, REQUEST
from ...core.errors import CacheError, FetchError
from ...core.text import grouped
from ...host.files import make_dir, remove_tree
from ...host.threads import results
from ...remote.answers import kind_of, remedy_below
from ...remote.fetch import require_readable, upload
from ..driver import Spack
from ..lockfile import Locked
from .entries import Layout
from .keys import Keyring, open_keyring, require_signer
from .mirror import OF_THE_MIRROR, TRANSFERS, MirrorReader, names_of

AGAIN = "petal-node bootstrap    # tries again; the release is not touched"


@dataclass(frozen=True)
class Push:
    """The push to one mirror. Its methods raise CacheError or SpackError ``cache-push``, CacheError ``cache-key``.

    Args:
        unread: by ``lacking``, the specs of which the mirror may have a good entry that this node may not read.
    """

    name: str
    mirror: Mirror
    spack: Spack
    region: str | None
    tell: Callable[[str], None]
    seconds: float = FETCH
    unread: dict[Locked, FetchError] = field(default_factory=dict)

    def lacking(self, specs: Iterable[Locked], refused: Mapping[str, str]) -> dict[Locked, str]:
        """The specs without an entry that can be used, each with the reason if the mirror has another entry.

        Args:
            refused: the reasons, by hash, for which this cluster could not use entries when it installed. Here only
                signatures are verified, and the files must exist.
        """
        unknown = [spec for spec in specs if spec.hash not in refused]
        with self._scratch() as directory:
            reader = MirrorReader(self.name, self.mirror, self._layout, self.region, directory)
            keys = open_keyring(self.spack.system, directory / "keys", self.mirror.keys, self.region)
            with keys if self.mirror.signed else nullcontext() as ring, ThreadPoolExecutor(TRANSFERS) as threads:
                problems = results(threads, lambda spec: self._problem(reader, spec, ring), unknown)
                try:
                    found = dict(zip(unknown, problems))
                except FetchError as error:
                    raise self._failed(error) from error
        reasons = {spec: found.get(spec, refused.get(spec.hash)) for spec in specs}
        return {spec: reason for spec, reason in reasons.items() if reason is not None}

    def _problem(self, reader: MirrorReader, spec: Locked, ring: Keyring | None) -> str | None:
        """Why the mirror's entry, if it has one, cannot be used, empty without an entry; None if it can be used."""

        def require(blobs: dict[str, str], _: bytes) -> None:
            for path in blobs:
                with reader.file_of(spec, path):
                    require_readable(self.mirror.uri(path), region=self.region, seconds=REQUEST)

        try:
            return None if reader.find(spec, ring, require) else ""
        except CacheError as error:
            return error.why
        except FetchError as error:
            if error.code in OF_THE_MIRROR:
                raise
            self.unread[spec] = error
            return None

    def unread_errors(self) -> list[CacheError]:
        """One error for each kind of refusal in ``unread``: these are neither replaced nor counted as pushed."""
        kinds = grouped((kind_of(error), (spec, error)) for spec, error in self.unread.items())
        return [self._unread([spec for spec, _ in cases], cases[0][1]) for cases in kinds.values()]

    def _unread(self, specs: list[Locked], error: FetchError) -> CacheError:
        what = f"the mirror {self.name} may have {names_of(specs)}, and this node cannot read these entries"
        remedy = (*remedy_below(error, self.mirror.uri("")), AGAIN)
        return CacheError(what, why=str(error), remedy=remedy, code="cache-push")

    def send(self, specs: Iterable[Locked]) -> None:
        """Packs, signs and uploads, after it has found that its key can sign."""
        specs = list(specs)
        with self._scratch() as directory:
            if self.mirror.signed:
                require_signer(self.spack.system, directory / "key", self.name, self.mirror, self.region)
            packed = directory / "packed"
            self.tell(f"packing {len(specs)} packages for {self.name}")
            self.spack.push([spec.hash for spec in specs], packed)
            if self.mirror.signed:
                self._sign(packed, specs)
            descriptions = {packed / self._layout.description(spec, signed=self.mirror.signed) for spec in specs}
            files = sorted(path for path in packed.rglob("*") if path.is_file())
            last = [path for path in files if path in descriptions]
            self.tell(f"sending {len(last)} packages to {self.name}")

            def put(path: Path) -> None:
                uri = self.mirror.uri(str(path.relative_to(packed)))
                upload(path, uri, region=self.region, seconds=self.seconds)

            try:
                for batch in ([path for path in files if path not in descriptions], last):
                    with ThreadPoolExecutor(TRANSFERS) as threads:
                        list(results(threads, put, batch))
            except FetchError as error:
                raise self._failed(error) from error

    @contextmanager
    def _scratch(self) -> Iterator[Path]:
        directory = self.spack.places.scratch / "pushed"
        remove_tree(directory)
        make_dir(directory, 0o700)
        try:
            yield directory
        finally:
            remove_tree(directory)

    def _sign(self, directory: Path, specs: Iterable[Locked]) -> None:
        assert self.mirror.signing_key is not None
        home, keys = directory.with_name("signing"), (self.mirror.signing_key,)
        with open_keyring(self.spack.system, home, keys, self.region) as ring:
            for spec in specs:
                plain = directory / self._layout.description(spec, signed=False)
                if plain.is_file():  # Spack leaves out a package whose recipe forbids redistribution
                    signed = plain.with_name(f"{plain.name}.signed")
                    ring.sign(plain, signed)
                    plain.unlink()
                    signed.rename(directory / self._layout.description(spec, signed=True))

    @property
    def _layout(self) -> Layout:
        return self.spack.program.family.cache_layout

    def _failed(self, error: FetchError) -> CacheError:
        what = f"the built packages could not be pushed to the mirror {self.name}, {self.mirror.url}"
        return CacheError(what, why=str(error), remedy=(*error.remedy, AGAIN), code="cache-push")
