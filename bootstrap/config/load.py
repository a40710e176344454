"""Reads petal.yaml: returns a frozen ``Config``, or reports its mistakes together, each with its path.

A rule for several keys of a section is checked only if each of them is valid (marshmallow, ``skip_on_field_errors``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..core.errors import ConfigError
from ..core.text import count
from ..host.yaml_text import join, read_document
from .model import Config

# The messages of marshmallow's fields, in terms of a YAML file.
_MESSAGES = {
    "Missing data for required field.": "is required",
    "Field may not be null.": "has no value: give it one, or remove the key",
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
    document = read_document(data, name)
    if not document.content and not document.problems:
        why = "an empty file, for example from an interrupted upload, would remove all software"
        remedy = ("write the file again", "for a cluster without software: stack: none")
        raise ConfigError(f"{name} is empty", why=why, remedy=remedy, code="config-syntax")
    is_unread = bool(document.problems)
    config, mistakes = _load(document.content)
    for path, message in mistakes:
        document.add(path, message)
    if config is None or is_unread:
        error = document.error("config-syntax" if is_unread else "config-invalid")
        stack, checksum = (document.content.get(key) for key in ("stack", "stack_sha256"))
        if isinstance(stack, str) and not any(path.startswith("stack") for path, _ in mistakes):
            error.stack = stack, checksum, document.place(document.lines["stack"])
        raise error
    return replace(config, places={path: document.place(line) for path, line in document.lines.items()})


def from_mapping(raw: Mapping[str, Any], name: str = "petal.yaml") -> Config:
    """Checks a configuration that is parsed already, such as the one in the desired state.

    Raises:
        ConfigError: as ``parse``.
    """
    config, mistakes = _load(raw)
    if config is None:
        remedy = "on the head node: petal-node bootstrap --config FILE"
        raise ConfigError(f"{name} has {count(len(mistakes), 'mistake')}", mistakes, remedy=remedy)
    return config


def _load(raw: Mapping[str, Any]) -> tuple[Config | None, list[tuple[str, str]]]:
    """The configuration, or None and its mistakes."""
    from marshmallow import ValidationError

    from .schema import ConfigSchema

    try:
        return ConfigSchema().load(dict(raw)), []
    except ValidationError as error:
        return None, sorted(_flatten(error.messages, raw, ""))


def _flatten(messages: Any, raw: Any, path: str) -> list[tuple[str, str]]:
    """Marshmallow's nested messages as (path, message) pairs.

    Args:
        raw: the value at ``path`` in the file. If it is a single value that stands for a section or a list
            (``check.run: [a]``, ``spack.target: zen4``), the path ends there.
    """
    if isinstance(messages, list):
        words = {**_MESSAGES, "Not a valid string.": _no_string(raw)}
        return [(path, words.get(message, str(message))) for message in messages]
    problems = []
    for key, inner in messages.items():
        if key == "_schema":
            problems += _flatten(inner, raw, path or "(file)")
        elif isinstance(raw, list) and isinstance(key, int):
            problems += _flatten(inner, raw[key], f"{path}[{key}]")
        elif isinstance(raw, dict):
            problems += _flatten(inner, raw.get(key), join(path, key))
        else:
            problems += _flatten(inner, raw, path)
    return problems


def _no_string(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return f"must be a string, not a {'section' if isinstance(value, dict) else 'list'}"
    if isinstance(value, bool):
        return 'must be a string: YAML reads yes, no, on and off as true or false, so write it in quotes: "on"'
    kind = "number" if isinstance(value, (int, float)) else type(value).__name__
    return f'must be a string: YAML reads a {kind} here, so write it in quotes, such as "24.10"'
