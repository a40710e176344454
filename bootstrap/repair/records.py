"""Records on shared storage that cannot be read. They are renamed to ``.bad``, and later steps write them again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ..core.deadlines import PROBE
from ..core.errors import StateError
from ..core.model import Finding, change, elsewhere, satisfied
from ..core.text import at_most, quoted
from ..host.atomic import move_aside
from ..host.log import LOG
from ..releases.publish import record_current
from ..state.context import Context
from ..state.desired import Owner, Token
from ..state.release import read_index, read_manifest
from ..state.store import ClusterState, KnownStorage, is_own_storage
from ..steps.base import HEAD, Run, Step
from ..steps.mount import HiddenMounts, MountStorage
from .permissions import Permissions

SHOWN = 4


class Records(Step):
    """The records in <mount>/petal/state and the manifest of the desired release can be read."""

    name = "records"
    roles = HEAD
    needs = (HiddenMounts, MountStorage, Permissions)
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    after = (HiddenMounts, MountStorage, Permissions)

    def probe(self, ctx: Context) -> Finding:
        if ctx.paths.live and ctx.mounted is None:
            return elsewhere(f"{ctx.paths.mount} is not mounted")
        damaged, lost = ctx.system.on_storage(
            lambda: (list(_damaged(ctx)), _token_is_lost(ctx)), ctx.paths.shared, PROBE
        )
        if not damaged and not lost:
            return satisfied(f"the records in {ctx.paths.state} can be read")
        lines = [f"mv {quoted(path)} {quoted(path)}.bad" for path in damaged[:SHOWN]]
        lines += ["write the storage token that this node remembers"] if lost else []
        if damaged:
            summary = ", ".join(at_most(1, [f"{path} is damaged" for path in damaged]))
            if ctx.paths.state / "published.json" in damaged:
                summary += "; the times of earlier releases are lost, so petal-node rollback needs the id of a release"
            return change(summary, *lines)
        return change(f"{ctx.paths.state}/token.json, the storage token, is missing", *lines)

    def apply(self, ctx: Context) -> None:
        damaged = list(_damaged(ctx))
        for path in damaged:
            move_aside(path, path.with_name(path.name + ".bad"))
            LOG.warning("%s is damaged and was renamed to .bad", path, extra={"step": self.name})
        if _token_is_lost(ctx):
            before = KnownStorage.load(ctx.paths)
            assert before is not None
            ClusterState(ctx.paths).save_token(Token(before.token, ctx.facts.host.name, Owner.of(ctx.facts.cluster)))
        if ctx.paths.state / "published.json" in damaged and ClusterState(ctx.paths).is_known_storage():
            record_current(ctx)


def _damaged(ctx: Context) -> Iterator[Path]:
    shared, state = ClusterState(ctx.paths), ctx.paths.state
    readers: list[tuple[Path, Callable[[], object]]] = [
        (state / "token.json", shared.token),
        (state / "desired.json", shared.desired_state),
        (state / "stack.json", shared.install),
        (state / "proof.json", shared.proof),
        (state / "published.json", shared.published),
    ]
    if ctx.release is not None:
        release = ctx.release
        readers.append((ctx.paths.manifest(release), lambda: read_manifest(ctx.paths, release)))
        readers.append((ctx.paths.release(release) / "modules.json", lambda: read_index(ctx.paths, release)))
    for path, read in readers:
        try:
            read()
        except StateError as error:
            if error.code == "state-corrupt":
                yield path
    with suppress(StateError):  # the step ``permissions`` finds a directory that is not trusted
        yield from shared.reports().damaged


def _token_is_lost(ctx: Context) -> bool:
    """True if only the token is missing from the storage that this node has used."""
    return not (ctx.paths.state / "token.json").exists() and is_own_storage(ctx.paths, ctx.facts.host.name)
