"""Shorthands for the findings of checks, and the manifest that several of them read."""

from __future__ import annotations

from ..core.deadlines import PROBE
from ..core.model import Finding, Severity
from ..state.context import Context
from ..state.release import Manifest, current_release, read_manifest


def ok(check: str, message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, Severity.OK, message)


def warn(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users can work, and an administrator should look at it."""
    return Finding(check, Severity.WARN, message, why, remedy)


def fail(check: str, message: str, why: str, *remedy: str) -> Finding:
    """Users cannot use the software, or soon will not."""
    return Finding(check, Severity.FAIL, message, why, remedy)


def current_manifest(ctx: Context, seconds: float = PROBE) -> Manifest | None:
    """The manifest of the release that shells get; None without a complete release.

    Raises:
        StateError: it is damaged.
        StorageError: shared storage does not answer.
    """

    def read() -> Manifest | None:
        current = current_release(ctx.paths)
        return None if current is None else read_manifest(ctx.paths, current)

    return ctx.system.on_storage(read, ctx.paths.root, seconds)
