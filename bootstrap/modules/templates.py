"""Renders ``modulefiles/*.j2``. Each value passes through a filter that quotes it for the language of the file."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core import resources
from ..host.atomic import write_atomic
from ..host.files import make_dir

_LUA_ESCAPES = {code: f"\\{code:03d}" for code in (*range(32), 127)} | {ord('"'): '\\"', ord("\\"): "\\\\"}


def render(name: str, values: Mapping[str, Any]) -> str:
    """Renders a template. A name in the template that is missing in ``values`` raises ``jinja2.UndefinedError``."""
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - the filters quote for Lua and shells; HTML escapes would break both
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters.update({"lua": lua, "sh": shlex.quote, "csh": csh, "fish": fish})
    return environment.from_string(text(name)).render(values)


def write(path: Path, name: str, values: Mapping[str, Any]) -> None:
    """Renders a template into a file, and makes the file's directory."""
    make_dir(path.parent)
    write_atomic(path, render(name, values).encode())


def text(name: str) -> str:
    """The content of a file of ``modulefiles/``."""
    return (resources.path("modulefiles") / name).read_text(encoding="utf-8")


def digest() -> str:
    """The checksum of all templates. It is part of the release id, so a changed template makes another release."""
    total = hashlib.sha256()
    for path in sorted(resources.path("modulefiles").glob("*.*")):
        total.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return total.hexdigest()


def lua(value: object) -> str:
    """A Lua string literal (Lua 5.1 manual, 2.1): quotes, backslashes and control characters are escaped."""
    return f'"{str(value).translate(_LUA_ESCAPES)}"'


def csh(value: object) -> str:
    """A word for csh: quoted as for sh, with ``!`` escaped, which csh expands even in quotes."""
    return shlex.quote(str(value)).replace("!", "\\!")


def fish(value: object) -> str:
    """A word for fish, in single quotes, where only backslash and quote are special."""
    return "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"
