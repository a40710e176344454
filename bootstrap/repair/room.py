"""What builds and Spack have left on this node's own disk."""

from __future__ import annotations

import json
from pathlib import Path

from ..core.model import Probe, Scope, change, elsewhere, satisfied
from ..host.files import remove_tree, size_of
from ..state.context import Context
from ..steps.base import EVERYWHERE

WORTH_BYTES = 64 << 20


class Stage:
    """No build directories are left where no build goes on."""

    name = "stage"
    title = "no build left its directories behind"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ()
    local = True
    background = False

    def probe(self, ctx: Context) -> Probe:
        left = _left(ctx)
        if left and _goes_on(ctx):
            return elsewhere("a run goes on, or only root could see it")
        size = sum(size_of(path) for path in left)
        if size < WORTH_BYTES:
            return satisfied("builds have left nothing behind")
        told = f"builds that have ended left {size / (1 << 20):.0f} MiB in {ctx.paths.scratch}"
        return change(told, *(f"remove {path}" for path in left))

    def apply(self, ctx: Context) -> None:
        if not _goes_on(ctx):
            for path in _left(ctx):
                remove_tree(path)


class SpackCache:
    """Spack's indexes (config:misc_cache) can be read: every command fails on one that was cut off (run with 1.1)."""

    name = "spack-cache"
    title = "Spack's own indexes can be read"
    roles = EVERYWHERE
    scope = Scope.NODE
    needs = ("worker",)
    local = True
    background = False

    def probe(self, ctx: Context) -> Probe:
        damaged = _damaged(ctx)
        if not damaged:
            return satisfied("those that are there can be read")
        if _goes_on(ctx):
            return elsewhere("a run goes on, or only root could see it")
        return change(f"{damaged[0]} cannot be read", *(f"remove {path}: Spack makes it anew" for path in damaged))

    def apply(self, ctx: Context) -> None:
        for path in _damaged(ctx):
            path.unlink(missing_ok=True)


def _damaged(ctx: Context) -> list[Path]:
    return [path for path in sorted((ctx.paths.scratch / "spack" / "misc").rglob("*.json")) if not _is_json(path)]


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return True  # Spack has replaced it
    except (ValueError, RecursionError):
        return False
    return True


def _left(ctx: Context) -> list[Path]:
    """Spack's stages (config:build_stage), and downloads that were cut off."""
    scratch = ctx.paths.scratch
    return [
        path for path in (scratch / "spack" / "stage", *scratch.glob("*.tar"), *scratch.glob("*.part")) if path.exists()
    ]


def _goes_on(ctx: Context) -> bool:
    """True while a process of another run may live here: a worker, a build job, somebody who solves."""
    return not ctx.system.is_root() or bool(ctx.system.other_runs(ctx.run_id))
