"""Pushes built packages to the build caches of the configuration, after the release is published."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from ..config.model import Mirror
from ..core.errors import CacheError, FetchError, PetalError
from ..core.model import Finding, accepted, change, elsewhere, satisfied
from ..core.text import at_most, grouped
from ..host.atomic import scratch_dir
from ..host.log import LOG
from ..spack import database
from ..spack.cache.keys import require_signer
from ..spack.cache.push import Push
from ..spack.cache.record import CacheRecord, key_of
from ..spack.lockfile import Locked, locked_specs
from ..spack.solve import with_lockfile
from ..spack.workspace import lockfile_of, release_specs, store_of
from ..state.context import Context
from ..state.store import failure_of, save_failure
from .base import ClusterStep, Question, Run
from .publish import Publish

SHOWN = 8
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
        built, work = _built(ctx), ctx.paths.work(ctx.desired_release)
        pushed = {name: CacheRecord.load(work).pushed.get(key_of(mirror), {}) for name, mirror in mirrors.items()}
        failure = failure_of(work / FAILURE, ctx.run_id)
        if failure is not None:
            return accepted(f"not all packages are in {', '.join(mirrors)}: {failure}", failure)
        missing = {name: [spec for spec in built if spec.hash not in hashes] for name, hashes in pushed.items()}
        counts = [f"{len(specs)} are not recorded as pushed to {name}" for name, specs in missing.items() if specs]
        lines = [f"push {spec.name}@{spec.version} to {name}" for name, specs in missing.items() for spec in specs]
        if counts:
            return change(f"of {len(built)} built packages {', '.join(counts)}", *at_most(SHOWN, lines))
        if not all(lockfile_of(ctx, target).is_file() for target in ctx.targets):
            return change("no package is built yet", "push the packages when they are built")
        replaced = [_replaced(name, built, hashes) for name, hashes in pushed.items()]
        return satisfied(
            "".join((f"the {len(built)} packages that were built here are in {', '.join(mirrors)}", *replaced))
        )

    def inputs(self, ctx: Context) -> Mapping[str, Question]:
        """Whether each signing key can sign now."""
        return {
            f"spack.mirrors.{name}.signing_key": partial(_signer, ctx, name, mirror)
            for name, mirror in _mirrors(ctx).items()
            if mirror.signing_key
            and not any(ctx.is_mounted_later(origin.source) for origin in (mirror.signing_key, *mirror.keys))
        }

    def apply(self, ctx: Context) -> None:
        work, built = ctx.paths.work(ctx.desired_release), {spec.hash for spec in _built(ctx)}
        for name, mirror in _mirrors(ctx).items():
            record = CacheRecord.load(work)
            problems: list[PetalError] = []
            pushed = {digest: why for digest, why in record.pushed.get(key_of(mirror), {}).items() if digest in built}
            try:
                for target in ctx.targets:
                    specs = locked_specs(lockfile_of(ctx, target))
                    missing = [spec for spec in specs if spec.hash in built and spec.hash not in pushed]
                    done, unread = _push(ctx, name, mirror, target, missing, record.refused.get(mirror.url, {}))
                    pushed.update(done)
                    problems += unread
            except PetalError as error:
                problems = [error]
            else:
                record.with_pushed(mirror, pushed).save(work)
            for problem in problems[:1]:
                LOG.warning("%s", problem, extra={"step": self.name})
                save_failure(work / FAILURE, ctx.run_id, problem)


def _signer(ctx: Context, name: str, mirror: Mirror) -> str:
    try:
        directory = scratch_dir(ctx.paths.scratch) / f"signer-{name}"
        require_signer(ctx.system, directory, name, mirror, ctx.facts.cluster.region)
    except CacheError as error:
        if isinstance(error.__cause__, FetchError):  # its code says whether it is a mistake
            raise error.__cause__ from None
        raise
    return "it can sign"


def _push(
    ctx: Context, name: str, mirror: Mirror, target: str, specs: list[Locked], refused: Mapping[str, str]
) -> tuple[dict[str, str], list[CacheError]]:
    """Pushes the specs of which the mirror has no usable entry.

    Returns the packages that the mirror has now, by hash with the reason for each that was replaced; and the errors
    of entries that this node cannot read.

    The environment of Spack is written again: the packages of an image, or of another head node, were built without it.
    """
    if not specs:
        return {}, []
    push = Push(
        name,
        mirror,
        with_lockfile(ctx, target),
        ctx.facts.cluster.region,
        ctx.progress,
        ctx.config.install.fetch_timeout,
    )
    lacking = push.lacking(specs, refused)
    if lacking:
        push.send(lacking)
        ctx.note(f"pushed {len(lacking)} packages to {name}")
    pushed = {spec.hash: lacking.get(spec, "") for spec in specs if spec not in push.unread}
    return pushed, push.unread_errors()


def _replaced(name: str, built: Iterable[Locked], pushed: Mapping[str, str]) -> str:
    """The entries that were replaced because they could not be used, by reason."""
    reasons = grouped((pushed[spec.hash], f"{spec.name}@{spec.version}") for spec in built if pushed[spec.hash])
    groups = [f"{', '.join(at_most(SHOWN, specs))} ({why})" for why, specs in reasons.items()]
    return f"; replaced in {name}: {'; '.join(at_most(SHOWN, groups))}" if groups else ""


def _mirrors(ctx: Context) -> dict[str, Mirror]:
    return {name: mirror for name, mirror in ctx.config.spack.caches.items() if mirror.push}


def _built(ctx: Context) -> list[Locked]:
    """The installed packages of the release that did not come from a build cache."""
    specs, store = release_specs(ctx), store_of(ctx)
    others = {spec.hash for spec in database.missing(specs, store)} | database.from_cache(specs, store)
    return [spec for spec in specs if not spec.external and spec.hash not in others]
