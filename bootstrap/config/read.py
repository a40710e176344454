"""petal.yaml -> a frozen ``Config``, or every mistake in it at once, each with its path.

The only door to YAML. Keys that are written twice and YAML aliases are mistakes here: both hide what a file says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..files import is_deep
from .nouns import Config

REMEDY = "correct the file, then: petal-node plan --config FILE"
# What PyYAML's constructors raise where a tag does not fit its value: !!int "", !!bool x, !!map [1], 2026-02-31.
_BY_TAGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


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


def read_yaml(data: bytes | str, name: str, *, aliases: bool = False) -> dict[str, Any]:
    """A YAML mapping; an empty file is an empty one.

    Args:
        aliases: also read aliases and keys that are twice there, as other programs write them. The document may then
            hold itself: only what is looked for may be visited.

    Raises:
        ConfigError: ``config-syntax``.
    """
    import yaml

    try:
        loaded = yaml.load(data, Loader=yaml.SafeLoader if aliases else _strict_loader())  # noqa: S506 - safe both
    except (yaml.YAMLError, *_BY_TAGS, RecursionError) as error:
        why = (
            (" ".join(str(error).split()) or type(error).__name__)
            .replace('"<byte string>"', name)
            .replace('"<unicode string>"', name)
        )
        raise ConfigError(f"{name} is not YAML", why=why, remedy=REMEDY, code="config-syntax") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        why = f"it holds {type(loaded).__name__}, a mapping is needed"
        raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")
    if not aliases and is_deep(loaded):
        why = "its values are nested too deeply"
        raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")
    return loaded


def _strict_loader() -> Any:
    import yaml

    class Strict(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
                raise yaml.composer.ComposerError(None, None, "aliases (*name) are not read", mark)
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen: set[str] = set()
            for key, _ in node.value:
                if str(key.value) in seen:
                    what = f"the key {key.value!r} is written twice"
                    raise yaml.constructor.ConstructorError(None, None, what, key.start_mark)
                seen.add(str(key.value))
            return super().construct_mapping(node, deep)

    return Strict


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
