"""Reads YAML. Duplicate keys and aliases are errors, because they hide the content of a file."""

from __future__ import annotations

import re
from typing import Any

from ..core.errors import ConfigError
from .files import is_deep

REMEDY = "correct the file, then: petal-node plan --config FILE"
# Raised by PyYAML if a tag does not fit its value: !!int "", !!bool x, !!map [1], 2026-02-31.
_BY_TAGS = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


def read_yaml(data: bytes | str, name: str, *, aliases: bool = False) -> dict[str, Any]:
    """A YAML mapping; empty for an empty file.

    Args:
        aliases: accept aliases and duplicate keys, which other programs write. The document may then contain itself,
            so do not traverse it completely.

    Raises:
        ConfigError: ``config-syntax``.
    """
    import yaml

    try:
        loaded = yaml.load(data, Loader=yaml.SafeLoader if aliases else _strict_loader())  # noqa: S506 - safe both
    except (yaml.YAMLError, *_BY_TAGS, RecursionError) as error:
        text = " ".join(str(error).split()) or type(error).__name__
        why = re.sub(r'"<(byte|unicode) string>"', lambda _: name, text)
        raise ConfigError(f"{name} is not YAML", why=why, remedy=REMEDY, code="config-syntax") from error
    if loaded is None:
        return {}
    if isinstance(loaded, dict) and (aliases or not is_deep(loaded)):
        return loaded
    is_mapping = isinstance(loaded, dict)
    why = "its values are nested too deeply" if is_mapping else "the top level must be a mapping (KEY: VALUE)"
    raise ConfigError(f"{name} is not a configuration", why=why, remedy=REMEDY, code="config-syntax")


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
