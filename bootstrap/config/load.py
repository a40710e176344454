"""petal.yaml -> a frozen ``Config``, or every mistake in it at once, each with its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..core.errors import ConfigError
from ..host.yaml_text import REMEDY, read_yaml
from .model import Config


def parse(data: bytes | str, name: str = "petal.yaml") -> Config:
    """Reads a configuration.

    Args:
        data: the file's content, YAML or JSON.
        name: what messages call the file.

    Raises:
        ConfigError: with every mistake in ``problems``, exit code 78.
    """
    return from_mapping(read_yaml(data, name), name)


def from_mapping(raw: Mapping[str, Any], name: str = "petal.yaml") -> Config:
    """Checks a configuration that has been read already (``wanted.json`` carries one).

    Raises:
        ConfigError: as ``parse``.
    """
    from marshmallow import ValidationError

    from .schema import ConfigSchema

    try:
        config: Config = ConfigSchema().load(dict(raw))
    except ValidationError as error:
        problems = sorted(_flatten(error.messages, raw, ""))
        raise ConfigError(f"{name} has {_count(len(problems))}", problems, remedy=REMEDY) from error
    return config


def _count(number: int) -> str:
    return "1 mistake" if number == 1 else f"{number} mistakes"


def _flatten(messages: Any, raw: Any, path: str) -> list[tuple[str, str]]:
    """Marshmallow's nested messages as (path, message) pairs; ``raw`` is what stands at ``path`` in the file."""
    if isinstance(messages, list):
        return [(path, str(message)) for message in messages]
    problems = []
    for key, inner in messages.items():
        if key == "_schema":
            problems += _flatten(inner, raw, path or "(file)")
        elif isinstance(raw, list):
            problems += _flatten(inner, raw[key], f"{path}[{key}]")
        else:
            below = raw.get(key) if isinstance(raw, dict) else None
            problems += _flatten(inner, below, f"{path}.{key}".lstrip(".") or repr(key))
    return problems
