"""What the configuration says of modules (``modules:``): defaults, hidden ones, and Lua that a site adds to some.

All of it is part of the release, so that a rollback takes it back too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..config.model import Template
from ..core.errors import ModulesError, did_you_mean
from ..host.atomic import replace_link, write_atomic
from ..host.files import make_dir, remove_tree
from ..remote.fetch import Source, read
from ..state.context import Context
from . import templates

RULES = ".modulerc.lua"
DEFAULT = "default"  # a link of this name in a module's directory wins over every rule (Lmod, 060_locating)
MARK = "-- petal-node: what the site adds, from "
STANDARD = "StdEnv"  # the name that Lmod's documentation gives to the module of a site's defaults
FETCH_SECONDS = 60.0


@dataclass(frozen=True)
class Module:
    """One module file, and what a site's template is told of it; ``hash`` is Spack's, empty for binary packages."""

    path: Path
    name: str
    version: str
    prefix: str
    hash: str
    source: str

    def means(self, asked: str) -> bool:
        """True where ``openmpi`` or ``openmpi/4.1.6`` is this module."""
        return asked in (self.name, self.name.partition("/")[0])


def say(ctx: Context, tree: Path, modules: Sequence[Module]) -> None:
    """Applies the configuration's words to a tree. Done twice, it leaves the same.

    Raises:
        ModulesError: ``modules-template``, ``modules-unknown``, ``modules-default``.
        FetchError: a template cannot be had.
    """
    said = ctx.config.modules
    for template in said.templates:
        _add(ctx, tree, template, modules)
    for asked in said.hide:
        _hide(ctx, asked, modules)
    _set_defaults(ctx, tree, modules)


def defaults_module(ctx: Context) -> str:
    """The module that loads the defaults."""
    return f"{STANDARD}/{ctx.wanted_release}"


def without_templates(data: bytes) -> bytes:
    """A module file as it was before a site's templates were added."""
    return data.partition(MARK.encode())[0]


def _add(ctx: Context, tree: Path, template: Template, modules: Sequence[Module]) -> None:
    chosen = [module for module in modules if module.means(template.module)]
    if not chosen:
        what = f"modules.templates is for {template.module}, and"
        raise _unknown(what, template.module, modules, code="modules-unknown")
    source = template.origin.source
    text = read(Source(source, template.origin.sha256, ctx.facts.cluster.region, FETCH_SECONDS), _scratch(ctx))
    for module in chosen:
        before = module.path.read_bytes()
        mark = f"{MARK}{source}\n".encode()
        values = _values(ctx, tree, module)
        added = mark + templates.render_text(source, text.decode(errors="replace"), values).encode()
        kept = before.partition(mark)[0] if mark in before else before
        write_atomic(module.path, kept.rstrip(b"\n") + b"\n" + added.rstrip(b"\n") + b"\n")


def _scratch(ctx: Context) -> Path:
    make_dir(ctx.paths.scratch)
    return ctx.paths.scratch


def _values(ctx: Context, tree: Path, module: Module) -> dict[str, str]:
    """The contract with a site's templates; documented in docs/modules.md."""
    return {
        "module": module.name,
        "name": module.name.partition("/")[0],
        "version": module.version,
        "prefix": module.prefix,
        "hash": module.hash,
        "source": module.source,
        "release": ctx.wanted_release,
        "tree": tree.name,
        "root": str(ctx.paths.root),
    }


def _hide(ctx: Context, asked: str, modules: Sequence[Module]) -> None:
    chosen = [module for module in modules if module.means(asked)]
    if not chosen:
        ctx.note(f"modules.hide names {asked}, which this release does not have")
    for module in chosen:
        rules = module.path.parent / RULES
        before = rules.read_text(encoding="utf-8") if rules.is_file() else ""
        rule = f'hide_version("{module.name}")\n'
        if rule not in before:
            write_atomic(rules, (before + rule).encode())


def _set_defaults(ctx: Context, tree: Path, modules: Sequence[Module]) -> None:
    entries = ctx.config.modules.defaults
    place = tree / "Core" / STANDARD
    if not entries:
        remove_tree(place)
        return
    for entry in entries:
        chosen = [module for module in modules if module.means(entry)]
        if not chosen:
            raise _unknown(f"modules.defaults names {entry}, and", entry, modules, code="modules-default")
        if "/" in entry:
            for module in chosen:
                replace_link(module.path.parent / DEFAULT, module.path.name)
    make_dir(place)
    values = {"release": ctx.wanted_release, "modules": entries}
    write_atomic(place / f"{ctx.wanted_release}.lua", templates.render("defaults.lua.j2", values).encode())


def _unknown(what: str, asked: str, modules: Sequence[Module], *, code: str) -> ModulesError:
    names = {word for module in modules for word in (module.name, module.name.partition("/")[0])}
    near = did_you_mean(asked, sorted(names)).removeprefix(", ")
    return ModulesError(
        f"{what} the release has no such module",
        why=near or f"it has {len({module.name for module in modules})} modules",
        remedy="correct modules: in the configuration, or add what is missing to the stack",
        code=code,
    )
