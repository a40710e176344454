"""What was built here goes into the build caches that the configuration names, when users have the release already."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..config.model import Mirror
from ..core import decode
from ..core.errors import CacheError, PetalError, SpackError, StateError
from ..core.model import Finding, Scope, accepted, change, elsewhere, refused, satisfied
from ..host.log import LOG
from ..spack import database
from ..spack.cache.push import Push
from ..spack.driver import Spack
from ..spack.lockfile import Locked, locked_specs
from ..spack.parallel import split
from ..spack.solve import ready_spack
from ..spack.workspace import lockfile_of, release_specs, store_of
from ..state.context import Context
from ..state.store import read_document, shaped, write_document
from .base import HEAD, Step
from .publish import Publish

SHOWN = 8


class BuildCache(Step):
    """What was built is where the configuration wants it pushed. A mirror that takes nothing degrades the run only."""

    name = "build-cache"
    title = "what was built is in the build caches"
    roles = HEAD
    scope = Scope.CLUSTER
    needs = (Publish,)
    image_layouts = frozenset({"ami"})
    in_image = True
    in_repair = False  # a build cache is not part of a node
    is_check = False

    def probe(self, ctx: Context) -> Finding:
        mirrors = _mirrors(ctx)
        if not mirrors or not ctx.config.builds:
            return elsewhere("no mirror of the configuration takes what is built")
        try:
            built, record = _built(ctx), _Record(ctx)
        except SpackError as error:
            return refused(error)
        if record.trouble is not None:
            return accepted(f"not everything is in {', '.join(mirrors)}: {record.trouble}", record.trouble)
        left = {name: record.left(mirror, built) for name, mirror in mirrors.items()}
        if any(left.values()) or not all(lockfile_of(ctx, target).is_file() for target in ctx.targets):
            return change(f"{_counted(left)}", *(_lines(left) or ["push what is built"]))
        return satisfied(f"the {len(built)} packages that were built here are in {', '.join(mirrors)}")

    def apply(self, ctx: Context) -> None:
        record, built = _Record(ctx), {spec.hash: spec for spec in _built(ctx)}
        for name, mirror in _mirrors(ctx).items():
            try:
                for target in ctx.targets:
                    here = (spec for spec in locked_specs(lockfile_of(ctx, target)) if spec.hash in built)
                    _push(ctx, name, mirror, target, record.left(mirror, here))
                record.settle(mirror, built.values())
            except PetalError as error:
                LOG.warning("%s", error, extra={"step": self.name})
                record.fail(error)


def _push(ctx: Context, name: str, mirror: Mirror, target: str, specs: list[Locked]) -> None:
    if not specs:
        return
    host, spack = ctx.facts.host, _opened(ctx, target)
    jobs = split(host.cpus, host.memory, ctx.config.install.jobs, side_by_side=False).jobs
    push = Push(name, mirror, spack, ctx.facts.cluster.region, jobs, ctx.progress)
    lacking = push.lacking(specs)
    if lacking:
        push.send(lacking)
        ctx.note(f"pushed {len(lacking)} packages to {name}")


def _opened(ctx: Context, target: str) -> Spack:
    """Spack as it was when it built: what an image carried, or another head node, may have been built without one."""
    spack = ready_spack(ctx, target)
    shutil.copyfile(lockfile_of(ctx, target), spack.lockfile)
    return spack


def _mirrors(ctx: Context) -> dict[str, Mirror]:
    return {name: mirror for name, mirror in ctx.config.spack.caches.items() if mirror.push}


def _built(ctx: Context) -> list[Locked]:
    """What is in the store and did not come from a build cache itself."""
    specs, store = release_specs(ctx), store_of(ctx)
    away = {spec.hash for spec in database.missing(specs, store)} | database.from_cache(specs, store)
    return [spec for spec in specs if not spec.external and spec.hash not in away]


class _Record:
    """What is known to be in the mirrors, so that a run that changes nothing asks none of them."""

    def __init__(self, ctx: Context) -> None:
        self._path: Path = ctx.paths.work(ctx.desired_release) / "pushed.json"
        self._run_id = ctx.run_id
        self._pushed: dict[str, tuple[str, ...]] = {}
        self._trouble: dict[str, Any] | None = None
        try:
            self._read()
        except StateError as error:  # the mirrors are asked again
            LOG.warning("%s", error, extra={"step": BuildCache.name})

    def _read(self) -> None:
        raw = read_document(self._path) or {}
        self._pushed = shaped(self._path, lambda: _pushed_of(raw))
        said = shaped(self._path, lambda: decode.maybe(raw.get("trouble"), decode.error))
        self._trouble = said if raw.get("run_id") == self._run_id else None

    @property
    def trouble(self) -> CacheError | None:
        """What this very run could not push; the next one tries again."""
        said = self._trouble
        if said is None:
            return None
        return CacheError(said["what"], why=said["why"], remedy=said["remedy"], code=said["code"])

    def left(self, mirror: Mirror, specs: Iterable[Locked]) -> list[Locked]:
        return [spec for spec in specs if spec.hash not in self._pushed.get(mirror.url, ())]

    def settle(self, mirror: Mirror, specs: Iterable[Locked]) -> None:
        self._pushed[mirror.url] = tuple(sorted(spec.hash for spec in specs))
        self._write()

    def fail(self, error: PetalError) -> None:
        self._trouble = error.to_dict()
        self._write()

    def _write(self) -> None:
        content = {"run_id": self._run_id, "pushed": self._pushed, "trouble": self._trouble}
        write_document(self._path, content)


def _pushed_of(raw: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    pushed = decode.mapping(raw.get("pushed", {}))
    return {url: decode.items(hashes, decode.text) for url, hashes in pushed.items()}


def _counted(left: dict[str, list[Locked]]) -> str:
    counts = [f"{len(specs)} packages are not known to be in {name}" for name, specs in left.items() if specs]
    return ", ".join(counts) or "nothing is built yet"


def _lines(left: dict[str, list[Locked]]) -> list[str]:
    names = [f"push {spec.name}@{spec.version} to {name}" for name, specs in left.items() for spec in specs]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [*names[:SHOWN], *more]
