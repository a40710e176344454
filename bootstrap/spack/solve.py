"""From a stack to the lockfile of a release: Spack solves it, or the stack is a lockfile already."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

from ..config.model import LMOD, LMOD_SPEC
from ..core.deadlines import SOLVE
from ..core.errors import ConfigError, Problem, SpackError
from ..host.atomic import scratch_dir, write_atomic
from ..host.files import make_dir, remove_tree
from ..host.locks import Lock, own_holder
from ..state.context import Context
from .driver import Spack
from .environments import locked, spec_places, unlocked
from .externals import find_compiler
from .fit import NodeProfile, check_fit
from .lockfile import Lockfile, Record, joined
from .program import ensure, is_ready, locate
from .workspace import adds_lmod, lockfile_of, open_spack, specs_of

# clingo takes 1.0 GB with warm caches and 1.6 GB with cold ones for a single package and all 8,600 recipes of
# spack-packages 2025.11.0, and 60 MB with a dozen recipes (measured with 0.23.0 and 1.1.1): it grows with the recipes.
MEMORY = 2 << 30
MEMORY_A_RECIPE = MEMORY // 8192


def with_lockfile(ctx: Context, target: str) -> Spack:
    """Spack with the release's lockfile. It is made once and kept, so a run after a kill builds the same.

    Raises:
        ConfigError, SpackError: as ``solve`` and ``stack_lockfile``.
        FetchError, PackageError: Spack or a lockfile that is the stack cannot be fetched.
    """
    spack, kept = _ready_spack(ctx, target), lockfile_of(ctx, target)
    if kept.is_file():
        shutil.copyfile(kept, spack.lockfile)
        return spack
    lockfile = stack_lockfile(ctx)
    if lockfile is None:
        solve(ctx, spack)
    else:
        ctx.note(f"{ctx.config.stack} is a lockfile: nothing is concretized")
        write_atomic(spack.lockfile, json.dumps(lockfile.part(target)).encode())
    make_dir(kept.parent)
    write_atomic(kept, spack.lockfile.read_bytes())
    return spack


def _ready_spack(ctx: Context, target: str, *, apart: Path | None = None) -> Spack:
    """Spack with the stack as its environment; fetches Spack if it is missing. ``apart`` as for ``open_spack``."""
    spack = open_spack(ctx, target, apart=apart)
    if not is_ready(spack.program):
        ctx.note(f"Spack {spack.program.version} and its recipes")
    ensure(spack.program, ctx.paths, ctx.facts.cluster.region, ctx.config.install.fetch_timeout)
    _write_environment(ctx, spack)
    return spack


def _write_environment(ctx: Context, spack: Spack) -> None:
    sections = {key: section for key, section in unlocked(ctx.environment).items() if key != "specs"}
    spack.write_environment(specs_of(ctx), sections)


def preview(ctx: Context) -> tuple[str, ...]:
    """Checks specs and memory without a solve, if Spack and its recipes are on this node already.

    Returns:
        Advice, as ``check_specs``; empty if Spack has to be fetched first.

    Raises:
        ConfigError: ``spec-unknown``.
        SpackError: as ``locate``, ``open_spack`` and ``check_memory``.
    """
    program = locate(ctx.config, ctx.paths)
    if not is_ready(program) or not (program.recipes / "repo.yaml").is_file():
        return ()
    if not _has_lmod(program.recipes):
        ctx = _without_lmod(ctx)
    directory = ctx.paths.scratch / "preview"
    try:
        return _check(ctx, open_spack(ctx, ctx.targets[0], apart=directory))
    finally:
        remove_tree(directory)


def solve(ctx: Context, spack: Spack) -> None:
    """Checks the specs and the memory, and concretizes; the result is the driver's lockfile.

    An Lmod that was added automatically is left out if the recipes have none, or if the stack cannot be solved with it.

    Raises:
        ConfigError: ``spec-unknown``.
        SpackError: ``spack-memory``, ``spack-no-clingo``, ``spack-concretize``.
    """
    if not _has_lmod(spack.program.recipes):
        ctx = _without_lmod(ctx)
    try:
        _solve(ctx, spack)
    except SpackError as error:
        if error.code != "spack-concretize" or not adds_lmod(ctx):
            raise
        ctx.note(f"Lmod, which the nodes lack, is not added to the stack: with it {error.what}: {error.why}")
        _solve(_without_lmod(ctx), spack)


def _solve(ctx: Context, spack: Spack) -> None:
    for line in _check(ctx, spack):
        ctx.note(line)
    ctx.note(f"concretizing {', '.join(specs_of(ctx))}")
    spack.lockfile.unlink(missing_ok=True)
    spack.concretize()


def _check(ctx: Context, spack: Spack) -> tuple[str, ...]:
    _write_environment(ctx, spack)
    advice = check_specs(ctx, spack)
    check_memory(ctx, spack.program.recipes)
    return advice


def _has_lmod(recipes: Path) -> bool:
    return (recipes / "packages" / LMOD).is_dir()


def _without_lmod(ctx: Context) -> Context:
    """The same stack without the Lmod that was added automatically."""
    if not adds_lmod(ctx):
        return ctx
    specs = [spec for spec in ctx.environment["specs"] if spec != LMOD_SPEC]
    return replace(ctx, environment={**ctx.environment, "specs": specs})


def check_specs(ctx: Context, spack: Spack) -> tuple[str, ...]:
    """Checks by Spack's own parser and recipes that every package, version and variant of the stack's specs exists.

    Returns:
        Advice on specs that are right: a virtual package, of which Spack would choose the provider.

    Raises:
        ConfigError: ``spec-unknown``, with every mistake, its position, and the nearest names.
    """
    answer = spack.check_specs()
    if not answer["problems"]:
        return tuple(answer["advice"])
    lists = {
        f"stack {ctx.config.stack}: specs": ctx.environment.get("specs", ()),
        "spack.specs": ctx.config.spack.specs,
        "software.spack_packages": ctx.config.software.spack_packages,
    }
    places: dict[str, str] = {}  # where each spec is written; the first place counts
    for name, listed in lists.items():
        for number, spec in enumerate(listed):
            places.setdefault(spec, f"{name}[{number}]")
    specs, stack = specs_of(ctx), spec_places(ctx.config, scratch_dir(ctx.paths.scratch), ctx.facts.cluster.region)
    found = [(specs[index], message) for index, message in answer["problems"]]
    lines = {spec: stack.get(spec) or ctx.config.places.get(place, "") for spec, place in places.items()}
    problems = tuple(Problem(places[spec], message, lines[spec]) for spec, message in found)
    wrong = len({problem.path for problem in problems})
    raise ConfigError(
        f"{wrong} {'spec asks' if wrong == 1 else 'specs ask'} for what Spack's recipes do not have",
        problems,
        why="\n".join(map(str, problems)),
        remedy=("correct the specs, then: petal-node plan --config FILE", *answer["advice"]),
        code="spec-unknown",
    )


def check_memory(ctx: Context, recipes: Path) -> None:
    """Refuses to solve if the kernel would run out of memory: SpackError ``spack-memory``."""
    packages = sum(not entry.name.startswith((".", "__")) for entry in (recipes / "packages").iterdir())
    needed = min(MEMORY, packages * MEMORY_A_RECIPE)
    free = ctx.system.available_memory()
    if free < needed:
        raise SpackError(
            f"{free >> 20} MiB of memory are free on {ctx.facts.host.name}, too little to concretize",
            why=f"Spack's solver needs {needed >> 20} MiB with these {packages} recipes",
            remedy=(
                "fallocate -l 4G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile",
                "or a head node with 4 GiB or more, or a repository of only the recipes that the stack needs",
            ),
            code="spack-memory",
        )


def stack_lockfile(ctx: Context) -> Lockfile | None:
    """The lockfile that is the stack, or None.

    Raises:
        ConfigError: ``lockfile-unfit``, it is damaged or not for this cluster.
        FetchError: it cannot be fetched.
    """
    config, host = ctx.config, ctx.facts.host
    lock = locked(config, ctx.environment, scratch_dir(ctx.paths.scratch), ctx.facts.cluster.region)
    if lock is not None:
        try:
            compiler = find_compiler(ctx.system)
        except SpackError:  # the build reports it, with the packages to install
            compiler = None
        cuda = ctx.build_targets.cuda if ctx.build_targets else ()
        node = NodeProfile(host, compiler, ctx.externals, ctx.targets, cuda, config.spack, config.specs)
        check_fit(lock, node, config.stack)
    return lock


def make_lockfile(ctx: Context) -> bytes:
    """Solves the stack for every target like an install on this node, and installs nothing.

    It uses this node's own disk only, so it works without /opt/petal and without shared storage.

    Raises:
        ConfigError, SpackError, FetchError: as an install.
        LockTimeout: another process makes a lockfile on this node.
    """
    # The lockfile is for nodes without --root, so it contains the paths that externals have there.
    ctx = replace(ctx, externals=tuple(replace(one, prefix=Path(one.place)) for one in ctx.externals))
    directory, host, config = ctx.paths.scratch / "lockfile", ctx.facts.host, ctx.config
    documents = []

    def waiting(who: str) -> None:
        ctx.note(f"waiting for another `petal-node lockfile` on {who}")

    holder = own_holder(host.name, host.boot_id, ctx.run_id)
    with Lock(ctx.paths.var / "lockfile.lock", holder, timeout=SOLVE, waiting=waiting):
        remove_tree(directory)
        for target in ctx.targets:
            spack = _ready_spack(ctx, target, apart=directory)
            solve(ctx, spack)
            documents.append(json.loads(spack.lockfile.read_bytes()))
        remove_tree(directory)
    compiler = find_compiler(ctx.system)
    origins = {"spack.source": config.spack.origin, "spack.recipes": config.spack.recipes}
    record = Record(
        glibc=host.glibc,
        compiler=compiler.spec,
        languages=tuple(compiler.drivers),
        externals=tuple((external.spec, external.place) for external in ctx.externals),
        cuda=ctx.build_targets.cuda if ctx.build_targets else (),
        sources={name: origin.sha256 for name, origin in origins.items() if origin and origin.sha256},
        environment={**unlocked(ctx.environment), "specs": specs_of(ctx)},
    )
    return joined(documents, record)
