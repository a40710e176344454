"""Pushes built packages to the build caches of the configuration, after the release is published."""

from __future__ import annotations

from ..config.model import Mirror
from ..core import decode
from ..core.errors import PetalError, StateError
from ..core.model import Finding, accepted, change, elsewhere, satisfied
from ..core.text import at_most
from ..host.log import LOG
from ..spack import database
from ..spack.cache.push import Push
from ..spack.lockfile import Locked, locked_specs
from ..spack.solve import with_lockfile
from ..spack.workspace import lockfile_of, release_specs, store_of
from ..state.context import Context
from ..state.store import failure_of, read_document, save_failure, shaped, write_document
from .base import ClusterStep, Run
from .publish import Publish

SHOWN = 8
PUSHED = "pushed.json"
FAILURE = "push-failed.json"


class BuildCache(ClusterStep):
    """Packages that were built here are in each build cache with ``push``. A failed push degrades the run only."""

    name = "build-cache"
    needs = (Publish,)
    part_of = frozenset({Run.BOOTSTRAP, Run.AMI_IMAGE})  # a node has no build cache, so a repair leaves it alone
    in_image = True

    def probe(self, ctx: Context) -> Finding:
        mirrors = _mirrors(ctx)
        if not mirrors or not ctx.config.uses_spack:
            return elsewhere("the configuration has no build cache to push to")
        built, pushed = _built(ctx), _pushed(ctx)
        failure = failure_of(ctx.paths.work(ctx.desired_release) / FAILURE, ctx.run_id)
        if failure is not None:
            return accepted(f"not all packages are in {', '.join(mirrors)}: {failure}", failure)
        missing = {
            name: [spec for spec in built if spec.hash not in pushed.get(mirror.url, ())]
            for name, mirror in mirrors.items()
        }
        counts = [f"{len(specs)} are not recorded as pushed to {name}" for name, specs in missing.items() if specs]
        lines = [f"push {spec.name}@{spec.version} to {name}" for name, specs in missing.items() for spec in specs]
        if counts:
            return change(f"of {len(built)} built packages {', '.join(counts)}", *at_most(SHOWN, lines))
        if not all(lockfile_of(ctx, target).is_file() for target in ctx.targets):
            return change("no package is built yet", "push the packages when they are built")
        return satisfied(f"the {len(built)} packages that were built here are in {', '.join(mirrors)}")

    def apply(self, ctx: Context) -> None:
        hashes, pushed, work = {spec.hash for spec in _built(ctx)}, _pushed(ctx), ctx.paths.work(ctx.desired_release)
        for name, mirror in _mirrors(ctx).items():
            missing = hashes.difference(pushed.get(mirror.url, ()))
            try:
                for target in ctx.targets:
                    specs = locked_specs(lockfile_of(ctx, target))
                    _push(ctx, name, mirror, target, [spec for spec in specs if spec.hash in missing])
            except PetalError as error:
                LOG.warning("%s", error, extra={"step": self.name})
                save_failure(work / FAILURE, ctx.run_id, error)
                continue
            pushed[mirror.url] = tuple(sorted(hashes))
            write_document(work / PUSHED, {"pushed": pushed})


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


def _pushed(ctx: Context) -> dict[str, tuple[str, ...]]:
    """The hashes that were pushed, by the URL of the mirror: a run that changes nothing asks no mirror."""
    path = ctx.paths.work(ctx.desired_release) / PUSHED
    try:
        pushed = (read_document(path) or {}).get("pushed", {})
        return shaped(path, lambda: {url: decode.items(hashes, decode.text) for url, hashes in pushed.items()})
    except StateError as error:  # all packages count as not pushed
        LOG.warning("%s", error, extra={"step": BuildCache.name})
        return {}
