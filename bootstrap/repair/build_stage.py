"""Files that ended builds left on this node's own disk: Spack's stages, partial downloads, unreadable indexes."""

from __future__ import annotations

from pathlib import Path

from ..core.model import Finding, Severity, change, elsewhere, satisfied
from ..host.files import remove_tree, size_of
from ..spack.driver import unreadable_indexes
from ..state.context import Context
from ..steps.base import Run, Step

WORTH_BYTES = 64 << 20


class BuildStage(Step):
    """No ended build left files. Every Spack command fails on a truncated index (run with 1.1)."""

    name = "build-stage"
    local = True
    part_of = frozenset({Run.REPAIR, Run.CHECK})
    severity = Severity.WARN

    def probe(self, ctx: Context) -> Finding:
        if not ctx.system.is_root():
            return elsewhere("only root can see what builds left, and whether one is in progress")
        indexes, stages = unreadable_indexes(ctx.paths.scratch / "spack"), _stages(ctx)
        size = sum(size_of(path) for path in stages)
        if not indexes and size < WORTH_BYTES:
            return satisfied(f"ended builds left nothing in {ctx.paths.scratch}")
        if ctx.system.other_runs(ctx.run_id):
            return elsewhere("another run is in progress")
        lines = [f"remove {path}" for path in (*indexes, *(stages if size >= WORTH_BYTES else ()))]
        if indexes:
            return change(f"Spack's index {indexes[0]} cannot be read: its write was cut off", *lines)
        return change(f"ended builds left {size / (1 << 20):.0f} MiB in {ctx.paths.scratch}", *lines)

    def apply(self, ctx: Context) -> None:
        if ctx.system.other_runs(ctx.run_id):
            return
        for path in (*unreadable_indexes(ctx.paths.scratch / "spack"), *_stages(ctx)):
            remove_tree(path)


def _stages(ctx: Context) -> list[Path]:
    """Spack's stages (config:build_stage), and downloads that were cut off."""
    scratch = ctx.paths.scratch
    paths = (scratch / "spack" / "stage", *scratch.glob("*.tar"), *scratch.glob("*.part"))
    return [path for path in paths if path.exists()]
