"""From a stack to a lockfile: solved by Spack, or taken from the lockfile that the stack is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..config.model import Origin
from ..core.errors import SpackError
from ..host.atomic import write_atomic
from ..host.files import remove_tree
from ..host.system import timestamp
from ..state.cluster_lock import Lock, own_holder
from ..state.context import Context
from .compiler import Compiler, find_compiler
from .driver import Spack
from .environments import locked, unlocked
from .fit import NodeProfile, check_fit
from .lockfile import Lockfile, Record, joined
from .program import ensure, is_ready, locate
from .validate import check_memory, check_specs, with_recipes
from .workspace import adds_lmod, open_spack, specs_of, without_lmod

LOCK_WAIT = 600.0


def ready_spack(ctx: Context, target: str, *, apart: Path | None = None) -> Spack:
    """Spack with the stack as its environment: fetched where it is not there, and judged where it is.

    Args:
        apart: as for ``open_spack``.

    Raises:
        FetchError, PackageError, SpackError: as ``open_spack`` and ``ensure``.
    """
    spack = open_spack(ctx, target, apart=apart)
    if not is_ready(ctx.config, spack.program, ctx.paths):
        ctx.note(f"Spack {spack.program.version} and its recipes")
    ensure(ctx.config, spack.program, ctx.paths, ctx.facts.cluster.region)
    _write_environment(ctx, spack)
    return spack


def _write_environment(ctx: Context, spack: Spack) -> None:
    sections = (key for key in unlocked(ctx.environment) if key != "specs")
    spack.write_environment(specs_of(ctx), {key: ctx.environment[key] for key in sections})


def preview(ctx: Context) -> tuple[str, ...]:
    """Checks specs and memory without a solve, if Spack and its recipes are on this node already.

    Returns:
        Advice, as ``check_specs``; empty if Spack has to be fetched first.

    Raises:
        ConfigError: ``spec-unknown``.
        SpackError: as ``locate``, ``open_spack`` and ``check_memory``.
    """
    program = locate(ctx.config, ctx.paths)
    if not is_ready(ctx.config, program, ctx.paths) or not (program.recipes / "repo.yaml").is_file():
        return ()
    stack = with_recipes(ctx, program.recipes)
    place = ctx.paths.scratch / "preview"
    try:
        spack = open_spack(stack, stack.targets[0], apart=place)
        _write_environment(stack, spack)
        advice = check_specs(stack, spack)
    finally:
        remove_tree(place)
    check_memory(stack, program.recipes)
    return advice


def solve(ctx: Context, spack: Spack) -> None:
    """Checks the specs and the memory, and concretizes; the result is the driver's lockfile.

    Lmod, which nobody asked for, is left out where the recipes have none or it cannot stand beside the stack.

    Raises:
        ConfigError: ``spec-unknown``.
        SpackError: ``spack-memory``, ``spack-no-clingo``, ``spack-concretize``.
    """
    stack = with_recipes(ctx, spack.program.recipes)
    try:
        _solve(stack, spack)
    except SpackError as error:
        if error.code != "spack-concretize" or not adds_lmod(stack):
            raise
        ctx.note(f"the stack does without an Lmod of its own, which the nodes lack: with it {error.what}: {error.why}")
        _solve(without_lmod(stack), spack)


def _solve(ctx: Context, spack: Spack) -> None:
    _write_environment(ctx, spack)
    for line in check_specs(ctx, spack):
        ctx.note(line)
    check_memory(ctx, spack.program.recipes)
    ctx.note(f"concretizing {', '.join(specs_of(ctx))}")
    spack.lockfile.unlink(missing_ok=True)
    spack.concretize()


def take(ctx: Context, spack: Spack, target: str, lock: Lockfile) -> None:
    """Takes a target's part of the lockfile that is the stack: neither clingo nor memory for it is needed.

    Raises:
        ConfigError: ``lock-unfit``.
    """
    fits(ctx, lock)
    ctx.note(f"{ctx.config.stack} is a lockfile: nothing is concretized")
    write_atomic(spack.lockfile, json.dumps(lock.part(target)).encode())


def stack_lockfile(ctx: Context) -> Lockfile | None:
    """The lockfile that is the stack, or None.

    Raises:
        ConfigError: ``lock-invalid``.
        FetchError: it is not here and cannot be had.
    """
    return locked(ctx.config, ctx.environment, ctx.paths.scratch, ctx.facts.cluster.region)


def fits(ctx: Context, lock: Lockfile) -> None:
    """Refuses a lockfile that is not for this cluster.

    Raises:
        ConfigError: ``lock-unfit``.
    """
    profile = NodeProfile(
        ctx.facts.host,
        _compiler(ctx),
        ctx.externals,
        ctx.targets,
        ctx.choice.cuda if ctx.choice else (),
        ctx.config.spack,
        ctx.config.specs,
    )
    check_fit(lock, profile, ctx.config.stack)


def _compiler(ctx: Context) -> Compiler | None:
    """Without one the build says so, and what to install."""
    try:
        return find_compiler(ctx.system)
    except SpackError:
        return None


def make_lockfile(ctx: Context) -> bytes:
    """Solves the stack for every target as an install on this node would, and installs nothing.

    It works on this node's own disk alone, so that neither /opt/petal nor shared storage has to be there.

    Raises:
        ConfigError, SpackError, FetchError: as an install.
        LockTimeout: somebody else does the same here.
    """
    # As on a node: what is found below --root lies there without it.
    ctx = replace(ctx, externals=tuple(replace(one, prefix=Path(one.place)) for one in ctx.externals))
    place = ctx.paths.scratch / "lockfile"
    with _alone(ctx):
        remove_tree(place)
        documents = [_solved(ctx, target, place) for target in ctx.targets]
        remove_tree(place)
    return joined(documents, _record(ctx))


def _solved(ctx: Context, target: str, place: Path) -> Mapping[str, Any]:
    spack = ready_spack(ctx, target, apart=place)
    solve(ctx, spack)
    document: Mapping[str, Any] = json.loads(spack.lockfile.read_bytes())
    return document


def _record(ctx: Context) -> Record:
    compiler, spack = find_compiler(ctx.system), ctx.config.spack
    origins: dict[str, Origin | None] = {"spack.source": spack.origin, "spack.recipes": spack.recipes}
    return Record(
        created=timestamp(),
        glibc=ctx.facts.host.glibc,
        compiler=compiler.spec,
        languages=tuple(compiler.drivers),
        externals=tuple((external.spec, external.place) for external in ctx.externals),
        cuda=ctx.choice.cuda if ctx.choice else (),
        sources={name: origin.sha256 for name, origin in origins.items() if origin and origin.sha256},
        environment={**unlocked(ctx.environment), "specs": specs_of(ctx)},
    )


def _alone(ctx: Context) -> Lock:
    host = ctx.facts.host
    holder = own_holder(host.name, host.boot_id, ctx.run_id)
    place = ctx.paths.var / "lockfile.lock"
    return Lock(place, holder, timeout=LOCK_WAIT, waiting=lambda who: ctx.note(f"waiting for {who}, which does so too"))
