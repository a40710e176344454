"""Pushes built packages to the build caches of the configuration, after the release is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config.model import Mirror
from ..core import decode
from ..core.errors import CacheError, PetalError, StateError
from ..core.model import Finding, Scope, accepted, change, elsewhere, satisfied
from ..host.log import LOG
from ..spack import database
from ..spack.cache.push import Push
from ..spack.lockfile import Locked, locked_specs
from ..spack.solve import with_lockfile
from ..spack.workspace import lockfile_of, release_specs, store_of
from ..state.context import Context
from ..state.store import read_document, shaped, write_document
from .base import HEAD, Step
from .publish import Publish

SHOWN = 8


class BuildCache(Step):
    """Packages that were built here are in each build cache with ``push``. A failed push degrades the run only."""

    name = "build-cache"
    title = "built packages are in the build caches"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (Publish,)
    runs = frozenset({"bootstrap", "ami"})  # a build cache is not part of a node, so a repair leaves it alone
    in_image = True

    def probe(self, ctx: Context) -> Finding:
        mirrors = _mirrors(ctx)
        if not mirrors or not ctx.config.uses_spack:
            return elsewhere("the configuration has no build cache to push to")
        built, record = _built(ctx), _PushRecord(ctx)
        if record.failure is not None:
            return accepted(f"not all packages are in {', '.join(mirrors)}: {record.failure}", record.failure)
        missing = {name: record.missing(mirror, built) for name, mirror in mirrors.items()}
        counts = [f"{len(specs)} are not recorded as pushed to {name}" for name, specs in missing.items() if specs]
        lines = [f"push {spec.name}@{spec.version} to {name}" for name, specs in missing.items() for spec in specs]
        more = [f"and {len(lines) - SHOWN} more"] if lines[SHOWN:] else []
        if counts:
            return change(f"of {len(built)} built packages {', '.join(counts)}", *lines[:SHOWN], *more)
        if not all(lockfile_of(ctx, target).is_file() for target in ctx.targets):
            return change("no package is built yet", "push the packages when they are built")
        return satisfied(f"the {len(built)} packages that were built here are in {', '.join(mirrors)}")

    def apply(self, ctx: Context) -> None:
        record, built = _PushRecord(ctx), {spec.hash: spec for spec in _built(ctx)}
        for name, mirror in _mirrors(ctx).items():
            try:
                for target in ctx.targets:
                    here = (spec for spec in locked_specs(lockfile_of(ctx, target)) if spec.hash in built)
                    _push(ctx, name, mirror, target, record.missing(mirror, here))
                record.save_pushed(mirror, built.values())
            except PetalError as error:
                LOG.warning("%s", error, extra={"step": self.name})
                record.save_failure(error)


def _push(ctx: Context, name: str, mirror: Mirror, target: str, specs: list[Locked]) -> None:
    """Pushes the specs that the mirror lacks.

    The environment of Spack is written again: the packages of an image, or of another head node, were built without it.
    """
    if not specs:
        return
    push = Push(name, mirror, with_lockfile(ctx, target), ctx.facts.cluster.region, ctx.progress)
    lacking = push.lacking(specs)
    if lacking:
        push.send(lacking)
        ctx.note(f"pushed {len(lacking)} packages to {name}")


def _mirrors(ctx: Context) -> dict[str, Mirror]:
    return {name: mirror for name, mirror in ctx.config.spack.caches.items() if mirror.push}


def _built(ctx: Context) -> list[Locked]:
    """The installed packages of the release that did not come from a build cache."""
    specs, store = release_specs(ctx), store_of(ctx)
    others = {spec.hash for spec in database.missing(specs, store)} | database.from_cache(specs, store)
    return [spec for spec in specs if not spec.external and spec.hash not in others]


class _PushRecord:
    """The packages that were pushed to each mirror, so that a run that changes nothing asks no mirror.

    ``failure`` is the failed push of this run; the next run tries again.
    """

    def __init__(self, ctx: Context) -> None:
        self.failure: PetalError | None = None
        self._path: Path = ctx.paths.work(ctx.desired_release) / "pushed.json"
        self._run_id = ctx.run_id
        self._pushed: dict[str, tuple[str, ...]] = {}
        try:
            raw = read_document(self._path) or {}
            self._pushed, failure = shaped(self._path, lambda: _decoded(raw))
        except StateError as error:  # all packages count as not pushed
            LOG.warning("%s", error, extra={"step": BuildCache.name})
            return
        if failure is not None and raw.get("run_id") == self._run_id:
            self.failure = CacheError(
                failure["what"], why=failure["why"], remedy=failure["remedy"], code=failure["code"]
            )

    def missing(self, mirror: Mirror, specs: Iterable[Locked]) -> list[Locked]:
        return [spec for spec in specs if spec.hash not in self._pushed.get(mirror.url, ())]

    def save_pushed(self, mirror: Mirror, specs: Iterable[Locked]) -> None:
        self._pushed[mirror.url] = tuple(sorted(spec.hash for spec in specs))
        self._write()

    def save_failure(self, error: PetalError) -> None:
        self.failure = error
        self._write()

    def _write(self) -> None:
        failure = self.failure.to_dict() if self.failure else None
        write_document(self._path, {"run_id": self._run_id, "pushed": self._pushed, "failure": failure})


def _decoded(raw: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], Mapping[str, Any] | None]:
    pushed = decode.mapping(raw.get("pushed", {}))
    hashes = {url: decode.items(listed, decode.text) for url, listed in pushed.items()}
    return hashes, decode.maybe(raw.get("failure"), decode.error)
