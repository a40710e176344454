"""Renders ``modulefiles/*.j2`` and a site's own templates.

In ours every value goes through a filter that quotes it for the language that reads it.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from typing import Any

from ..core import resources
from ..core.errors import ModulesError


def render(name: str, values: Mapping[str, Any]) -> str:
    """The template ``name`` with ``values``; a value that the template names and nobody gives is an error.

    Raises:
        ModulesError: ``modules-template``, it does not render.
    """
    return render_text(name, text(name), values)


def text(name: str) -> str:
    """A file of ``modulefiles/`` as it is."""
    return (resources.path("modulefiles") / name).read_text(encoding="utf-8")


def render_text(name: str, template: str, values: Mapping[str, Any]) -> str:
    """The same with a template's text. A site's can reach nothing but the values: jinja2's sandbox sees to that.

    Args:
        name: what an error calls it.
    """
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(  # the filters quote for Lua and shell; HTML rules would break both
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update({"lua": lua, "sh": shlex.quote, "csh": csh, "fish": fish})
    try:
        return environment.from_string(template).render(values)
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
        known = ", ".join(sorted(values))
        raise ModulesError(
            f"the template {name} does not render",
            why=f"{error}; it may use {known}",
            remedy="correct the template, or drop it from modules.templates",
            code="modules-template",
        ) from error


def digest() -> str:
    """The checksum of all templates: a changed template makes another release."""
    total = hashlib.sha256()
    for path in sorted(resources.path("modulefiles").glob("*.*")):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def lua(value: object) -> str:
    """A Lua string literal (Lua 5.1 manual, 2.1): quotes, backslashes and control characters are escaped."""
    return '"' + "".join(_lua_character(character) for character in str(value)) + '"'


def _lua_character(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return f"\\{ord(character):03d}" if ord(character) < 32 or ord(character) == 127 else character


def csh(value: object) -> str:
    """A word for csh: quoted as for sh, and ``!`` escaped, which csh expands even in quotes."""
    return shlex.quote(str(value)).replace("!", "\\!")


def fish(value: object) -> str:
    """A word for fish: single quotes, in which only backslash and quote are special."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
