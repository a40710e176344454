"""Spack for one run: its directories, and the scope that node and configuration determine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..cluster.targets import buildable, compiler_builds
from ..config.model import LMOD_SPEC
from ..core import resources
from ..core.errors import SpackError
from ..host.atomic import write_atomic
from ..host.files import make_dir
from ..state.context import Context
from ..state.release import tree_name
from . import database
from .driver import Spack, usable_cores
from .externals import Compiler, find_compiler
from .families import FAMILIES
from .job.directory import JobDirectory
from .lockfile import Locked, locked_specs, lockfile_name
from .program import locate
from .scope import TEMPLATE, TEMPLATES, Places, Site, write_scope

EFS_LOCKS = 512 - 112  # less a margin for Spack's readers, and for locks of a client that died with a running lease


def lockfile_of(ctx: Context, target: str) -> Path:
    """The lockfile of this run's release: ``spack.lock``, or one for each of several targets."""
    return ctx.paths.release(ctx.desired_release) / lockfile_name(target, len(ctx.targets))


def module_tree(ctx: Context, target: str) -> Path:
    """The module tree of one target in this run's release."""
    return ctx.paths.release(ctx.desired_release) / "modules" / tree_name(ctx.facts.host, target)


def store_of(ctx: Context) -> Path:
    """Spack's install tree; each family of versions has its own."""
    return ctx.paths.root / FAMILIES[ctx.config.spack.family].store


def open_spack(ctx: Context, target: str, *, apart: Path | None = None) -> Spack:
    """Writes the scope for one target and returns the driver. The work directory is local, one for each release.

    Args:
        apart: a local directory to use instead, without the store and build caches, if nothing is to be installed.

    Raises:
        SpackError: as ``locate`` and ``site_of``.
    """
    config = ctx.config
    work = (apart or ctx.paths.work(ctx.desired_release)) / target
    program = locate(config, ctx.paths)
    store = apart / "store" if apart else store_of(ctx)
    places = Places(
        store, module_tree(ctx, target), program.recipes, ctx.paths.scratch / "spack", work / "scope" / TEMPLATES
    )
    text = (resources.path("modulefiles") / "spack_package.lua").read_text(encoding="utf-8")
    text = text.replace("@SPACK@", ctx.config.spack.version).replace("@RELEASE@", ctx.release or "")
    template = work / "scope" / TEMPLATES / TEMPLATE
    make_dir(template.parent)
    write_atomic(template, text.encode())
    site = site_of(ctx, target)
    if ctx.config.spack.caches and apart is None:
        site = replace(site, pulled=pulled_of(ctx))
    write_scope(work / "scope", places, site, program.family)
    return Spack(
        ctx.system,
        program,
        places,
        scope=work / "scope",
        environment=work / "environment",
        output=ctx.paths.spack_log(ctx.run_id),
        note=ctx.note,
        builders=ctx.builders,
        cores=usable_cores(ctx.facts.host, config.install.jobs),
        locks=lock_limit(ctx),
    )


def lock_limit(ctx: Context) -> int | None:
    """How many locks the store's file system allows on one file; None without a limit: see ``install``."""
    return EFS_LOCKS if ctx.config.root_is_shared and ctx.facts.is_efs(ctx.paths.mount) else None


def pulled_of(ctx: Context) -> Path:
    """The directory of packages from build caches until they are installed: local, or in the build job's directory."""
    if ctx.build_queue is not None:
        return JobDirectory(ctx.paths, ctx.run_id).pulled
    return ctx.paths.scratch / "spack" / "pulled"


def site_of(ctx: Context, target: str) -> Site:
    """The settings of everything that is built for one target.

    Raises:
        SpackError: ``spack-no-compiler``, ``spack-target``.
    """
    compiler = find_compiler(ctx.system)
    check_compiler(compiler, target)
    spack = ctx.config.spack
    sources = {name: mirror.url for name, mirror in spack.mirrors.items() if mirror.sources}
    # The GPU queues' capabilities; not if the stack sets cuda_arch, because two values would contradict.
    sets_arch = "cuda_arch" in str(ctx.environment.get("packages", ""))
    cuda = ctx.build_targets.cuda if ctx.build_targets and not sets_arch else ()
    return Site(compiler, target, sources, ctx.facts.host, ctx.externals, cuda=cuda, bootstraps=spack.bootstraps)


def check_compiler(compiler: Compiler, target: str) -> None:
    """Refuses a compiler without options for the target, before a build: SpackError ``spack-target``."""
    if not compiler_builds(target, compiler.version):
        raise SpackError(
            f"gcc {compiler.version} cannot build for {target}",
            why="this version is older than the CPU: archspec, which Spack uses, has no options for it",
            remedy=(
                f"spack: {{target: {buildable(target, compiler.version)}}} in the configuration",
                "or a newer gcc in the image",
            ),
            code="spack-target",
        )


def release_specs(ctx: Context) -> tuple[Locked, ...]:
    """The specs of this run's release, for all of its targets; StateError for a damaged lockfile."""
    specs = (spec for target in ctx.targets for spec in locked_specs(lockfile_of(ctx, target)))
    return tuple({spec.hash: spec for spec in specs}.values())


def missing_packages(ctx: Context) -> tuple[str, ...]:
    """The packages of this run's release that the store lacks, as ``name@version``, sorted."""
    if not ctx.config.uses_spack:
        return ()
    absent = database.missing(release_specs(ctx), store_of(ctx))
    return tuple(sorted(f"{spec.name}@{spec.version}" for spec in absent))


def adds_lmod(ctx: Context) -> bool:
    """True if Lmod was added to the stack automatically because the nodes have none."""
    return LMOD_SPEC in ctx.environment.get("specs", ())


def specs_of(ctx: Context) -> list[str]:
    """What the user asked for: the stack's own specs, then those of the configuration; a lockfile has both already."""
    return list(dict.fromkeys([*ctx.environment.get("specs", ()), *ctx.config.specs]))
