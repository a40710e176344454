"""A check: its name, its deadline, the nodes it is for, and one function that returns findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ..core.errors import PetalError, as_error
from ..core.model import Finding, Mark, Role
from ..state.context import Context
from ..state.release import Manifest, current_release, read_manifest

EVERYWHERE = frozenset(Role)
HEAD = frozenset({Role.HEAD})
WAY_TO_STORAGE = ("hidden-mounts", "mount", "storage", "root")
TOUCH_SECONDS = 5.0  # of one look at shared storage, which may hang

Look = Callable[[Context, float], Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    """One question about a node.

    Args:
        name: how its findings are named, or begin (``load`` for ``load:gcc``).
        seconds: its deadline; processes and reads that it started are given up after that.
        look: the function; it reads and tries, and leaves no changes.
        roles: the nodes that it is for.
        after: if one of these failed, the check is skipped, because it would only fail for the same cause.
        others: names of further findings of the same function.
    """

    name: str
    seconds: float
    look: Look
    roles: frozenset[Role] = EVERYWHERE
    after: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def findings(self, ctx: Context) -> Iterator[Finding]:
        """The findings; an error or an exceeded deadline is a finding too."""
        try:
            yield from self.look(ctx, self.seconds)
        except (PetalError, OSError) as trouble:
            error = as_error(trouble, ctx.paths.shared_mount)
            yield Finding(self.name, Mark.FAIL, error.what, error.why, error.remedy)


def ok(check: str, message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Mark.OK, message)


def warn(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users can work, and an administrator should look at it."""
    return Finding(check, Mark.WARN, message, why, remedy)


def fail(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users cannot use the software, or soon will not."""
    return Finding(check, Mark.FAIL, message, why, remedy)


def current_manifest(ctx: Context, seconds: float = TOUCH_SECONDS) -> Manifest | None:
    """The manifest of the release that shells get; None without a complete release.

    Raises:
        StateError: it is damaged.
        StorageError: shared storage does not answer.
    """

    def read() -> Manifest | None:
        current = current_release(ctx.paths)
        return None if current is None else read_manifest(ctx.paths, current)

    return ctx.system.on_storage(read, ctx.paths.root, seconds)
