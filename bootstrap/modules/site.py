"""The configuration's ``modules.defaults`` and ``modules.hide``, applied to a module tree.

Both are part of the release, so a rollback reverts them too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..core.errors import ModulesError, did_you_mean
from ..host.atomic import replace_link, write_atomic
from ..state.context import Context
from . import templates

RULES = ".modulerc.lua"
DEFAULT = "default"  # Lmod prefers a link of this name to every rule about default versions (Lmod, 060_locating)
STANDARD = "StdEnv"  # the name that Lmod's documentation gives to the module of a site's defaults


def module_name(path: Path) -> str:
    """``openmpi/4.1.6`` for the module file ``.../openmpi/4.1.6.lua``."""
    return f"{path.parent.name}/{path.stem}"


def defaults_module(ctx: Context) -> str:
    """The name of the module that loads ``modules.defaults``."""
    return f"{STANDARD}/{ctx.desired_release}"


def apply_settings(ctx: Context, tree: Path, modules: Sequence[Path]) -> None:
    """Hides modules and sets defaults in a new tree, which has these module files.

    Raises:
        ModulesError: ``modules-config``, ``modules.defaults`` names a module that the tree does not have.
    """
    for entry in ctx.config.modules.hide:
        matching = _matching(modules, entry)
        if not matching:
            ctx.note(f"modules.hide names {entry}, which this release does not have")
        for path in matching:
            add_rules(path.parent / RULES, _hiding(path).encode())
    _set_defaults(ctx, tree / "Core" / STANDARD, modules)


def add_rules(file: Path, rules: bytes) -> None:
    """Adds the lines that the file lacks, and keeps those of the site, in any encoding."""
    present = file.read_bytes().splitlines() if file.is_file() else []
    missing = [line for line in rules.splitlines() if line not in present]
    if missing:
        write_atomic(file, b"\n".join((*present, *missing, b"")))


def is_hidden(path: Path) -> bool:
    """True if a rule, of ours or of Spack, hides the module."""
    files = (directory / RULES for directory in (path.parent, path.parent.parent))
    return any(_hiding(path) in file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file())


def _hiding(path: Path) -> str:
    """The rule that hides a module, as Spack writes it too."""
    return f'hide_version("{module_name(path)}")'


def _matching(modules: Sequence[Path], entry: str) -> list[Path]:
    """The module files that an entry of the configuration means: ``openmpi`` or ``openmpi/4.1.6``."""
    return [path for path in modules if entry in (module_name(path), path.parent.name)]


def _set_defaults(ctx: Context, directory: Path, modules: Sequence[Path]) -> None:
    entries = ctx.config.modules.defaults
    if not entries:
        return
    for entry in entries:
        matching = _matching(modules, entry)
        if not matching:
            names = {name for path in modules for name in (module_name(path), path.parent.name)}
            suggestion = did_you_mean(entry, sorted(names)).removeprefix(", ")
            raise ModulesError(
                f"modules.defaults names {entry}, but the release has no such module",
                why=suggestion or f"it has {len({module_name(path) for path in modules})} modules",
                remedy="correct modules.defaults in the configuration, or add the missing package to the stack",
                code="modules-config",
            )
        if "/" in entry:
            for path in matching:
                replace_link(path.parent / DEFAULT, path.name)
    values = {"release": ctx.desired_release, "modules": entries}
    templates.write(directory / f"{ctx.desired_release}.lua", "defaults.lua.j2", values)
