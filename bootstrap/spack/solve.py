"""From a stack to the lockfile of a release: Spack solves it, or the stack is a lockfile already."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from ..config.model import Origin
from ..core.errors import SpackError
from ..host.atomic import write_atomic
from ..host.files import remove_tree
from ..host.locks import Lock, own_holder
from ..host.times import timestamp
from ..state.context import Context
from .driver import Spack
from .environments import locked, unlocked
from .externals import find_compiler
from .fit import NodeProfile, check_fit
from .lockfile import Lockfile, Record, joined
from .program import ensure, is_ready, locate
from .validate import check_memory, check_specs, with_recipes
from .workspace import adds_lmod, open_spack, specs_of, without_lmod

LOCK_WAIT = 600.0


def ready_spack(ctx: Context, target: str, *, apart: Path | None = None) -> Spack:
    """Spack with the stack as its environment; fetches Spack if it is missing.

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

    An Lmod that was added automatically is left out if the recipes have none, or if the stack cannot be solved with it.

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
        ctx.note(f"Lmod, which the nodes lack, is not added to the stack: with it {error.what}: {error.why}")
        _solve(without_lmod(stack), spack)


def _solve(ctx: Context, spack: Spack) -> None:
    _write_environment(ctx, spack)
    for line in check_specs(ctx, spack):
        ctx.note(line)
    check_memory(ctx, spack.program.recipes)
    ctx.note(f"concretizing {', '.join(specs_of(ctx))}")
    spack.lockfile.unlink(missing_ok=True)
    spack.concretize()


def use_lockfile(ctx: Context, spack: Spack, target: str, lock: Lockfile) -> None:
    """Takes a target's part of the lockfile that is the stack. Needs no clingo, and no memory for a solve.

    Raises:
        ConfigError: ``lockfile-unfit``.
    """
    check_lockfile(ctx, lock)
    ctx.note(f"{ctx.config.stack} is a lockfile: nothing is concretized")
    write_atomic(spack.lockfile, json.dumps(lock.part(target)).encode())


def stack_lockfile(ctx: Context) -> Lockfile | None:
    """The lockfile that is the stack, or None.

    Raises:
        ConfigError: ``lockfile-unfit``.
        FetchError: it cannot be fetched.
    """
    return locked(ctx.config, ctx.environment, ctx.paths.scratch, ctx.facts.cluster.region)


def check_lockfile(ctx: Context, lock: Lockfile) -> None:
    """Refuses a lockfile that is not for this cluster.

    Raises:
        ConfigError: ``lockfile-unfit``.
    """
    try:
        compiler = find_compiler(ctx.system)
    except SpackError:  # the build reports it, with the packages to install
        compiler = None
    profile = NodeProfile(
        ctx.facts.host,
        compiler,
        ctx.externals,
        ctx.targets,
        ctx.build_targets.cuda if ctx.build_targets else (),
        ctx.config.spack,
        ctx.config.specs,
    )
    check_fit(lock, profile, ctx.config.stack)


def make_lockfile(ctx: Context) -> bytes:
    """Solves the stack for every target like an install on this node, and installs nothing.

    It uses this node's own disk only, so it works without /opt/petal and without shared storage.

    Raises:
        ConfigError, SpackError, FetchError: as an install.
        LockTimeout: another process makes a lockfile on this node.
    """
    # The lockfile is for nodes without --root, so it contains the paths that externals have there.
    ctx = replace(ctx, externals=tuple(replace(one, prefix=Path(one.place)) for one in ctx.externals))
    place, host = ctx.paths.scratch / "lockfile", ctx.facts.host
    documents = []
    holder = own_holder(host.name, host.boot_id, ctx.run_id)

    def waiting(who: str) -> None:
        ctx.note(f"waiting for another `petal-node lockfile` on {who}")

    with Lock(ctx.paths.var / "lockfile.lock", holder, timeout=LOCK_WAIT, waiting=waiting):
        remove_tree(place)
        for target in ctx.targets:
            spack = ready_spack(ctx, target, apart=place)
            solve(ctx, spack)
            documents.append(json.loads(spack.lockfile.read_bytes()))
        remove_tree(place)
    return joined(documents, _record(ctx))


def _record(ctx: Context) -> Record:
    compiler, spack = find_compiler(ctx.system), ctx.config.spack
    origins: dict[str, Origin | None] = {"spack.source": spack.origin, "spack.recipes": spack.recipes}
    return Record(
        created=timestamp(),
        glibc=ctx.facts.host.glibc,
        compiler=compiler.spec,
        languages=tuple(compiler.drivers),
        externals=tuple((external.spec, external.place) for external in ctx.externals),
        cuda=ctx.build_targets.cuda if ctx.build_targets else (),
        sources={name: origin.sha256 for name, origin in origins.items() if origin and origin.sha256},
        environment={**unlocked(ctx.environment), "specs": specs_of(ctx)},
    )
