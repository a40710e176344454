"""Spack for one run: the driver with everything that the node and the configuration decide."""

from __future__ import annotations

from pathlib import Path

from ..context import Context
from ..release import target_of
from . import database
from .driver import Spack
from .program import locate
from .scope import Places, Site, find_compiler, write_scope


def lockfile_of(ctx: Context) -> Path:
    """The lockfile of the release that this run makes."""
    return ctx.paths.release(ctx.wanted_release) / "spack.lock"


def module_tree(ctx: Context) -> Path:
    """The module tree of the release that this run makes, at its final path."""
    return ctx.paths.release(ctx.wanted_release) / "modules" / ctx.tree


def open_spack(ctx: Context) -> Spack:
    """Writes the scope and returns the driver. The work directory is local and belongs to this release.

    Raises:
        SpackError: ``spack-no-compiler``.
    """
    config = ctx.config
    work = ctx.paths.var / "spack" / ctx.wanted_release
    program = locate(config, ctx.paths)
    places = Places(ctx.paths.store, module_tree(ctx), program.recipes, ctx.paths.scratch / "spack")
    site = Site(find_compiler(ctx.system), target_of(config, ctx.facts.host), config.spack.mirrors)
    write_scope(work / "scope", places, site)
    output = ctx.paths.log.parent / "petal-node" / f"spack-{ctx.run_id}.log"
    return Spack(ctx.system, program, places, work / "scope", work / "environment", output, ctx.note)


def lacking(ctx: Context) -> tuple[str, ...]:
    """The packages of this run's release that the store does not have, as ``name@version``, in order.

    Raises:
        SpackError: ``spack-lockfile``, ``spack-database``.
    """
    if not ctx.config.builds:
        return ()
    absent = database.missing(database.locked_specs(lockfile_of(ctx)), ctx.paths.store)
    return tuple(sorted(f"{spec.name}@{spec.version}" for spec in absent))


def specs_of(ctx: Context) -> list[str]:
    """What the user asked for: the stack's own specs, then those of the configuration."""
    return [*ctx.environment.get("specs", ()), *ctx.config.spack.specs]
