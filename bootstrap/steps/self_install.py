"""This petal-node is at /opt/petal-node/<version>/, and the command in the PATH leads to it."""

from __future__ import annotations

from pathlib import Path

from ..core.model import Finding, Severity, Tool, change, elsewhere, satisfied
from ..core.paths import Paths
from ..core.text import quoted
from ..host.atomic import install_executable, replace_link
from ..host.files import has_sha256, make_dir
from ..state.context import Context
from .base import IMAGE_BUILDS, ON_NODES, Step

INCOMING = "incoming"
MODE = 0o755  # users run petal-node too


def keep_archive(tool: Tool, paths: Paths) -> Path:
    """Copies the archive that runs to /opt/petal-node/<version>/, and returns that path.

    The downloaded archive is removed: the hook scripts find the copy.

    Raises:
        FetchError: ``fetch-checksum``, the archive was replaced while it ran.
        OSError: it cannot be read or written.
    """
    assert tool.archive is not None
    kept = paths.program(tool.version)
    install_executable(tool.archive, kept, str(tool.sha256))
    if tool.archive.parent == paths.home / INCOMING:
        tool.archive.unlink(missing_ok=True)
    return kept


class SelfInstall(Step):
    """Copies the archive that runs, and links it into the PATH."""

    name = "self-install"
    local = True
    part_of = ON_NODES | IMAGE_BUILDS
    severity = Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        if ctx.tool.archive is None:
            return elsewhere("petal-node runs from a checkout, not from an archive")
        kept = ctx.paths.program(ctx.tool.version)
        if not has_sha256(kept, ctx.tool.sha256):
            return change(f"version {ctx.tool.version} is not installed yet", f"write {kept}", f"link {ctx.paths.link}")
        closed = next((path for path in _parts(ctx, kept) if path.stat().st_mode & MODE != MODE), None)
        if closed is not None:
            return change(f"users cannot use {closed}", f"chmod 755 {quoted(closed)}")
        if not ctx.paths.link.is_symlink() or ctx.paths.link.resolve() != kept.resolve():
            return change(f"{ctx.paths.link} does not lead to this petal-node", f"link {ctx.paths.link} -> {kept}")
        return satisfied(f"version {ctx.tool.version} is at {kept}")

    def apply(self, ctx: Context) -> None:
        kept = keep_archive(ctx.tool, ctx.paths)
        for path in _parts(ctx, kept):
            path.chmod(MODE)
        make_dir(ctx.paths.link.parent)
        replace_link(ctx.paths.link, str(kept))


def _parts(ctx: Context, kept: Path) -> tuple[Path, ...]:
    """The program and its directories, all of which users need."""
    return ctx.paths.home, kept.parent, kept
