"""What a check is: its name, its deadline, where it applies, and one function that looks."""

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
    """One question to a node.

    Args:
        name: how its findings are named, or begin (``load`` for ``load:gcc``).
        seconds: its deadline; whatever it starts or touches is given up then.
        look: finds; reads and tries, and never changes anything that stays.
        roles: the nodes that are asked.
        after: where one of these failed this is not tried: it would only fail for the same cause.
        others: names of more findings of the same look.
    """

    name: str
    seconds: float
    look: Look
    roles: frozenset[Role] = EVERYWHERE
    after: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    def findings(self, ctx: Context) -> Iterator[Finding]:
        """What it says; a look that fails or is given up is a finding too."""
        try:
            yield from self.look(ctx, self.seconds)
        except (PetalError, OSError) as trouble:
            error = as_error(trouble, ctx.paths.shared_mount)
            yield Finding(self.name, Mark.FAIL, error.what, error.why, error.remedy)


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Mark.OK, message)


def warn(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users can work, and somebody should look."""
    return Finding(check, Mark.WARN, message, why, remedy)


def fail(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users cannot use the software, or soon will not."""
    return Finding(check, Mark.FAIL, message, why, remedy)


def current_manifest(ctx: Context, seconds: float = TOUCH_SECONDS) -> Manifest | None:
    """The manifest of the release that shells get; None without a complete one.

    Raises:
        StateError: it is damaged.
        StorageError: shared storage does not answer.
    """

    def read() -> Manifest | None:
        current = current_release(ctx.paths)
        return None if current is None else read_manifest(ctx.paths, current)

    return ctx.system.on_storage(read, ctx.paths.root, seconds)
