"""What can be known before Spack solves a stack: whether its specs can exist, and whether the memory will do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ...core.errors import SpackError
from ...lmod.bundle import PACKAGE
from ...state.context import Context
from ..compiler import find_compiler
from ..workspace import adds_lmod, without_lmod
from .recipes import Repository
from .specs import read_spec
from .vetting import Asked, Verdict, Vetting, expanded

# clingo takes 1.0 GB with warm caches and 1.6 GB with cold ones for a single package and all 8,600 recipes of
# spack-packages 2025.11.0, and 60 MB with a dozen recipes (measured with 0.23.0 and 1.1.1): it grows with the recipes.
MEMORY = 2 << 30
MEMORY_A_RECIPE = MEMORY // 8192


def vet(ctx: Context, recipes: Path) -> Verdict:
    """Judges every spec of the stack and of the configuration.

    Args:
        recipes: the repository of recipes, which must be there.
    """
    elsewhere: dict[str, list[str]] = {}
    for spec in _carried(ctx):
        for node in read_spec(spec)[:1]:
            elsewhere.setdefault(node.name, []).append(node.version.lstrip("="))
    return Vetting(Repository(recipes), elsewhere).judge_stack(_asked(ctx))


def with_recipes(ctx: Context, recipes: Path) -> Context:
    """The same stack, without the Lmod that was added to it where the recipes have none."""
    return without_lmod(ctx) if adds_lmod(ctx) and PACKAGE not in Repository(recipes).names else ctx


def check_memory(ctx: Context, recipes: Path) -> None:
    """Refuses to solve where the kernel would kill the solver, or something else.

    Raises:
        SpackError: ``spack-memory``.
    """
    packages = len(Repository(recipes).names)
    needed = min(MEMORY, packages * MEMORY_A_RECIPE)
    free = ctx.system.available_memory()
    if free < needed:
        raise SpackError(
            f"{_mib(free)} of memory are free on {ctx.facts.host.name}, too little to concretize",
            why=f"Spack's solver needs {_mib(needed)} with these {packages} recipes",
            remedy=(
                "fallocate -l 4G /swapfile && chmod 600 /swapfile && mkswap /swapfile && swapon /swapfile",
                "or a head node with 4 GiB or more, or a repository of only the recipes that the stack needs",
            ),
            code="spack-memory",
        )


def _asked(ctx: Context) -> Iterator[Asked]:
    """Every spec with its place in the file that the operator wrote."""
    environment = ctx.environment
    yield from expanded(
        f"stack {ctx.config.stack}: specs", environment.get("specs", ()), environment.get("definitions", ())
    )
    yield from expanded("spack.specs", ctx.config.spack.specs)
    yield from expanded("software.spack_packages", ctx.config.software.spack_packages)


def _carried(ctx: Context) -> Iterator[str]:
    """Specs of what is there without a recipe: the system's compiler, and externals and versions of the stack."""
    packages = ctx.environment.get("packages")
    for name, said in packages.items() if isinstance(packages, dict) else ():
        if isinstance(said, dict):
            yield from (f"{name}@{version}" for version in _items(said.get("version")))
            yield from (str(item.get("spec")) for item in _items(said.get("externals")) if isinstance(item, dict))
    yield from (external.spec for external in ctx.externals)
    try:
        yield find_compiler(ctx.system).spec
    except SpackError:
        return  # what needs it says so


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _mib(size: int) -> str:
    return f"{size >> 20} MiB"
