"""The modules of a release, as far as they are known before the install, and entries that name others."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from threading import Lock

from ..core.errors import ModulesError, PetalError, did_you_mean
from ..core.text import quoted
from ..lmod.find import tcl_modulepath
from ..spack.program import locate
from ..spack.solve import stack_lockfile
from ..spack.workspace import lockfile_of, release_specs, specs_of
from ..state.context import Context

SPEC = re.compile(r"([A-Za-z0-9][\w.-]*)(?:@=?([\w.-]+)(?![\w.:,-]))?")


@dataclass(frozen=True)
class Expected:
    """Names of modules, with and without a version.

    ``pinned``: the version that a spec of the stack asks for, by name. ``complete``: no other packages will follow as
    dependencies of the stack.
    """

    names: frozenset[str]
    pinned: dict[str, str]
    complete: bool


def questions(ctx: Context) -> dict[str, Callable[[], str]]:
    """Whether each module that the configuration names will exist, by the key of the entry."""
    config = ctx.config
    places = tuple(ctx.paths.at(path) for path in (*config.modules.paths, *tcl_modulepath(ctx.paths)))
    own = {f"modules.defaults[{number}]": entry for number, entry in enumerate(config.modules.defaults)}
    others = {f"check.load[{number}]": entry for number, entry in enumerate(config.check.load)}
    for number, package in enumerate(config.packages):
        others |= {f"packages[{number}].requires[{index}]": entry for index, entry in enumerate(package.requires)}
    expected, lock = cache(partial(_expected, ctx)), Lock()  # in a question, because it may fetch a lockfile

    def check(entry: str, places: tuple[Path, ...]) -> str:
        with lock:  # questions are asked at the same time
            known = expected()
        return _check(ctx, known, entry, places)

    asked = {key: partial(check, entry, ()) for key, entry in own.items()}
    asked |= {key: partial(check, entry, places) for key, entry in others.items()}
    present = [(number, path) for number, path in enumerate(config.modules.paths) if not ctx.is_mounted_later(path)]
    return {**asked, **{f"modules.paths[{number}]": partial(check_path, ctx, path) for number, path in present}}


def check_path(ctx: Context, path: str) -> str:
    """Refuses an entry of ``modules.paths`` that this node does not have: ModulesError ``modules-config``."""
    if ctx.paths.at(path).is_dir():
        return ""
    raise ModulesError(
        f"modules.paths: this node has no directory {path}",
        remedy=(f"ls -ld {quoted(path)}", "or remove it from modules.paths in the configuration"),
        code="modules-config",
    )


def _expected(ctx: Context) -> Expected:
    names = {name for package in ctx.config.packages for name in (package.name, f"{package.name}/{package.version}")}
    if not ctx.config.uses_spack:
        return Expected(frozenset(names), {}, complete=True)
    names |= {"spack", f"spack/{ctx.config.spack.version}"}
    if all(lockfile_of(ctx, target).is_file() for target in ctx.targets):
        specs = release_specs(ctx)
    else:
        try:
            lockfile = stack_lockfile(ctx)
        except PetalError:  # the step of the stack reports it
            lockfile = None
        if lockfile is None:
            found = [match for match in map(SPEC.match, specs_of(ctx)) if match]
            pinned = {match[1]: match[2] for match in found if match[2]}
            return Expected(frozenset(names | {match[1] for match in found}), pinned, complete=False)
        specs = tuple(lockfile.specs.values())
    names |= {name for spec in specs for name in (spec.name, f"{spec.name}/{spec.version}")}
    return Expected(frozenset(names), {}, complete=True)


def _check(ctx: Context, expected: Expected, entry: str, places: tuple[Path, ...]) -> str:
    """An empty string, or a note if only the solver knows; ``places`` are directories of other modulefiles."""
    name, _, version = entry.partition("/")
    if entry in expected.names or any(
        (place / entry).exists() or (place / f"{entry}.lua").exists() for place in places
    ):
        return ""
    pinned = expected.pinned.get(name, "")
    if pinned and version and not f"{pinned}.".startswith(f"{version}.") and not f"{version}.".startswith(f"{pinned}."):
        raise _unknown(entry, f"the stack asks for {name}@{pinned}")
    if name in expected.names and not expected.complete:
        return ""
    if not expected.complete and _has_recipe(ctx, name):
        return f"no spec of the stack is named {name}, so it must be one of its dependencies, or added to spack.specs"
    suggestion = did_you_mean(entry, sorted(expected.names)).removeprefix(", ")
    raise _unknown(entry, suggestion or "neither the stack nor packages contains it")


def _unknown(entry: str, why: str) -> ModulesError:
    remedy = "correct the entry, or add the package to spack.specs or packages"
    return ModulesError(f"the release will have no module {entry}", why=why, remedy=remedy, code="modules-config")


def _has_recipe(ctx: Context, name: str) -> bool:
    """True if a recipe of this name exists, and if the recipes are not on this node yet."""
    packages = locate(ctx.config, ctx.paths).recipes / "packages"
    names = (name, name.replace("-", "_"), "_" + name.replace("-", "_"))
    return not packages.is_dir() or any((packages / each).is_dir() for each in names)
