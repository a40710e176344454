"""This petal-node lies at /opt/petal-node/<version>/ and is the one that an operator types."""

from __future__ import annotations

from ..core.model import Finding, Severity, change, elsewhere, satisfied
from ..host.atomic import install_executable, replace_link
from ..host.files import make_dir, sha256_of
from ..state.context import Context
from .base import IMAGES, Step

INCOMING = "incoming"


class SelfInstall(Step):
    """Keeps the archive that runs, and links it into the PATH."""

    name = "self-install"
    title = "petal-node is installed"
    local = True
    image_layouts = IMAGES
    severity = Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        if ctx.tool.archive is None:
            return elsewhere("it runs from a checkout, not from an archive")
        kept = ctx.kept_archive
        if not kept.is_file() or sha256_of(kept) != ctx.tool.sha256:
            return change(f"version {ctx.tool.version} is not kept yet", f"write {kept}", f"link {ctx.paths.link}")
        if not ctx.paths.link.is_symlink() or ctx.paths.link.resolve() != kept.resolve():
            return change(f"{ctx.paths.link} does not lead to it", f"link {ctx.paths.link} -> {kept}")
        return satisfied(f"version {ctx.tool.version} is at {kept}")

    def apply(self, ctx: Context) -> None:
        archive = ctx.tool.archive
        assert archive is not None
        kept = ctx.kept_archive
        if not kept.is_file() or sha256_of(kept) != ctx.tool.sha256:
            install_executable(archive, kept, str(ctx.tool.sha256))
        make_dir(ctx.paths.link.parent)
        replace_link(ctx.paths.link, str(kept))
        if archive.parent == ctx.paths.home / INCOMING:
            archive.unlink(missing_ok=True)
