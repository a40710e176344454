"""Pushes built packages to a build cache: packed by Spack into a local directory, signed, then uploaded.

The descriptions are uploaded last, so that an entry is complete when it can be found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ...config.model import Mirror
from ...core.deadlines import FETCH, REQUEST
from ...core.errors import CacheError, FetchError
from ...host.files import remove_tree
from ...remote.fetch import exists, upload
from ..driver import Spack
from ..lockfile import Locked
from .keys import open_keyring, refuse_readable_key

TRANSFERS = 8


@dataclass(frozen=True)
class Push:
    """The push to one mirror. Its methods raise CacheError or SpackError ``cache-push``, CacheError ``cache-key``."""

    name: str
    mirror: Mirror
    spack: Spack
    region: str | None
    tell: Callable[[str], None]

    def lacking(self, specs: Iterable[Locked]) -> list[Locked]:
        """The specs that the mirror does not have."""
        specs = list(specs)
        with ThreadPoolExecutor(TRANSFERS) as threads:
            uris = [self.mirror.uri(self._description(spec)) for spec in specs]
            try:
                existing = list(threads.map(lambda uri: exists(uri, region=self.region, seconds=REQUEST), uris))
            except FetchError as error:
                raise self._failed(error) from error
        return [spec for spec, is_there in zip(specs, existing) if not is_there]

    def send(self, specs: list[Locked]) -> None:
        """Packs, signs and uploads."""
        directory = self.spack.places.scratch / "pushed"
        remove_tree(directory)
        try:
            self.tell(f"packing {len(specs)} packages for {self.name}")
            self.spack.push([spec.hash for spec in specs], directory)
            if self.mirror.signed:
                self._sign(directory, specs)
            descriptions = {directory / self._description(spec) for spec in specs}
            files = sorted(path for path in directory.rglob("*") if path.is_file())
            last = [path for path in files if path in descriptions]
            self.tell(f"sending {len(last)} packages to {self.name}")
            for batch in ([path for path in files if path not in descriptions], last):
                with ThreadPoolExecutor(TRANSFERS) as threads:
                    list(threads.map(lambda path: self._put(path, directory), batch))
        except FetchError as error:
            raise self._failed(error) from error
        finally:
            remove_tree(directory)

    def _sign(self, directory: Path, specs: Iterable[Locked]) -> None:
        origin = self.mirror.signing_key
        assert origin is not None
        refuse_readable_key(origin)
        with open_keyring(self.spack.system, self.spack.places.scratch / "signing", (origin,), self.region) as ring:
            for spec in specs:
                plain = directory / self.spack.program.family.cache_layout.description(spec, signed=False)
                if plain.is_file():  # Spack leaves out a package whose recipe forbids redistribution
                    signed = plain.with_name(f"{plain.name}.signed")
                    ring.sign(plain, signed)
                    plain.unlink()
                    signed.rename(directory / self._description(spec))

    def _put(self, path: Path, directory: Path) -> None:
        uri = self.mirror.uri(str(path.relative_to(directory)))
        upload(path, uri, region=self.region, seconds=FETCH)

    def _description(self, spec: Locked) -> str:
        return self.spack.program.family.cache_layout.description(spec, signed=self.mirror.signed)

    def _failed(self, error: FetchError) -> CacheError:
        what = f"the built packages could not be pushed to the mirror {self.name}, {self.mirror.url}"
        remedy = (*error.remedy, "petal-node bootstrap    (tries again; the release is not touched)")
        return CacheError(what, why=str(error), remedy=remedy, code="cache-push")
