"""Reads petal.yaml: returns a frozen ``Config``, or reports its mistakes together, each with its path.

A rule for several keys of a section is checked only if each of them is valid (marshmallow, ``skip_on_field_errors``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import ConfigError
from ..host.yaml_text import REMEDY, read_yaml
from .model import Config

# The messages of marshmallow's fields, in terms of a YAML file.
_MESSAGES = {
    "Missing data for required field.": "is required",
    "Field may not be null.": "has no value: give it one, or remove the key",
    "Not a valid string.": 'must be a string; quote a number: "24.10"',
    "Not a valid integer.": "must be an integer without quotes",
    "Not a valid boolean.": "must be true or false, without quotes",
    "Not a valid list.": "must be a list: [a, b], or one item per line after a dash",
    "Not a valid mapping type.": "must be a section: indented keys with values",
    "Invalid input type.": "must be a section: indented keys with values",
}


def parse(data: bytes | str, name: str = "petal.yaml") -> Config:
    """Reads a configuration.

    Args:
        data: the content of the file, YAML or JSON.
        name: the name of the file in error messages.

    Raises:
        ConfigError: with the mistakes in ``problems``, exit code 78.
    """
    raw = read_yaml(data, name)
    if not raw:
        why = "an empty file, for example from an interrupted upload, would remove all software"
        remedy = ("write the file again", "for a cluster without software: stack: none")
        raise ConfigError(f"{name} is empty", why=why, remedy=remedy, code="config-syntax")
    return from_mapping(raw, name)


def from_mapping(raw: Mapping[str, Any], name: str = "petal.yaml") -> Config:
    """Checks a configuration that is parsed already, such as the one in the desired state.

    Raises:
        ConfigError: as ``parse``.
    """
    from marshmallow import ValidationError

    from .schema import ConfigSchema

    try:
        config: Config = ConfigSchema().load(dict(raw))
    except ValidationError as error:
        problems = sorted(_flatten(error.messages, raw, ""))
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        raise ConfigError(f"{name} has {count}", problems, remedy=REMEDY) from error
    return config


def _flatten(messages: Any, raw: Any, path: str) -> list[tuple[str, str]]:
    """Marshmallow's nested messages as (path, message) pairs.

    Args:
        raw: the value at ``path`` in the file. If it is a single value that stands for a section or a list
            (``check.run: [a]``, ``spack.target: zen4``), the path ends there.
    """
    if isinstance(messages, list):
        return [(path, _MESSAGES.get(message, str(message))) for message in messages]
    problems = []
    for key, inner in messages.items():
        if key == "_schema":
            problems += _flatten(inner, raw, path or "(file)")
        elif isinstance(raw, list):
            problems += _flatten(inner, raw[key], f"{path}[{key}]")
        elif isinstance(raw, dict):
            problems += _flatten(inner, raw.get(key), f"{path}.{key}".lstrip(".") or repr(key))
        else:
            problems += _flatten(inner, raw, path)
    return problems
