"""Checks the specs of a stack before Spack solves it, by Spack's own parser and recipes."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import ConfigError, SpackError
from ..lmod.bundle import PACKAGE
from ..state.context import Context
from .driver import Spack
from .workspace import adds_lmod, specs_of, without_lmod

# clingo takes 1.0 GB with warm caches and 1.6 GB with cold ones for a single package and all 8,600 recipes of
# spack-packages 2025.11.0, and 60 MB with a dozen recipes (measured with 0.23.0 and 1.1.1): it grows with the recipes.
MEMORY = 2 << 30
MEMORY_A_RECIPE = MEMORY // 8192


def check_specs(ctx: Context, spack: Spack) -> tuple[str, ...]:
    """Checks that every package, version and variant of the stack's specs exists.

    Args:
        spack: with the stack as its environment.

    Returns:
        Advice on specs that are right: a virtual package, of which Spack would choose the provider.

    Raises:
        ConfigError: ``spec-unknown``, with every mistake, where it is written, and the nearest names.
        SpackError: ``spack-failed``.
    """
    answer = spack.check_specs()
    places, specs = _places(ctx), specs_of(ctx)
    problems = tuple((places[specs[index]], message) for index, message in answer["problems"])
    if not problems:
        return tuple(answer["advice"])
    wrong = len({place for place, _ in problems})
    raise ConfigError(
        f"{wrong} {'spec asks' if wrong == 1 else 'specs ask'} for what Spack's recipes do not have",
        problems,
        why="\n".join(f"{place}: {message}" for place, message in problems),
        remedy=("correct the specs, then: petal-node plan --config FILE", *answer["advice"]),
        code="spec-unknown",
    )


def _places(ctx: Context) -> dict[str, str]:
    """Where each spec of the environment is written; the first place counts."""
    lists = {
        f"stack {ctx.config.stack}: specs": ctx.environment.get("specs", ()),
        "spack.specs": ctx.config.spack.specs,
        "software.spack_packages": ctx.config.software.spack_packages,
    }
    places: dict[str, str] = {}
    for name, specs in lists.items():
        for number, spec in enumerate(specs):
            places.setdefault(spec, f"{name}[{number}]")
    return places


def with_recipes(ctx: Context, recipes: Path) -> Context:
    """The same stack, without the Lmod that was added automatically if the recipes have none."""
    return without_lmod(ctx) if adds_lmod(ctx) and not (recipes / "packages" / PACKAGE).is_dir() else ctx


def check_memory(ctx: Context, recipes: Path) -> None:
    """Refuses to solve if the kernel would run out of memory.

    Raises:
        SpackError: ``spack-memory``.
    """
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
